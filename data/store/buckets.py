"""Token buckets of API keys that several servers share: what one takes, the others miss.

A bucket holds a minute's quota and fills evenly by the database's clock, so servers whose clocks differ agree. Knows
nothing of what is counted, nor of who is refused.
"""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from data.store.database import Database
from data.store.schema import metadata

MINUTE_S = 60.0

rate_buckets = sa.Table(
    "rate_buckets",
    metadata,
    sa.Column("key_id", sa.String, primary_key=True),
    sa.Column("kind", sa.String, primary_key=True),
    sa.Column("left", sa.Double, nullable=False),
    sa.Column("at", sa.Double, nullable=False),
)


def refilled(left: float, since_s: float, quota: int) -> float:
    """Return what is in a bucket ``since_s`` seconds after ``left`` was; never more than the quota.

    A quota that was lowered meanwhile counts at once.
    """
    return min(float(quota), left + max(since_s, 0.0) * quota / MINUTE_S)


class Buckets:
    """The buckets of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def draw(
        self, key_id: str, quotas: Mapping[str, int], amounts: Mapping[str, float], least: float | None = None
    ) -> dict[str, float]:
        """Take ``amounts`` out of a key's buckets and return what each held before.

        Args:
            key_id: whose buckets.
            quotas: a minute's worth of each kind; a bucket that is not there yet is full.
            amounts: what to take of each kind; a bucket may go below nothing.
            least: what every bucket must hold; where one holds less nothing is taken.
        """
        rows = rate_buckets.c
        with self._database.write(alone=False) as connection:
            now = self._database.now(connection)
            new = [{"key_id": key_id, "kind": kind, "left": quotas[kind], "at": now} for kind in sorted(quotas)]
            self._database.insert_new(connection, rate_buckets, new)
            query = sa.select(rows.kind, rows.left, rows.at).where(rows.key_id == key_id, rows.kind.in_(list(quotas)))
            found = connection.execute(query.order_by(rows.kind).with_for_update()).all()
            now = max([self._database.now(connection), *(row.at for row in found)])  # again: a lock was waited for
            held = {row.kind: refilled(row.left, now - row.at, quotas[row.kind]) for row in found}
            if least is not None and min(held.values(), default=least) < least:
                return held
            for kind, left in held.items():
                values = {"left": left - amounts.get(kind, 0.0), "at": now}
                where = (rows.key_id == key_id) & (rows.kind == kind)
                connection.execute(sa.update(rate_buckets).where(where).values(values))
        return held
