"""Stages: which change is legal, and the append-only log of who changed what and why.

The log holds adapters, index generations and tuned embedders alike. A row is written in the transaction of the change
it tells of; a refusal, which changes nothing, has a row of its own. Knows nothing of what makes a change wise.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from data.errors import IllegalTransition
from data.records import AdapterStage, StageNote
from data.store.database import Database, check_limit
from data.store.schema import BIG_KEY, metadata

LogKind = Literal["adapter", "index", "retriever"]

TRANSITIONS: Mapping[AdapterStage, frozenset[AdapterStage]] = {
    "candidate": frozenset(("shadow", "live", "retired")),
    "shadow": frozenset(("candidate", "live", "retired")),
    "live": frozenset(("retired",)),
    "retired": frozenset(("shadow", "live")),
}
"""Where an adapter can go from each stage."""


# Append-only: triggers refuse changes.
stage_log = sa.Table(
    "stage_log",
    metadata,
    sa.Column("key", BIG_KEY, primary_key=True, autoincrement=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("subject", sa.String, nullable=False, index=True),
    sa.Column("event", sa.Text, nullable=False),
    sa.Column("before", sa.Text, nullable=False),
    sa.Column("after", sa.Text, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("decision", sa.JSON, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sqlite_autoincrement=True,
)


@sa.event.listens_for(stage_log, "after_create")
def _refuse_changes(_: sa.Table, connection: sa.Connection, **__: object) -> None:
    """Guard the log of a new SQLite file; elsewhere, and in older ones, migrations do."""
    for change in ("UPDATE", "DELETE") if connection.dialect.name == "sqlite" else ():
        connection.exec_driver_sql(
            f"CREATE TRIGGER stage_log_no_{change.lower()} BEFORE {change} ON stage_log "
            "BEGIN SELECT RAISE(ABORT, 'stage_log is append-only'); END"
        )


@dataclass(frozen=True, slots=True)
class StageRow:
    """One line of the log. ``before`` and ``after`` are stages of an adapter, or generations of an index.

    ``subject`` is ``name@version`` of an adapter or a tuned embedder, the collection's name of an index.
    """

    id: int
    kind: str
    subject: str
    event: str
    before: str
    after: str
    actor: str
    reason: str
    decision: Mapping[str, Any]
    created_at: float


NOBODY = StageNote()


def check_transition(subject: str, before: AdapterStage, after: AdapterStage) -> None:
    """Refuse a stage that cannot follow ``before``.

    Raises:
        IllegalTransition: it cannot.
    """
    if after not in TRANSITIONS[before]:
        wanted = " or ".join(sorted(TRANSITIONS[before]))
        raise IllegalTransition(
            f"{subject} is {before} and cannot become {after}.",
            got=f"{before} → {after}",
            wanted=f"{before} → {wanted}",
        )


def log_stage(
    connection: sa.Connection,
    kind: LogKind,
    subject: str,
    event: str,
    *,
    between: tuple[object, object],
    note: StageNote = NOBODY,
) -> None:
    """Append a line within the caller's transaction; ``between`` are the stages, or generations, before and after."""
    before, after = map(str, between)
    values = {"kind": kind, "subject": subject, "event": event, "before": before, "after": after}
    about = {"actor": note.actor, "reason": note.reason, "decision": dict(note.decision), "created_at": time.time()}
    connection.execute(sa.insert(stage_log).values(values | about))


class Stages:
    """The log of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(
        self, kind: LogKind, subject: str, event: str, *, between: tuple[object, object], note: StageNote = NOBODY
    ) -> None:
        """Append a line about what changed nothing in the store: a refusal, or a retriever's promotion."""
        with self._database.write() as connection:
            log_stage(connection, kind, subject, event, between=between, note=note)

    def list(self, kind: str | None = None, subject: str | None = None, limit: int = 100) -> list[StageRow]:
        """Return lines, newest first; ``subject`` may be a bare name: all its versions."""
        query = sa.select(stage_log).order_by(stage_log.c.key.desc()).limit(check_limit(limit))
        if kind is not None:
            query = query.where(stage_log.c.kind == kind)
        if subject is not None:
            versions = stage_log.c.subject.startswith(f"{subject}@", autoescape=True)
            query = query.where(sa.or_(stage_log.c.subject == subject, versions))
        with self._database.read() as connection:
            return [StageRow(*row) for row in connection.execute(query)]
