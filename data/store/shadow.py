"""What an adapter in the shadow answered, beside what was answered: compared, counted, summed up."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from data.store.database import Database, check_limit
from data.store.schema import BIG_KEY, metadata

shadow_answers = sa.Table(
    "shadow_answers",
    metadata,
    sa.Column("key", BIG_KEY, primary_key=True, autoincrement=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("answer_id", sa.String, nullable=False),
    # What was answered, and what it was compared with: "" for the bare model over passages.
    sa.Column("against", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("agrees", sa.Boolean, nullable=False),
    sa.Column("f1", sa.Double, nullable=False),
    sa.Column("abstained", sa.Boolean, nullable=False),
    sa.Column("live_abstained", sa.Boolean, nullable=False),
    sa.Column("latency_ms", sa.Double, nullable=False),
    sa.Column("live_latency_ms", sa.Double, nullable=False),
    sa.Column("error", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.ForeignKeyConstraint(["name", "version"], ["adapters.name", "adapters.version"], ondelete="CASCADE"),
    sa.Index("ix_shadow_answers_adapter", "name", "version", "key"),
    sqlite_autoincrement=True,
)

shadow_drops = sa.Table(
    "shadow_drops",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("reason", sa.String, primary_key=True),
    sa.Column("count", sa.Integer, nullable=False),
    sa.ForeignKeyConstraint(["name", "version"], ["adapters.name", "adapters.version"], ondelete="CASCADE"),
)


@dataclass(frozen=True, slots=True)
class ShadowAnswer:
    """One answer in the shadow and how it compares with the answer ``answer_id`` that was given.

    ``against`` is the adapter that gave it, "" for none. ``agrees``: both abstained, or both gave the same answer but
    for case, punctuation and articles. ``f1`` is between the two texts, 0-100. Latencies are milliseconds. ``error`` is
    "" unless the shadow failed; nothing else is meaningful then.
    """

    answer_id: str
    against: str
    text: str
    agrees: bool
    f1: float
    abstained: bool
    live_abstained: bool
    latency_ms: float
    live_latency_ms: float
    error: str = ""


class Shadows:
    """The answers in the shadow of a store; they go with their adapter."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, name: str, version: int, answer: ShadowAnswer) -> bool:
        """Keep an answer of an adapter; tell whether the adapter is (still) there to keep it for."""
        known = metadata.tables["adapters"].c
        query = sa.select(known.name).where(known.name == name, known.version == version)
        values = asdict(answer) | {"name": name, "version": version, "created_at": time.time()}
        with self._database.write() as connection:
            if connection.execute(query).one_or_none() is None:
                return False
            connection.execute(sa.insert(shadow_answers).values(values))
        return True

    def drop(self, name: str, version: int, counts: Mapping[str, int]) -> None:
        """Count requests that were not answered in the shadow, by reason; of a deleted adapter nothing is kept."""
        table, known = shadow_drops, metadata.tables["adapters"].c
        query = sa.select(known.name).where(known.name == name, known.version == version)
        with self._database.write() as connection:
            if connection.execute(query).one_or_none() is None:
                return
            for reason, count in counts.items():
                at = (table.c.name == name) & (table.c.version == version) & (table.c.reason == reason)
                found = connection.execute(sa.update(table).where(at).values(count=table.c.count + count)).rowcount
                if not found:
                    row = {"name": name, "version": version, "reason": reason, "count": count}
                    connection.execute(sa.insert(table).values(row))

    def drops(self, name: str, version: int) -> dict[str, int]:
        """Return how many requests were not answered in the shadow, by reason."""
        table = shadow_drops
        query = sa.select(table.c.reason, table.c.count).where(table.c.name == name, table.c.version == version)
        with self._database.read() as connection:
            return {reason: int(count) for reason, count in connection.execute(query)}

    def list(self, name: str, version: int, limit: int = 1000) -> list[ShadowAnswer]:
        """Return the newest answers of an adapter, newest first."""
        columns = [shadow_answers.c[field] for field in ShadowAnswer.__dataclass_fields__]
        query = sa.select(*columns).where(shadow_answers.c.name == name, shadow_answers.c.version == version)
        with self._database.read() as connection:
            newest = query.order_by(shadow_answers.c.key.desc()).limit(check_limit(limit))
            return [ShadowAnswer(*row) for row in connection.execute(newest)]
