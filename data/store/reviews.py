"""Reviews: what people change in pairs, and the way back.

A review changes some pairs in one transaction and keeps what each was before, so one pair or a whole
review can be undone. Knows nothing of what a good pair is.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import sqlalchemy as sa

from data.access import current
from data.errors import Conflict, InvalidRequest, UnknownPair, UnknownReview
from data.records import PairKind, PairStatus
from data.store.database import Database, Row, batches
from data.store.pair_filters import PairFilter, narrowed
from data.store.schema import pair_reviews, pairs

KEPT = 20
"""States kept of each pair: so many reviews of it can be undone."""

_FIELDS = ("question", "answer", "kind", "status", "reason", "checks")
_VALUES: dict[str, tuple[str, ...]] = {"kind": get_args(PairKind), "status": get_args(PairStatus)}
_COLUMNS = tuple(pairs.c[name] for name in _FIELDS)


@dataclass(frozen=True, slots=True)
class Reviewed:
    """What became of a review: the pairs it changed (in their order) and how many were so already."""

    review_id: str
    changed: tuple[str, ...]
    unchanged: int


class Reviews:
    """Changes to pairs that can be undone."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def change(self, pair_ids: Iterable[str], changes: Mapping[str, Any]) -> Reviewed:
        """Change pairs (question, answer, kind, status, reason, checks), all of them or none.

        Raises:
            UnknownPair: one does not exist.
            InvalidRequest: a field that cannot be changed, or a value that cannot be.
        """
        _check(changes)
        wanted = list(dict.fromkeys(pair_ids))
        with self._database.write() as connection:
            found: dict[str, Row] = {}
            for batch in batches(wanted):
                where = pairs.c.id.in_(batch) & _visible()
                rows = connection.execute(sa.select(pairs.c.id, *_COLUMNS).where(where))
                found.update((row.id, row) for row in rows)
            if missing := [pair_id for pair_id in wanted if pair_id not in found]:
                raise UnknownPair("No such pair.", got=missing[0], hint="GET /v1/pairs lists them.")
            return _change(connection, [found[pair_id] for pair_id in wanted], changes)

    def change_all(self, collection: str, chosen: PairFilter, changes: Mapping[str, Any]) -> Reviewed:
        """Change every pair that passes a filter.

        Raises:
            InvalidRequest: a field that cannot be changed, or a value that cannot be.
        """
        _check(changes)
        where = narrowed(collection, chosen, self._database.dialect)
        with self._database.write() as connection:
            rows = connection.execute(sa.select(pairs.c.id, *_COLUMNS).where(where).order_by(pairs.c.key)).all()
            return _change(connection, rows, changes)

    def count(self, collection: str, chosen: PairFilter) -> int:
        """Count the pairs that pass a filter."""
        where = narrowed(collection, chosen, self._database.dialect)
        with self._database.read() as connection:
            return int(connection.execute(sa.select(sa.func.count()).select_from(pairs).where(where)).scalar_one())

    def undo(self, pair_id: str) -> None:
        """Give a pair back the state before its newest review, and forget that review of it.

        Raises:
            UnknownPair: there is no such pair.
            Conflict: none of its reviews is left to undo.
        """
        with self._database.write() as connection:
            there = sa.select(pairs.c.id).where((pairs.c.id == pair_id) & _visible())
            if connection.execute(there).scalar() is None:
                raise UnknownPair("No such pair.", got=pair_id, hint="GET /v1/pairs lists them.")
            newest = sa.select(pair_reviews).where(pair_reviews.c.pair_id == pair_id)
            row = connection.execute(newest.order_by(pair_reviews.c.key.desc()).limit(1)).one_or_none()
            if row is None:
                raise Conflict(
                    "There is no review of this pair to undo", got=pair_id, wanted=f"one of its last {KEPT} reviews"
                )
            _restore(connection, [row])

    def undo_review(self, review_id: str) -> Reviewed:
        """Undo a whole review; pairs that were reviewed again since stay as they are (``unchanged`` counts them).

        Raises:
            UnknownReview: no state of such a review is kept.
        """
        later = pair_reviews.alias()
        again = sa.select(1).where(later.c.pair_id == pair_reviews.c.pair_id, later.c.key > pair_reviews.c.key)
        query = sa.select(pair_reviews, again.exists().label("again")).where(pair_reviews.c.review_id == review_id)
        query = query.join(pairs, pairs.c.id == pair_reviews.c.pair_id).where(_visible())
        with self._database.write() as connection:
            rows = connection.execute(query.order_by(pair_reviews.c.key)).all()
            if not rows:
                raise UnknownReview(
                    "No such review, or it was undone.", got=review_id, wanted=f"one of the last {KEPT} of a pair"
                )
            last = [row for row in rows if not row.again]
            _restore(connection, last)
        return Reviewed(review_id, tuple(row.pair_id for row in last), len(rows) - len(last))

    def history(self, pair_id: str) -> list[dict[str, Any]]:
        """Return ``{"review_id", "created_at", "before": {field: value}}`` of a pair's reviews, newest first."""
        query = sa.select(pair_reviews).where(pair_reviews.c.pair_id == pair_id).order_by(pair_reviews.c.key.desc())
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [{"review_id": row.review_id, "created_at": row.created_at, "before": row.before} for row in rows]


