"""Index generations: which are being built, which can be used, and which one is in use."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from data.errors import Conflict, NotFound
from data.records import StageNote
from data.store import retired
from data.store.collections import ensure_collection, require_collection
from data.store.database import Database, Row
from data.store.schema import collections, generations
from data.store.stages import NOBODY, log_stage

GenerationStatus = Literal["building", "ready", "failed"]


@dataclass(frozen=True, slots=True)
class GenerationRow:
    """One generation of a collection's index; ``manifest`` is {} until it is ready."""

    number: int
    status: GenerationStatus
    meta: Mapping[str, Any]
    manifest: Mapping[str, Any]
    error: str
    created_at: float
    committed_at: float | None
    current: bool


class Generations:
    """The bookkeeping of blue/green index generations; numbers count up and are never reused."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(self, collection: str, meta: Mapping[str, Any]) -> int:
        """Reserve the next number of a collection (created if need be) for a build."""
        with self._database.write() as connection:
            ensure_collection(self._database, connection, collection)
            number = int(require_collection(connection, collection).last_generation) + 1
            connection.execute(
                sa.update(collections).where(collections.c.name == collection).values(last_generation=number)
            )
            connection.execute(
                sa.insert(generations).values(
                    collection=collection,
                    number=number,
                    status="building",
                    meta=dict(meta),
                    manifest={},
                    error="",
                    created_at=time.time(),
                )
            )
        return number

    def commit(self, collection: str, number: int, manifest: Mapping[str, Any], note: StageNote = NOBODY) -> None:
        """Make a finished build usable and current, in one transaction with its line of the log.

        Raises:
            NotFound: no such generation.
            Conflict: it is not being built, or a later one was finished before it.
        """
        with self._database.write() as connection:
            found = self._require(connection, collection, number)
            if found.status != "building":
                raise Conflict("The generation is not being built.", got=f"{collection} {number}: {found.status}")
            newer = (generations.c.collection == collection) & (generations.c.number > number)
            query = sa.select(generations.c.number).where(newer & (generations.c.status == "ready"))
            later = connection.execute(query.limit(1)).scalar()
            if later is not None:
                raise Conflict("A later generation was finished first.", got=number, wanted=f"a number over {later}")
            self._update(
                connection,
                collection,
                number,
                {"status": "ready", "manifest": dict(manifest), "committed_at": time.time()},
            )
            self._set_current(connection, collection, number, "promoted", note)

    def fail(self, collection: str, number: int, error: str) -> None:
        """Mark a build as failed; the current generation stays.

        Raises:
            NotFound: no such generation.
            Conflict: it is ready.
        """
        with self._database.write() as connection:
            if self._require(connection, collection, number).status == "ready":
                raise Conflict("A finished generation cannot fail.", got=f"{collection} {number}")
            self._update(connection, collection, number, {"status": "failed", "error": error})
            current = require_collection(connection, collection).current_generation
            note = StageNote(reason=error)
            log_stage(connection, "index", collection, "failed", between=(current or "", current or ""), note=note)

    def get(self, collection: str, number: int) -> GenerationRow:
        """Return one generation.

        Raises:
            UnknownCollection: no such collection.
            NotFound: no such generation.
        """
        with self._database.read() as connection:
            current = require_collection(connection, collection).current_generation
            return self._row(self._require(connection, collection, number), current)

    def list(self, collection: str) -> list[GenerationRow]:
        """Return the generations of a collection, oldest first.

        Raises:
            UnknownCollection: no such collection.
        """
        query = sa.select(generations).where(generations.c.collection == collection).order_by(generations.c.number)
        with self._database.read() as connection:
            current = require_collection(connection, collection).current_generation
            return [self._row(row, current) for row in connection.execute(query)]

    def set_current(self, collection: str, number: int, note: StageNote = NOBODY) -> None:
        """Use a ready generation from now on (a rollback, say).

        Raises:
            NotFound: no such generation.
            Conflict: it is not ready.
        """
        with self._database.write() as connection:
            found = self._require(connection, collection, number)
            if found.status != "ready":
                raise Conflict("Only a finished generation can be used.", got=f"{collection} {number}: {found.status}")
            self._set_current(connection, collection, number, "rolled back", note)

    def delete(self, collection: str, number: int) -> None:
        """Forget a generation whose files are no longer kept.

        Raises:
            NotFound: no such generation.
            Conflict: it is in use.
        """
        with self._database.write() as connection:
            self._require(connection, collection, number)
            if require_collection(connection, collection).current_generation == number:
                raise Conflict(
                    "The generation is in use.", got=f"{collection} {number}", hint="Switch to another first."
                )
            connection.execute(sa.delete(generations).where(*self._at(collection, number)))
            retired.collect(connection, collection)

    @staticmethod
    def _at(collection: str, number: int) -> tuple[sa.ColumnElement[bool], ...]:
        return generations.c.collection == collection, generations.c.number == number

    def _require(self, connection: sa.Connection, collection: str, number: int) -> Row:
        row = connection.execute(sa.select(generations).where(*self._at(collection, number))).one_or_none()
        if row is None:
            raise NotFound("No such index generation.", got=f"{collection} {number}")
        return row

    def _update(self, connection: sa.Connection, collection: str, number: int, values: dict[str, Any]) -> None:
        connection.execute(sa.update(generations).where(*self._at(collection, number)).values(values))

    @staticmethod
    def _set_current(connection: sa.Connection, collection: str, number: int, event: str, note: StageNote) -> None:
        before = require_collection(connection, collection).current_generation
        connection.execute(
            sa.update(collections).where(collections.c.name == collection).values(current_generation=number)
        )
        log_stage(connection, "index", collection, event, between=(before or "", number), note=note)

    @staticmethod
    def _row(row: Row, current: int | None) -> GenerationRow:
        return GenerationRow(
            number=row.number,
            status=row.status,
            meta=row.meta,
            manifest=row.manifest,
            error=row.error,
            created_at=row.created_at,
            committed_at=row.committed_at,
            current=row.number == current,
        )
