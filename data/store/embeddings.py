"""The embedding cache: vectors by (embedder fingerprint, text hash), as opaque bytes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import sqlalchemy as sa

from data.store.database import Database
from data.store.database import batches as split
from data.store.schema import embeddings

_PAGE = 10_000


class Embeddings:
    """A cache that makes a rebuild embed only what changed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get_many(self, fingerprint: str, text_hashes: Iterable[str]) -> dict[str, bytes]:
        """Return the cached vectors, as the bytes that were put; missing ones are left out."""
        found: dict[str, bytes] = {}
        query = sa.select(embeddings.c.text_hash, embeddings.c.vector).where(embeddings.c.fingerprint == fingerprint)
        with self._database.read() as connection:
            for batch in split(text_hashes):
                rows = connection.execute(query.where(embeddings.c.text_hash.in_(batch)))
                found.update((row.text_hash, bytes(row.vector)) for row in rows)
        return found

    def put_many(self, fingerprint: str, vectors: Mapping[str, bytes]) -> None:
        """Cache vectors by text hash; a hash that is cached already keeps its vector."""
        # Sorted: two writers that lock the same new keys in one order cannot wait for each other.
        for batch in split(sorted(vectors.items())):
            rows = [{"fingerprint": fingerprint, "text_hash": text, "vector": bytes(vector)} for text, vector in batch]
            with self._database.write(alone=False) as connection:
                self._database.insert_new(connection, embeddings, rows)

    def count(self, fingerprint: str) -> int:
        """Count the cached vectors of one embedder."""
        query = sa.select(sa.func.count()).select_from(embeddings).where(embeddings.c.fingerprint == fingerprint)
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def hashes(self, fingerprint: str | None = None) -> Iterator[tuple[str, str]]:
        """Yield (fingerprint, text hash) of what is cached, of one embedder or of all; each page a read of its own."""
        table, last = embeddings.c, ("", "")
        while True:
            query = sa.select(table.fingerprint, table.text_hash).where(
                sa.tuple_(table.fingerprint, table.text_hash) > sa.tuple_(*map(sa.literal, last))
            )
            if fingerprint is not None:
                query = query.where(table.fingerprint == fingerprint)
            with self._database.read() as connection:
                rows = connection.execute(query.order_by(table.fingerprint, table.text_hash).limit(_PAGE)).all()
            yield from ((row.fingerprint, row.text_hash) for row in rows)
            if len(rows) < _PAGE:
                return
            last = (rows[-1].fingerprint, rows[-1].text_hash)

    def delete_many(self, entries: Iterable[tuple[str, str]]) -> int:
        """Drop cached vectors by (fingerprint, text hash); return how many there were."""
        dropped = 0
        by_embedder: dict[str, list[str]] = {}
        for fingerprint, text_hash in entries:
            by_embedder.setdefault(fingerprint, []).append(text_hash)
        for fingerprint, hashes in by_embedder.items():
            for batch in split(hashes):
                where = (embeddings.c.fingerprint == fingerprint) & embeddings.c.text_hash.in_(batch)
                with self._database.write() as connection:
                    dropped += connection.execute(sa.delete(embeddings).where(where)).rowcount
        return dropped

    def misshapen(self, fingerprint: str, size: int) -> list[str]:
        """Return the text hashes of one embedder whose vector has another number of bytes than ``size``."""
        where = (embeddings.c.fingerprint == fingerprint) & (sa.func.length(embeddings.c.vector) != size)
        with self._database.read() as connection:
            return list(connection.execute(sa.select(embeddings.c.text_hash).where(where)).scalars())
