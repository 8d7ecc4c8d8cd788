"""Runs queued jobs in child processes while the server serves.

One heavy job at a time, and beside it one light one, so that an upload does not wait for a training.
A child that dies takes no one with it: its job is marked failed. Knows nothing of what jobs do.
"""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from data.errors import DatabaseUnavailable
from data.records import Job, JobStatus
from service.jobs import BEAT_S, GRACE_S, HEAVY, RESUMABLE, WORK, end_job, open_job_log, worker_name
from service.uploads import release_upload, sweep_uploads

if TYPE_CHECKING:
    from service.workspace import Workspace

log = logging.getLogger(__name__)

STOP_S = 5.0
"""How long children get to stop by themselves when the server stops."""
START_S = 60.0
"""The lease of a job whose child has not begun: loading the libraries takes seconds, a minute on a busy machine."""
RETRY_S = 2.0
"""How long to leave a database that is down alone."""
DAY_S = 86_400.0
_LISTED = 200


@dataclass(slots=True)
class _Child:
    job_id: str
    worker: str
    process: subprocess.Popen[bytes]
    kill_at: float | None = None


class JobRunner:
    """Starts, watches, cancels and ends the job processes of one server.

    Several servers may take jobs from one store: each job is claimed before its child starts.
    """

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace
        self._children: dict[str, _Child] = {}
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._mutex = threading.Lock()
        self._swept = False
        self._thread = threading.Thread(target=self._run, name="job-runner", daemon=True)

    def start(self) -> None:
        """Begin running queued jobs, the ones a former server left behind included."""
        if not self._workspace.shares_state:
            sweep_uploads(self._workspace.state, self._workspace.store)
            self._swept = True
        self._thread.start()

    def wake(self) -> None:
        """Look for queued jobs now (after one was created)."""
        self._wake.set()

    def cancel(self, job_id: str) -> Job:
        """Ask a job to stop; a child that does not react is killed. Return the job as it is now.

        Raises:
            UnknownJob: there is no such job.
        """
        self._workspace.store.jobs.request_cancel(job_id)
        with self._mutex:
            for child in self._children.values():
                if child.job_id == job_id and child.kill_at is None:
                    child.kill_at = time.monotonic() + BEAT_S + GRACE_S
        self._wake.set()
        job = self._workspace.store.jobs.get(job_id)
        release_upload(self._workspace.state, job)
        return job

    def stop(self) -> None:
        """Stop every child (its job is marked interrupted) and the runner itself."""
        self._stopping.set()
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        for child in self._children.values():
            child.process.terminate()
        deadline = time.monotonic() + STOP_S
        for child in self._children.values():
            try:
                child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                self._kill(child)
            self._settle(child, "interrupted")
        self._children.clear()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                with self._mutex:
                    self._sweep_shared()
                    self._reap()
                    self._requeue()
                    self._start_queued()
            except DatabaseUnavailable as error:
                log.warning("no jobs are run: %s", error.detail)
                self._stopping.wait(RETRY_S)
            except Exception:
                log.exception("the job runner failed; it goes on")
            self._wake.wait(BEAT_S)
            self._wake.clear()

    def _sweep_shared(self) -> None:
        """Remove the files of jobs that are no more, but none that another server may be receiving now."""
        if not self._swept:
            sweep_uploads(self._workspace.state, self._workspace.store, older_than_s=DAY_S)
            self._swept = True

    def _reap(self) -> None:
        for lane, child in list(self._children.items()):
            if child.process.poll() is not None:
                self._settle(child, "cancelled" if child.kill_at is not None else "failed")
                del self._children[lane]
            elif child.kill_at is not None and time.monotonic() > child.kill_at:
                self._kill(child)
                self._settle(child, "cancelled")
                del self._children[lane]

    def _settle(self, child: _Child, status: JobStatus) -> None:
        """Record the end of a job whose process ended without doing so."""
        store = self._workspace.store
        job = store.jobs.get(child.job_id)
        if job.status != "running":
            release_upload(self._workspace.state, job)
            return
        error = None
        if status == "failed":
            code = child.process.returncode
            how = f"signal {-code}" if code < 0 else f"exit status {code}"
            error = {
                "type": "job-crashed",
                "title": "The process of a job ended before the job did.",
                "status": 500,
                "detail": f"The job's process ended with {how}",
                "got": how,
                "wanted": "",
                "hint": f"See logs/job-{child.job_id}.log in the state directory; "
                "a kill signal often means too little memory.",
            }
        # Ends only what is still this worker's: a lease that ran out meanwhile may have given the job to another.
        release_upload(self._workspace.state, end_job(store, child.job_id, status, error=error, worker=child.worker))

    def _requeue(self) -> None:
        jobs = self._workspace.store.jobs
        jobs.interrupt_expired()
        for job in jobs.list("interrupted", _LISTED):
            if job.kind in RESUMABLE:
                jobs.requeue(job.id)

    def _start_queued(self) -> None:
        for lane, kinds in (("heavy", HEAVY), ("light", WORK.keys() - HEAVY)):
            if lane in self._children:
                continue
            worker = worker_name()
            job = self._workspace.store.jobs.claim(worker, START_S, kinds)
            if job is not None:
                self._children[lane] = self._spawn(job, worker)

    def _spawn(self, job: Job, worker: str) -> _Child:
        settings = self._workspace.settings
        command = [sys.executable, "-m", "service.jobs", "--state", str(settings.state_dir.resolve()), "--job", job.id]
        command += ["--worker", worker]
        with open_job_log(self._workspace.state, job.id) as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=settings.environment(),
                start_new_session=True,
            )
        log.info("job %s (%s) runs in process %d", job.id, job.kind, process.pid)
        return _Child(job.id, worker, process)

    @staticmethod
    def _kill(child: _Child) -> None:
        """Kill a child and everything it started (it leads a process group of its own)."""
        try:
            os.killpg(child.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            log.debug("process %d had ended already", child.process.pid)
        child.process.wait()
