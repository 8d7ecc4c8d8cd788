"""Jobs: a queue with leases, so that work whose worker died is noticed and can be taken up again.

A worker claims a job for ``lease_s`` seconds and extends the lease with every heartbeat. Each
change is an event with a number of its own, which a client can replay from any point.
"""

from __future__ import annotations

import secrets
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

import sqlalchemy as sa

from data.access import current
from data.errors import Conflict, InvalidRequest, JobCancelled, UnknownJob
from data.records import Job, JobStatus, Progress, content_id
from data.store.database import Database, Row, check_limit, dump_json
from data.store.schema import job_events, jobs
from data.store.webhooks import announce

FINAL = ("succeeded", "failed", "cancelled")
"""Statuses that a job never leaves."""


def _seen(inputs: Mapping[str, Any]) -> bool:
    """Tell whether whoever asks may know of a job; one of no collection is for those who see all."""
    bound = current().collections
    return not bound or inputs.get("collection") in bound


def _job(row: Row) -> Job:
    return Job(
        id=row.id,
        kind=row.kind,
        status=row.status,
        progress=Progress(**row.progress),
        error=row.error,
        inputs=row.inputs,
        outputs=row.outputs,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
    )


class Jobs:
    """The job queue of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, kind: str, inputs: Mapping[str, Any], idempotency_key: str | None = None) -> Job:
        """Queue a job; the same key from the same sender with the same kind and inputs gives the job that exists.

        Raises:
            Conflict: the sender used the key for another kind or other inputs.
        """
        with self._database.write() as connection:
            kept_key = None
            if idempotency_key is not None:
                # A key is its sender's own: two who choose the same word must not learn of each other.
                kept_key = content_id(*current().identity, idempotency_key)
                query = sa.select(jobs).where(jobs.c.idempotency_key == kept_key)
                found = connection.execute(query).one_or_none()
                if found is not None:
                    if (found.kind, dump_json(found.inputs)) != (kind, dump_json(dict(inputs))):
                        raise Conflict("The idempotency key was used for another request.", got=idempotency_key)
                    return _job(found)
            job_id = secrets.token_hex(16)
            connection.execute(
                sa.insert(jobs).values(
                    id=job_id,
                    kind=kind,
                    status="queued",
                    progress=asdict(Progress()),
                    error=None,
                    inputs=dict(inputs),
                    outputs={},
                    idempotency_key=kept_key,
                    lease_s=0.0,
                    attempt=0,
                    cancel_requested=False,
                    last_event=0,
                    created_at=self._database.now(connection),
                )
            )
            return self._changed(connection, job_id)

    def get(self, job_id: str) -> Job:
        """Return a job.

        Raises:
            UnknownJob: there is none.
        """
        with self._database.read() as connection:
            return _job(self._require(connection, job_id))

    def claim(self, worker: str, lease_s: float, kinds: Collection[str] | None = None) -> Job | None:
        """Take the job (of ``kinds``, if given) that has been queued longest, None if there is none.

        Of several workers that ask at once each takes another job, without waiting for the others.
        """
        query = sa.select(jobs.c.id).where(jobs.c.status == "queued").order_by(jobs.c.key).limit(1)
        if kinds is not None:
            query = query.where(jobs.c.kind.in_(kinds))
        with self._database.write(alone=False) as connection:
            job_id = connection.execute(query.with_for_update(skip_locked=True)).scalar()
            return None if job_id is None else self._claim(connection, job_id, worker, lease_s)

    def claim_one(self, job_id: str, worker: str, lease_s: float) -> Job:
        """Take one job that is queued or was interrupted, or go on with one that is this worker's already.

        Raises:
            UnknownJob: there is none.
            Conflict: it runs already, or has ended.
        """
        with self._database.write() as connection:
            found = self._locked(connection, job_id)
            if found.status == "running" and found.worker == worker:
                lease = {"lease_s": lease_s, "lease_until": self._database.now(connection) + lease_s}
                connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(lease))
                return _job(found)
            if found.status not in ("queued", "interrupted"):
                raise Conflict("The job cannot be started.", got=found.status, wanted="a queued job")
            return self._claim(connection, job_id, worker, lease_s)

    def _claim(self, connection: sa.Connection, job_id: str, worker: str, lease_s: float) -> Job:
        now = self._database.now(connection)
        return self._changed(
            connection,
            job_id,
            status="running",
            worker=worker,
            lease_s=lease_s,
            lease_until=now + lease_s,
            attempt=jobs.c.attempt + 1,
            started_at=sa.func.coalesce(jobs.c.started_at, now),
        )

    def heartbeat(self, job_id: str, progress: Progress | None = None, worker: str | None = None) -> None:
        """Extend the lease and, if it changed, record the progress.

        Args:
            job_id: of a running job.
            progress: None to extend the lease only.
            worker: if given, the job must still be this worker's.

        Raises:
            JobCancelled: the job was asked to stop, has ended, or went to another worker.
            UnknownJob: there is none.
        """
        with self._database.write(alone=False) as connection:
            found = self._locked(connection, job_id)
            if found.cancel_requested:
                raise JobCancelled("The job was asked to stop.", got=job_id)
            if found.status != "running" or (worker is not None and found.worker != worker):
                raise JobCancelled("The job is no longer this worker's.", got=f"{job_id}: {found.status}")
            lease = {"lease_until": self._database.now(connection) + found.lease_s}
            values = found.progress if progress is None else asdict(progress)
            if dump_json(values) == dump_json(found.progress):
                connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(lease))
            else:
                self._changed(connection, job_id, progress=values, **lease)

    def finish(
        self,
        job_id: str,
        status: JobStatus,
        outputs: Mapping[str, Any] | None = None,
        error: Mapping[str, Any] | None = None,
        worker: str | None = None,
    ) -> Job:
        """End a job: succeeded, failed, cancelled, or interrupted (which may be taken up again).

        Raises:
            UnknownJob: there is none.
            InvalidRequest: the status does not end a job.
            Conflict: it has ended already, or went to another worker.
        """
        if status not in (*FINAL, "interrupted"):
            raise InvalidRequest("This status does not end a job.", got=status, wanted=", ".join(FINAL))
        with self._database.write() as connection:
            found = self._locked(connection, job_id)
            if found.status in FINAL or (worker is not None and found.worker != worker):
                raise Conflict("The job has ended, or is another worker's.", got=f"{job_id}: {found.status}")
            return self._changed(
                connection,
                job_id,
                status=status,
                outputs=dict(outputs or {}),
                error=None if error is None else dict(error),
                lease_until=None,
                finished_at=self._database.now(connection),
            )

    def request_cancel(self, job_id: str) -> Job:
        """Ask a job to stop: at once if no worker has it, else at its next heartbeat.

        A job that has ended stays as it is.

        Raises:
            UnknownJob: there is none.
        """
        with self._database.write() as connection:
            found = self._locked(connection, job_id)
            if found.status in FINAL or found.cancel_requested:
                return _job(found)
            if found.status == "running":
                return self._changed(connection, job_id, cancel_requested=True)
            now = self._database.now(connection)
            return self._changed(connection, job_id, status="cancelled", cancel_requested=True, finished_at=now)

    def cancel_requested(self, job_id: str) -> bool:
        """Tell whether a job was asked to stop.

        Raises:
            UnknownJob: there is none.
        """
        with self._database.read() as connection:
            return bool(self._require(connection, job_id).cancel_requested)

    def interrupt_expired(self) -> list[str]:
        """Mark running jobs whose lease ran out as interrupted (or cancelled, if asked to stop).

        Returns:
            The ids of those that can be taken up again.
        """
        interrupted = []
        with self._database.write(alone=False) as connection:
            now = self._database.now(connection)
            where = (jobs.c.status == "running") & (jobs.c.lease_until < now)
            expired = sa.select(jobs).where(where).order_by(jobs.c.key)
            for row in connection.execute(expired.with_for_update(skip_locked=True)).all():
                status = "cancelled" if row.cancel_requested else "interrupted"
                self._changed(connection, row.id, status=status, lease_until=None, finished_at=now)
                if status == "interrupted":
                    interrupted.append(row.id)
        return interrupted

    def requeue(self, job_id: str) -> Job:
        """Queue an interrupted job again.

        Raises:
            UnknownJob: there is none.
            Conflict: it was not interrupted.
        """
        with self._database.write() as connection:
            found = self._locked(connection, job_id)
            if found.status != "interrupted":
                raise Conflict("Only an interrupted job can be queued again.", got=f"{job_id}: {found.status}")
            return self._changed(connection, job_id, status="queued", worker=None, finished_at=None)

    def attempts(self, job_id: str) -> int:
        """Count how often a job was claimed.

        Raises:
            UnknownJob: there is none.
        """
        with self._database.read() as connection:
            return int(self._require(connection, job_id).attempt)

    def events(self, job_id: str, after: int = 0) -> list[tuple[int, dict[str, Any]]]:
        """Return (number, event) of each change after number ``after``, in order.

        An event is ``{"status", "progress", "error", "outputs", "cancel_requested", "at"}``.

        Raises:
            UnknownJob: there is none.
        """
        query = sa.select(job_events.c.seq, job_events.c.event).where(
            job_events.c.job_id == job_id, job_events.c.seq > after
        )
        with self._database.read() as connection:
            self._require(connection, job_id)
            return [(row.seq, row.event) for row in connection.execute(query.order_by(job_events.c.seq))]

    def _locked(self, connection: sa.Connection, job_id: str) -> Row:
        """Return a job that nobody else changes until this transaction ends."""
        return self._require(connection, job_id, sa.select(jobs).with_for_update())

    @staticmethod
    def _require(connection: sa.Connection, job_id: str, query: sa.Select[Any] | None = None) -> Row:
        chosen = sa.select(jobs) if query is None else query
        row = connection.execute(chosen.where(jobs.c.id == job_id)).one_or_none()
        if row is None or not _seen(row.inputs):
            raise UnknownJob("No such job.", got=job_id, hint="ragtune jobs list shows them.")
        return row

    def _changed(self, connection: sa.Connection, job_id: str, **values: Any) -> Job:
        change = values | {"last_event": jobs.c.last_event + 1}
        connection.execute(sa.update(jobs).where(jobs.c.id == job_id).values(change))
        row = self._require(connection, job_id)
        now = self._database.now(connection)
        event = {
            "status": row.status,
            "progress": row.progress,
            "error": row.error,
            "outputs": row.outputs,
            "cancel_requested": row.cancel_requested,
            "at": now,
        }
        connection.execute(sa.insert(job_events).values(job_id=job_id, seq=row.last_event, event=event, created_at=now))
        if values.get("status") in FINAL:
            announce(connection, row)
        return _job(row)

    def list(
        self,
        status: JobStatus | None = None,
        limit: int = 50,
        *,
        kinds: Collection[str] | None = None,
        collection: str | None = None,
    ) -> list[Job]:
        """Return jobs, newest first; what is None does not narrow."""
        query = sa.select(jobs).order_by(jobs.c.key.desc()).limit(check_limit(limit))
        about = jobs.c.inputs["collection"].as_string()
        if status is not None:
            query = query.where(jobs.c.status == status)
        if kinds is not None:
            query = query.where(jobs.c.kind.in_(kinds))
        if collection is not None:
            query = query.where(about == collection)
        if current().collections:
            query = query.where(about.in_(current().collections))
        with self._database.read() as connection:
            return [_job(row) for row in connection.execute(query)]
