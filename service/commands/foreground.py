"""Runs a job here, with its progress on standard error, and turns its failure back into an error.

The job is recorded as the server would record it. Knows nothing of what jobs do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from data import errors
from data.errors import JobCancelled, RagtuneError
from data.protocols import Report
from data.records import Job
from service.commands.progress import ProgressView
from service.jobs import run_job, submit

if TYPE_CHECKING:
    from service.workspace import Workspace


def run_here(
    workspace: Workspace, kind: str, inputs: Mapping[str, Any], *, title: str = "", watch: Report | None = None
) -> dict[str, Any]:
    """Run one job in this process and return its outputs.

    Args:
        workspace: what the job works on; the caller holds its lock.
        kind: the kind of job.
        inputs: the job's inputs, as the HTTP route of the same kind records them.
        title: what the progress is headed with; the kind by default.
        watch: receives the progress instead of the terminal.

    Raises:
        JobCancelled: somebody cancelled it.
        RagtuneError: of the type the job failed with.
    """
    job = submit(workspace.store, kind, inputs)
    if watch is not None:
        return outputs_of(run_job(workspace, job.id, watch=watch, on_interrupt="cancelled"))
    with ProgressView(title or kind) as view:
        # The command goes on from what the work left; a server must not take the job up uninvited.
        done = run_job(workspace, job.id, watch=view, on_interrupt="cancelled")
    return outputs_of(done)


def outputs_of(job: Job) -> dict[str, Any]:
    """Return the outputs of a finished job, or raise what it failed with."""
    if job.status == "succeeded":
        return dict(job.outputs)
    if job.status == "cancelled":
        raise JobCancelled("The job was cancelled", got=job.id)
    raise error_of(job.error or {})


def error_of(problem: Mapping[str, Any]) -> RagtuneError:
    """Return the error that a problem object describes."""
    name = "".join(part.title() for part in str(problem.get("type", "")).split("-"))
    kind: type[RagtuneError] = getattr(errors, name, RagtuneError)
    return kind(
        str(problem.get("detail") or "The job failed"),
        got=problem.get("got"),
        wanted=str(problem.get("wanted") or ""),
        hint=str(problem.get("hint") or ""),
    )
