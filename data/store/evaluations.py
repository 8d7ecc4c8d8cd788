"""Results of comparisons, as the JSON they were reported in."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from data.access import current
from data.errors import UnknownEvaluation
from data.store.database import Database, check_limit
from data.store.schema import evaluations

_NEWEST = (
    sa.select(evaluations.c.key)
    .where(evaluations.c.collection == sa.bindparam("collection"))
    .order_by(evaluations.c.key.desc())
    .limit(1)
)
"""Made once: every answer whose mode is auto runs it."""


class Evaluations:
    """The comparisons that were made."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._newest: dict[str, tuple[int, dict[str, Any]]] = {}

    def add(self, evaluation_id: str, result: Mapping[str, Any], collection: str = "default") -> None:
        """Keep a result.

        Raises:
            Conflict: the id is in use.
        """
        with self._database.write() as connection:
            connection.execute(
                sa.insert(evaluations).values(
                    id=evaluation_id, collection=collection, result=dict(result), created_at=time.time()
                )
            )

    def get(self, evaluation_id: str) -> dict[str, Any]:
        """Return a result.

        Raises:
            UnknownEvaluation: there is none.
        """
        with self._database.read() as connection:
            row = connection.execute(
                sa.select(evaluations.c.result, evaluations.c.collection).where(evaluations.c.id == evaluation_id)
            ).one_or_none()
        if row is None or not current().sees(row.collection):
            raise UnknownEvaluation("No such evaluation.", got=evaluation_id)
        return dict(row.result)

    def list(self, limit: int = 50) -> list[dict[str, Any]]:
        """Return ``{"id", "collection", "created_at", "result"}`` of each, newest first."""
        query = sa.select(evaluations).order_by(evaluations.c.key.desc()).limit(check_limit(limit))
        if current().collections:
            query = query.where(evaluations.c.collection.in_(current().collections))
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [
            {"id": row.id, "collection": row.collection, "created_at": row.created_at, "result": row.result}
            for row in rows
        ]

    def latest(self, collection: str = "default") -> dict[str, Any] | None:
        """Return the newest result for a collection, None before the first."""
        with self._database.read() as connection:
            key = connection.execute(_NEWEST, {"collection": collection}).scalar()
            if key is None:
                return None
            held = self._newest.get(collection)
            if held is None or held[0] != key:  # a result never changes, and reading a long one takes milliseconds
                query = sa.select(evaluations.c.result).where(evaluations.c.key == key)
                held = self._newest[collection] = (key, dict(connection.execute(query).scalar_one()))
        return dict(held[1])
