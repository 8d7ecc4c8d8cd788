"""What routes ask FastAPI for: the workspace, the job runner, and common parameters.

What does not wait is ``async``: FastAPI would start a thread for each of the others, for each request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, cast

from fastapi import Depends, Header, Query, Request
from fastapi.responses import JSONResponse

from data.access import MACHINE, current
from data.errors import RagtuneError
from service.jobs import submit, submitted_by
from service.runner import JobRunner
from service.uploads import discard_upload, release_upload
from service.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any


async def get_workspace(request: Request) -> Workspace:
    """Return the app's workspace."""
    return cast(Workspace, request.app.state.workspace)


async def get_runner(request: Request) -> JobRunner:
    """Return the app's job runner."""
    return cast(JobRunner, request.app.state.runner)


async def get_actor() -> str:
    """Return who asks, for the log: the key's name, or that the service wants no key."""
    access = current()
    return "http without a key" if access is MACHINE else f"key {access.name}"


WorkspaceDep = Annotated[Workspace, Depends(get_workspace)]
ActorDep = Annotated[str, Depends(get_actor)]
RunnerDep = Annotated[JobRunner, Depends(get_runner)]
IdempotencyKey = Annotated[
    str | None,
    Header(alias="Idempotency-Key", max_length=200, description="Repeats by the same key return the first job."),
]
Cursor = Annotated[str | None, Query(description="`next_cursor` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=500)]


def accepted(
    workspace: Workspace, runner: JobRunner, kind: str, inputs: Mapping[str, Any], key: str | None
) -> JSONResponse:
    """Queue a job and return 202 with its id; files kept for it go where it is refused or had ended before.

    Raises:
        Conflict: the idempotency key was used with other inputs.
    """
    try:
        job = submit(workspace.store, kind, {**inputs, **submitted_by(current())}, key)
    except RagtuneError:
        discard_upload(workspace.state, inputs)
        raise
    release_upload(workspace.state, job)
    runner.wake()
    return JSONResponse(
        {"job_id": job.id, "kind": job.kind, "status": job.status},
        status_code=202,
        headers={"Location": f"/v1/jobs/{job.id}"},
    )
