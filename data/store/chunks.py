"""Chunks as the index sees them: by an integer key that is never given out twice."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import sqlalchemy as sa

from data.errors import NotFound
from data.protocols import Keys
from data.records import Chunk, Filter
from data.store.database import Database, Row, batches
from data.store.filters import matching
from data.store.retired import chunk_rows
from data.store.schema import chunks, documents

_CHUNK = (
    chunks.c.id,
    chunks.c.document_id,
    chunks.c.text,
    chunks.c.start,
    chunks.c.end,
    chunks.c.heading,
    chunks.c.page,
)
_WITH_SOURCE = (
    sa.select(chunks.c.key, *_CHUNK, documents.c.source, documents.c.title)
    .join_from(chunks, documents, chunks.c.document_id == documents.c.id)
    .order_by(chunks.c.key)
)

_BY_KEYS = _WITH_SOURCE.where(chunks.c.key.in_(sa.bindparam("keys", expanding=True)))
"""Made once: every search runs it, and making a statement takes longer than running it."""

Found = tuple[Chunk, str, str]
"""A chunk, its document's source, and its document's title."""


def _found(row: Row) -> Found:
    return Chunk(*row[1:8]), row[8], row[9]


class Chunks:
    """Read access to chunks; ``Documents.put`` and ``Documents.delete`` write them."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def keys(self, collection: str) -> set[int]:
        """Return the keys of every chunk of a collection."""
        query = sa.select(chunks.c.key).where(chunks.c.collection == collection)
        with self._database.read() as connection:
            return set(connection.execute(query).scalars())

    def key_array(self, collection: str) -> Keys:
        """Return the keys of every chunk of a collection, ascending: 8 bytes each, where ``keys`` takes 100."""
        query = sa.select(chunks.c.key).where(chunks.c.collection == collection).order_by(chunks.c.key)
        with self._database.read() as connection:
            return np.fromiter(connection.execute(query).scalars(), dtype=np.int64)

    def count(self, collection: str) -> int:
        """Count the chunks of a collection."""
        query = sa.select(sa.func.count()).select_from(chunks).where(chunks.c.collection == collection)
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def by_keys(self, keys: Iterable[int]) -> dict[int, Found]:
        """Return (chunk, source, title) for each key, also of documents replaced since an index was built.

        Keys that are gone are left out.
        """
        found: dict[int, Found] = {}
        with self._database.read() as connection:
            for batch in batches(int(key) for key in keys):
                rows = connection.execute(_BY_KEYS, {"keys": batch})
                found.update((row[0], _found(row)) for row in rows)
                if missing := [key for key in batch if key not in found]:
                    found.update((row.key, _found(row)) for row in chunk_rows(connection, missing))
        return found

    def matching(self, collection: str, filter: Filter) -> Keys:
        """Return the keys of the chunks whose documents pass ``filter``, ascending.

        Those of replaced documents are among them while an index may hold them.
        """
        with self._database.read() as connection:
            return matching(connection, collection, filter, self._database.dialect)

    def by_ids(self, ids: Iterable[str]) -> dict[str, Found]:
        """Return (chunk, source, title) for each chunk id; ids that are gone are left out."""
        found: dict[str, Found] = {}
        with self._database.read() as connection:
            for batch in batches(ids):
                rows = connection.execute(_WITH_SOURCE.where(chunks.c.id.in_(batch)))
                found.update((row.id, _found(row)) for row in rows)
        return found

    def keys_of(self, ids: Iterable[str]) -> dict[str, int]:
        """Return the key of each chunk id; ids that are gone are left out."""
        found: dict[str, int] = {}
        with self._database.read() as connection:
            for batch in batches(ids):
                rows = connection.execute(sa.select(chunks.c.id, chunks.c.key).where(chunks.c.id.in_(batch)))
                found.update((row.id, row.key) for row in rows)
        return found

    def iterate(
        self, collection: str, keys: Iterable[int] | None = None, batch: int = 1000
    ) -> Iterator[tuple[int, Chunk, str]]:
        """Yield (key, chunk, title) in the order of the keys: of all chunks, or of those named.

        Each batch is a read of its own, so writers get their turn; a chunk that is deleted meanwhile
        may be left out.
        """
        pages = self._pages(collection, batch) if keys is None else self._named(collection, sorted(keys), batch)
        for rows in pages:
            for row in rows:
                yield row.key, Chunk(*row[1:8]), row.title

    def _pages(self, collection: str, batch: int) -> Iterator[Sequence[Row]]:
        last = 0
        while True:
            where = (chunks.c.collection == collection) & (chunks.c.key > last)
            with self._database.read() as connection:
                rows = connection.execute(_WITH_SOURCE.where(where).limit(batch)).all()
            if not rows:
                return
            yield rows
            last = rows[-1].key

    def _named(self, collection: str, keys: list[int], batch: int) -> Iterator[Sequence[Row]]:
        for part in batches((int(key) for key in keys), batch):
            where = (chunks.c.collection == collection) & chunks.c.key.in_(part)
            with self._database.read() as connection:
                rows = connection.execute(_WITH_SOURCE.where(where)).all()
            yield rows

    def get(self, chunk_id: str) -> Chunk:
        """Return a chunk by its id.

        Raises:
            NotFound: there is none.
        """
        with self._database.read() as connection:
            row = connection.execute(sa.select(*_CHUNK).where(chunks.c.id == chunk_id)).one_or_none()
        if row is None:
            raise NotFound("No such chunk.", got=chunk_id)
        return Chunk(*row)

    def of_document(self, document_id: str) -> list[Chunk]:
        """Return a document's chunks in the order of the text (none if there is no such document)."""
        query = sa.select(*_CHUNK).where(chunks.c.document_id == document_id).order_by(chunks.c.start, chunks.c.key)
        with self._database.read() as connection:
            return [Chunk(*row) for row in connection.execute(query)]
