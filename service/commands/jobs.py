"""Commands about long work: jobs."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, get_args

import typer

from data.records import JobStatus
from service.commands.session import Json, print_fields, print_json, print_line, print_rows, session

jobs = typer.Typer(help="Long work: what runs, what ran.", no_args_is_help=True)


def moment(seconds: float | None) -> str:
    """Return Unix seconds as local time, "" for None."""
    return "" if seconds is None else datetime.fromtimestamp(seconds).astimezone().isoformat(" ", "seconds")


def _status(value: str | None) -> str | None:
    if value is not None and value not in get_args(JobStatus):
        raise typer.BadParameter(f"{value!r} is not one of {', '.join(get_args(JobStatus))}")
    return value


@jobs.command("list")
def list_jobs(
    ctx: typer.Context,
    status: Annotated[str | None, typer.Option(callback=_status, help="Only jobs in this state.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=500)] = 50,
    as_json: Json = False,
) -> None:
    """List jobs, newest first."""
    from service.views import job_view

    with session(ctx).workspace() as workspace:
        found = workspace.store.jobs.list(status, limit)  # type: ignore[arg-type]  # checked by _status
    if as_json:
        print_json([job_view(job) for job in found])
        return
    rows = [
        (job.id, job.kind, job.status, f"{job.progress.done}/{job.progress.total}", moment(job.created_at))
        for job in found
    ]
    print_rows(("id", "kind", "status", "progress", "created"), rows, "No jobs yet.")


@jobs.command("show")
def show_job(ctx: typer.Context, job_id: Annotated[str, typer.Argument()], as_json: Json = False) -> None:
    """Show one job."""
    from service.views import job_view

    with session(ctx).workspace() as workspace:
        job = workspace.store.jobs.get(job_id)
    if as_json:
        print_json(job_view(job))
        return
    fields = {"id": job.id, "kind": job.kind, "status": job.status}
    fields |= {"progress": f"{job.progress.done}/{job.progress.total} {job.progress.unit} {job.progress.stage}".strip()}
    fields |= {"created": moment(job.created_at), "finished": moment(job.finished_at)}
    print_fields({**fields, "inputs": dict(job.inputs), "outputs": dict(job.outputs), "error": job.error or ""})


@jobs.command("cancel")
def cancel_job(ctx: typer.Context, job_id: Annotated[str, typer.Argument()], as_json: Json = False) -> None:
    """Ask a job to stop; whoever runs it notices within seconds."""
    from service.views import job_view

    # Without the lock, on purpose: what runs the job holds it.
    with session(ctx).workspace() as workspace:
        workspace.store.jobs.request_cancel(job_id)
        job = workspace.store.jobs.get(job_id)
    if as_json:
        print_json(job_view(job))
    else:
        print_line(f"Job {job.id} was asked to stop; it is {job.status}.")
