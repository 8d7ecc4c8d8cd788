"""Long work: what kinds there are, how one job runs, and the process a job runs in.

``run_job`` runs one job here (the command line does, in the foreground); ``python -m service.jobs
--state DIR --job ID`` runs one in a child process (the server does, see ``runner``). A job's row is
the truth about it: progress, cancellation and its end all go through the store.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import socket
import sys
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NoReturn

from data.access import MACHINE, Access, acting
from data.errors import Conflict, InvalidRequest, JobCancelled, RagtuneError
from data.protocols import Report
from data.records import Job, JobStatus, Progress
from service.arms import did_you_mean
from service.problems import internal_error, problem
from service.request_ids import under_id
from service.server_log import keep_urls_out
from service.spans import job_span, tracing
from service.uploads import release_upload
from service.work.failures import WorkFailed

if TYPE_CHECKING:
    from data.state import StateDirectory
    from data.store import Store
    from service.workspace import Workspace

log = logging.getLogger(__name__)

_KINDS = (
    "ingest",
    "rebuild",
    "verify",
    "compact",
    "pairs",
    "import_pairs",
    "export_pairs",
    "train",
    "estimate",
    "import_adapter",
    "evaluate",
    "calibrate",
    "tune_retriever",
    "promote_retriever",
    "loop",
)
_BOUND = "bound_to"
WORK = {kind: f"service.work.{kind}" for kind in _KINDS}
"""The module of each kind of job; ``run(workspace, inputs, report)`` returns the outputs. Inputs hold a ``job_id``."""
HEAVY = frozenset(("pairs", "train", "estimate", "import_adapter", "evaluate", "calibrate", "tune_retriever", "loop"))
"""Kinds that load the base model, or train: one of them runs at a time."""
RESUMABLE = frozenset(_KINDS)
"""Kinds that continue where they stopped, or can begin again and change nothing twice, so an interrupted
one is queued again."""

_NICE = 10
"""Jobs give way: answers and searches of the server come first (bench/scale measures what a rebuild costs them)."""
BEAT_S = 0.5
GRACE_S = 1.0
"""A cancelled job that has not reported for so long is ended; with BEAT_S this keeps within 2 s."""
_REPORT_EVERY_S = 0.25


def submit(store: Store, kind: str, inputs: Mapping[str, Any], idempotency_key: str | None = None) -> Job:
    """Queue a job and return it; the same key with the same inputs returns the job made before.

    Raises:
        InvalidRequest: there is no such kind.
        Conflict: the key was used with other inputs.
    """
    if kind not in WORK:
        raise InvalidRequest("No such kind of job", got=kind, wanted=", ".join(WORK), hint=did_you_mean(kind, WORK))
    return store.jobs.create(kind, dict(inputs), idempotency_key)


def submitted_by(access: Access) -> dict[str, Any]:
    """Return what a job has to remember of who asked for it: the collections that it is bound to, if it is."""
    return {_BOUND: sorted(access.collections)} if access.collections else {}


def submitter(job: Job) -> Access:
    """Return who a job acts as: it may know of no more than who asked for it."""
    return replace(MACHINE, collections=frozenset(job.inputs.get(_BOUND, ())))


def run_job(
    workspace: Workspace,
    job_id: str,
    *,
    watch: Report | None = None,
    on_stuck: Callable[[], None] | None = None,
    on_interrupt: JobStatus = "interrupted",
    worker: str | None = None,
) -> Job:
    """Run one queued job to its end and return it.

    A failure is recorded in the job, not raised. ``KeyboardInterrupt`` makes the job ``on_interrupt``
    and is raised again.

    Args:
        workspace: what the job works on.
        job_id: of a job that is queued or was interrupted.
        watch: also receives every progress report (a terminal's progress bar, say).
        on_interrupt: what a stopped job becomes; a server takes an ``interrupted`` one up again.
        on_stuck: called when the job was cancelled and does not react within ``GRACE_S``.
        worker: has claimed the job already; None claims it here.

    Raises:
        UnknownJob: there is none.
        Conflict: it runs already, or has ended.
    """
    jobs = workspace.store.jobs
    claimed_here, worker = worker is None, worker or worker_name()
    job = jobs.claim_one(job_id, worker, workspace.settings.lease_s)
    pulse = Pulse(workspace.store, job_id, worker, watch=watch, on_stuck=on_stuck)
    try:
        with pulse:
            inputs = {name: value for name, value in job.inputs.items() if name != _BOUND} | {"job_id": job.id}
            with acting(submitter(job)), under_id(job.id), job_span(job):
                outputs = import_module(WORK[job.kind]).run(workspace, inputs, pulse.report)
    except JobCancelled:
        return _over(workspace, job_id, "cancelled", worker=worker)
    except KeyboardInterrupt:
        _over(workspace, job_id, on_interrupt, worker=worker)
        raise
    except WorkFailed as failure:
        return _over(workspace, job_id, "failed", outputs=failure.outputs, error=problem(failure.error), worker=worker)
    except RagtuneError as error:
        log.exception("job %s (%s) failed", job_id, job.kind)
        return _over(workspace, job_id, "failed", error=problem(error), worker=worker)
    except Exception as error:
        _log_unexpected(workspace, job, error, here=claimed_here)
        return _over(workspace, job_id, "failed", error=internal_error(job_id), worker=worker)
    return _over(workspace, job_id, "succeeded", outputs=outputs, worker=worker)


def job_log(state: StateDirectory, job_id: str) -> Path:
    """Return where the log of a job is, or will be."""
    return state.logs / f"job-{job_id}.log"


def open_job_log(state: StateDirectory, job_id: str) -> BinaryIO:
    """Open the log of a job to add to it; its owner alone can read it."""
    state.logs.mkdir(parents=True, exist_ok=True)
    return open(job_log(state, job_id), "ab", opener=lambda path, flags: os.open(path, flags, 0o600))


def _log_unexpected(workspace: Workspace, job: Job, error: Exception, *, here: bool) -> None:
    """Log an error that nobody expected: of it the job says its own id alone.

    The server keeps what the job's process logs. Of a job that a command runs (``here``) nobody does, so the error is
    written where the id is looked for.
    """
    log.error("job %s (%s) failed unexpectedly", job.id, job.kind, exc_info=error)
    if here:
        told = "".join(traceback.format_exception(error))
        # A full disk must not hide the error, nor keep the job from ending.
        with suppress(OSError), open_job_log(workspace.state, job.id) as file:
            file.write(f"job {job.id} ({job.kind}) failed unexpectedly\n{told}".encode(errors="backslashreplace"))


def worker_name() -> str:
    """Return a name that no other worker has, on this machine or another."""
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def _over(workspace: Workspace, job_id: str, status: JobStatus, **ending: Any) -> Job:
    """End a job, and remove the files that were kept for it unless it goes on later."""
    job = end_job(workspace.store, job_id, status, **ending)
    release_upload(workspace.state, job)
    return job


def end_job(
    store: Store,
    job_id: str,
    status: JobStatus,
    *,
    outputs: Mapping[str, Any] | None = None,
    error: Mapping[str, Any] | None = None,
    worker: str | None = None,
) -> Job:
    """End a job unless someone else has ended it or taken it over; return it as it is then."""
    try:
        return store.jobs.finish(job_id, status, outputs, error, worker)
    except Conflict:
        log.info("job %s had ended before it could become %s", job_id, status)
        return store.jobs.get(job_id)


class Pulse:
    """Keeps a running job's lease, passes its progress on, and notices that it was cancelled."""

    def __init__(
        self,
        store: Store,
        job_id: str,
        worker: str,
        *,
        watch: Report | None = None,
        on_stuck: Callable[[], None] | None = None,
    ) -> None:
        self._store = store
        self._job_id = job_id
        self._worker = worker
        self._watch = watch
        self._on_stuck = on_stuck
        self._progress = Progress()
        self._written = 0.0
        self._stage_started = time.monotonic()
        self._stop = threading.Event()
        self._cancelled = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"pulse-{job_id}", daemon=True)

    def __enter__(self) -> Pulse:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def report(self, progress: Progress) -> None:
        """Take a progress report, with the time to go filled in where the job left it open.

        Raises:
            JobCancelled: the job was asked to stop.
        """
        if self._cancelled.is_set():
            raise JobCancelled("The job was cancelled", got=self._job_id)
        changed = progress.stage != self._progress.stage or progress.total != self._progress.total
        if changed:
            self._stage_started = time.monotonic()
        self._progress = self._with_eta(progress)
        if self._watch is not None:
            self._watch(self._progress)
        if changed or progress.done >= progress.total or time.monotonic() - self._written >= _REPORT_EVERY_S:
            self._written = time.monotonic()
            self._store.jobs.heartbeat(self._job_id, self._progress, self._worker)

    def _with_eta(self, progress: Progress) -> Progress:
        if progress.eta_s is not None or not 0 < progress.done <= progress.total:
            return progress
        elapsed = time.monotonic() - self._stage_started
        return replace(progress, eta_s=round(elapsed * (progress.total - progress.done) / progress.done, 1))

    def _beat(self) -> None:
        while not self._stop.wait(BEAT_S):
            try:
                self._store.jobs.heartbeat(self._job_id, self._progress, self._worker)
            except JobCancelled:
                self._cancelled.set()
                if not self._stop.wait(GRACE_S) and self._on_stuck is not None:
                    self._on_stuck()
                return


def main(arguments: list[str] | None = None) -> int:
    """Run one job in this process, as a child of the server; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m service.jobs", description="Run one queued job.")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--job", required=True)
    parser.add_argument("--worker", help="has claimed the job")
    options = parser.parse_args(arguments)

    from service.settings import Settings
    from service.workspace import Workspace

    settings = Settings.load(state_dir=options.state)
    logging.basicConfig(level=settings.log_level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    keep_urls_out()
    signal.signal(signal.SIGTERM, _interrupt)
    _end_with_parent()
    os.nice(_NICE)
    with tracing(), Workspace(settings) as workspace:
        if not workspace.shares_state:
            workspace.state.join()

        def stuck() -> None:
            end_job(workspace.store, options.job, "cancelled", worker=options.worker)
            os.killpg(os.getpgid(0), signal.SIGKILL)

        try:
            job = run_job(workspace, options.job, on_stuck=stuck, worker=options.worker)
        except KeyboardInterrupt:
            return 1
    return 0 if job.status == "succeeded" else 1


def _interrupt(_signum: int, _frame: object) -> NoReturn:
    raise KeyboardInterrupt


def _end_with_parent() -> None:
    """End this process when its parent does: nobody would cancel it any more."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(BEAT_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent-watch", daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