def _visible() -> sa.ColumnElement[bool]:
    """Return the condition on a pair that whoever asks may know of it."""
    bound = current().collections
    return pairs.c.collection.in_(bound) if bound else sa.true()


def _check(changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        if name not in _FIELDS:
            raise InvalidRequest("Invalid field of a pair.", got=name, wanted=", ".join(_FIELDS))
        if name in _VALUES and value not in _VALUES[name]:
            raise InvalidRequest(f"Invalid {name} of a pair.", got=value, wanted=", ".join(_VALUES[name]))
    if not changes:
        raise InvalidRequest("The review changes nothing.", wanted=f"one of {', '.join(_FIELDS)}")


def _change(connection: sa.Connection, rows: Sequence[Row], changes: Mapping[str, Any]) -> Reviewed:
    review_id, now = secrets.token_hex(16), time.time()
    differ = [row for row in rows if any(getattr(row, name) != value for name, value in changes.items())]
    for batch in batches(differ):
        kept = [{"review_id": review_id, "pair_id": row.id, "before": _state(row), "created_at": now} for row in batch]
        ids = [row.id for row in batch]
        connection.execute(sa.insert(pair_reviews), kept)
        connection.execute(sa.update(pairs).where(pairs.c.id.in_(ids)).values(dict(changes)))
        _forget_old(connection, ids)
    return Reviewed(review_id, tuple(row.id for row in differ), len(rows) - len(differ))


def _state(row: Row) -> dict[str, Any]:
    return {name: getattr(row, name) for name in _FIELDS}


def _forget_old(connection: sa.Connection, pair_ids: Sequence[str]) -> None:
    rank = sa.func.row_number().over(partition_by=pair_reviews.c.pair_id, order_by=pair_reviews.c.key.desc())
    ranked = sa.select(pair_reviews.c.key, rank.label("age")).where(pair_reviews.c.pair_id.in_(pair_ids)).subquery()
    old = sa.select(ranked.c.key).where(ranked.c.age > KEPT)
    connection.execute(sa.delete(pair_reviews).where(pair_reviews.c.key.in_(old)))


def _restore(connection: sa.Connection, rows: Sequence[Row]) -> None:
    for row in rows:
        connection.execute(sa.update(pairs).where(pairs.c.id == row.pair_id).values(row.before))
    for batch in batches(row.key for row in rows):
        connection.execute(sa.delete(pair_reviews).where(pair_reviews.c.key.in_(batch)))
