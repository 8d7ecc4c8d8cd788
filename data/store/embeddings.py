"""The embedding cache: vectors by (embedder fingerprint, text hash), as opaque bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import sqlalchemy as sa

from data.store.database import Database
from data.store.database import batches as split
from data.store.schema import embeddings


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
        for batch in split(vectors.items()):
            rows = [{"fingerprint": fingerprint, "text_hash": text, "vector": bytes(vector)} for text, vector in batch]
            with self._database.write() as connection:
                self._database.insert_new(connection, embeddings, rows)

    def count(self, fingerprint: str) -> int:
        """Count the cached vectors of one embedder."""
        query = sa.select(sa.func.count()).select_from(embeddings).where(embeddings.c.fingerprint == fingerprint)
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())
