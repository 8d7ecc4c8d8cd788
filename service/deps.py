"""What routes ask FastAPI for: the workspace, the job runner, and a caller with a valid key."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Annotated, cast

from fastapi import Depends, Header, Query, Request
from fastapi.responses import JSONResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from data.errors import Unauthorized
from service.jobs import submit
from service.runner import JobRunner
from service.workspace import Workspace

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

_bearer = HTTPBearer(auto_error=False, description="An API key: `ragtune keys create NAME`.")


def get_workspace(request: Request) -> Workspace:
    """Return the app's workspace."""
    return cast(Workspace, request.app.state.workspace)


def get_runner(request: Request) -> JobRunner:
    """Return the app's job runner."""
    return cast(JobRunner, request.app.state.runner)


WorkspaceDep = Annotated[Workspace, Depends(get_workspace)]
RunnerDep = Annotated[JobRunner, Depends(get_runner)]
IdempotencyKey = Annotated[
    str | None, Header(alias="Idempotency-Key", max_length=200, description="Repeats return the first job.")
]
Cursor = Annotated[str | None, Query(description="`next_cursor` of the page before.")]
Limit = Annotated[int, Query(ge=1, le=500)]


def require_key(
    workspace: WorkspaceDep, credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
) -> None:
    """Let a request through if no key exists anywhere, or if it carries one that is valid.

    Raises:
        Unauthorized: a key is needed and this is none.
    """
    configured = workspace.settings.api_key
    known = workspace.store.keys.list()
    if configured is None and not known:
        return
    given = credentials.credentials if credentials is not None else ""
    if configured is not None and hmac.compare_digest(given.encode(), configured.get_secret_value().encode()):
        return
    if given and workspace.store.keys.verify(given):
        return
    raise Unauthorized(
        "This server wants an API key" if not given else "The API key is wrong or revoked",
        wanted="Authorization: Bearer KEY",
        hint="Make a key with: ragtune keys create NAME",
    )


def accepted(
    workspace: Workspace, runner: JobRunner, kind: str, inputs: Mapping[str, Any], key: str | None
) -> JSONResponse:
    """Queue a job and return 202 with its id.

    Raises:
        Conflict: the idempotency key was used with other inputs.
    """
    job = submit(workspace.store, kind, inputs, key)
    runner.wake()
    return JSONResponse(
        {"job_id": job.id, "kind": job.kind, "status": job.status},
        status_code=202,
        headers={"Location": f"/v1/jobs/{job.id}"},
    )
