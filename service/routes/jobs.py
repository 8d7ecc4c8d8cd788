"""``/v1/jobs``: long work, its progress as events, and how to stop it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated, Any

import anyio
from anyio.to_thread import run_sync
from fastapi import APIRouter, Depends, Header
from fastapi.sse import EventSourceResponse, ServerSentEvent

from data.errors import InvalidRequest
from data.numbers import whole_number
from data.records import Job, JobStatus
from data.store.jobs import FINAL
from service import api_models as models
from service.access import wants
from service.deps import Limit, RunnerDep, WorkspaceDep
from service.jobs import RESUMABLE
from service.views import job_view
from service.workspace import Workspace

router = APIRouter(prefix="/jobs", tags=["jobs"], dependencies=[wants("ingest", "train")])

_POLL_S, _LONGEST_POLL_S = 0.2, 1.0
"""Between two looks into the store: longer and longer while a job has nothing to say."""


@router.get("", responses={200: {"model": models.JobList}})
def list_jobs(workspace: WorkspaceDep, status: JobStatus | None = None, limit: Limit = 50) -> dict[str, Any]:
    """Return the newest jobs."""
    return {"jobs": [job_view(job) for job in workspace.store.jobs.list(status, limit)]}


@router.get("/{job_id}", responses={200: {"model": models.Job}})
def get_job(job_id: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """Return a job with its progress and, at its end, its outputs or its error."""
    return job_view(workspace.store.jobs.get(job_id))


@router.post("/{job_id}/cancel", responses={200: {"model": models.Job}})
def cancel_job(job_id: str, runner: RunnerDep) -> dict[str, Any]:
    """Ask a job to stop; within 2 seconds it is ``cancelled``. One that has ended stays as it is."""
    return job_view(runner.cancel(job_id))


def existing_job(job_id: str, workspace: WorkspaceDep) -> Job:
    """Return the job of a path, before a stream begins."""
    return workspace.store.jobs.get(job_id)


def last_event(last_event_id: Annotated[str | None, Header(alias="Last-Event-ID")] = None) -> int:
    """Return the number of the last event a client has seen."""
    if last_event_id is None or last_event_id == "":
        return 0
    number = whole_number(last_event_id)
    if number is None:
        raise InvalidRequest("Last-Event-ID is no event number", got=last_event_id, wanted="the id of an earlier event")
    return number


def is_over(job: Job) -> bool:
    """Tell whether nothing more will happen to a job by itself."""
    return job.status in FINAL or (job.status == "interrupted" and job.kind not in RESUMABLE)


async def follow(workspace: Workspace, job_id: str, after: int) -> AsyncIterator[ServerSentEvent]:
    """Yield a job's events from the one after ``after`` to its end."""
    jobs = workspace.store.jobs
    wait_s = _POLL_S
    while True:
        # Read before the events: what a job wrote before it ended is then never missed.
        ended = is_over(await run_sync(jobs.get, job_id))
        news = await run_sync(jobs.events, job_id, after)
        for number, event in news:
            after = number
            yield ServerSentEvent(id=str(number), event="end" if event["status"] in FINAL else "progress", data=event)
        if ended:
            return
        wait_s = _POLL_S if news else min(_LONGEST_POLL_S, 1.5 * wait_s)
        await anyio.sleep(wait_s)


@router.get("/{job_id}/events", response_class=EventSourceResponse)
async def job_events(
    job: Annotated[Job, Depends(existing_job)], after: Annotated[int, Depends(last_event)], workspace: WorkspaceDep
) -> AsyncIterator[ServerSentEvent]:
    """Stream progress events; ``Last-Event-ID`` continues after the event of that number."""
    async for event in follow(workspace, job.id, after):
        yield event
