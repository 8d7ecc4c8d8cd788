"""The embedding cache: vectors by (embedder fingerprint, text hash), as opaque bytes.

Vectors lie in the order in which they came, so that a write touches only the end of their table. They are found by
a digest, in one B-tree for each age. Digests fall anywhere: in one tree for all of them each new one would
change a page of its own as soon as the tree has more pages than a transaction has rows, 8 kB for a vector of 1.5.
So new ones go into a small tree, which is put into a larger one, in order, when it is full, and that into the last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from data.store.database import Database
from data.store.database import batches as split
from data.store.schema import embedding_places as places
from data.store.schema import embeddings

_PAGE = 10_000
_FULL = (8_192, 131_072)
"""Entries of the young and the middle tree: about 80 and 1,200 pages of SQLite, each changed once in 8,192 and
131,072 entries. The last one has no limit."""
_AGES = tuple(range(len(_FULL) + 1))

_DIGESTS: sa.BindParameter[Any] = sa.bindparam("digests", expanding=True)
_FIND = places.c.age.in_(_AGES) & places.c.digest.in_(_DIGESTS)
_VECTORS = sa.select(embeddings.c.text_hash, embeddings.c.vector).join_from(
    places, embeddings, places.c.key == embeddings.c.key
)
_GET = _VECTORS.where(_FIND)
_KNOWN = sa.select(places.c.digest, places.c.key).where(_FIND)


def digest(fingerprint: str, text_hash: str) -> bytes:
    """Return by what a vector is found: 128 bits, which no two of its like share by chance."""
    return hashlib.sha256(f"{fingerprint}\0{text_hash}".encode()).digest()[:16]


class Embeddings:
    """A cache that makes a rebuild embed only what changed."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def get_many(self, fingerprint: str, text_hashes: Iterable[str]) -> dict[str, bytes]:
        """Return the cached vectors, as the bytes that were put; missing ones are left out."""
        found: dict[str, bytes] = {}
        with self._database.read() as connection:
            for batch in split(sorted(digest(fingerprint, name) for name in text_hashes)):
                rows = connection.execute(_GET, {"digests": batch})
                found.update((row.text_hash, bytes(row.vector)) for row in rows)
        return found

    def put_many(self, fingerprint: str, vectors: Mapping[str, bytes]) -> None:
        """Cache vectors by text hash; a hash that is cached already keeps its vector."""
        for batch in split(vectors.items()):
            given = {digest(fingerprint, name): (name, bytes(vector)) for name, vector in batch}
            with self._database.write() as connection:
                known = {bytes(row.digest) for row in connection.execute(_KNOWN, {"digests": sorted(given)})}
                new = [found for found in given if found not in known]
                if new:
                    self._insert(connection, fingerprint, {found: given[found] for found in new})

    @staticmethod
    def _insert(connection: sa.Connection, fingerprint: str, new: Mapping[bytes, tuple[str, bytes]]) -> None:
        first = (connection.execute(sa.select(sa.func.max(embeddings.c.key))).scalar() or 0) + 1
        keys = dict(zip(new, range(first, first + len(new)), strict=True))
        rows = [
            {"key": keys[found], "fingerprint": fingerprint, "text_hash": name, "vector": vector}
            for found, (name, vector) in new.items()
        ]
        connection.execute(sa.insert(embeddings), rows)
        young = [{"age": 0, "digest": found, "key": key} for found, key in sorted(keys.items())]
        connection.execute(sa.insert(places), young)
        _grow_older(connection)

    def count(self, fingerprint: str) -> int:
        """Count the cached vectors of one embedder; reads all of them."""
        query = sa.select(sa.func.count()).select_from(embeddings).where(embeddings.c.fingerprint == fingerprint)
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def hashes(self, fingerprint: str | None = None) -> Iterator[tuple[str, str]]:
        """Yield (fingerprint, text hash) of what is cached, of one embedder or of all; each page a read of its own."""
        table, last = embeddings.c, 0
        while True:
            query = sa.select(table.key, table.fingerprint, table.text_hash).where(table.key > last)
            if fingerprint is not None:
                query = query.where(table.fingerprint == fingerprint)
            with self._database.read() as connection:
                rows = connection.execute(query.order_by(table.key).limit(_PAGE)).all()
            yield from ((row.fingerprint, row.text_hash) for row in rows)
            if len(rows) < _PAGE:
                return
            last = rows[-1].key

    def delete_many(self, entries: Iterable[tuple[str, str]]) -> int:
        """Drop cached vectors by (fingerprint, text hash); return how many there were."""
        dropped = 0
        for batch in split(digest(*entry) for entry in entries):
            with self._database.write() as connection:
                keys = [row.key for row in connection.execute(_KNOWN, {"digests": batch})]
                connection.execute(sa.delete(places).where(_FIND), {"digests": batch})
                dropped += connection.execute(sa.delete(embeddings).where(embeddings.c.key.in_(keys))).rowcount
        return dropped

    def misshapen(self, fingerprint: str, size: int) -> list[str]:
        """Return the text hashes of one embedder whose vector has another number of bytes than ``size``."""
        where = (embeddings.c.fingerprint == fingerprint) & (sa.func.length(embeddings.c.vector) != size)
        with self._database.read() as connection:
            return list(connection.execute(sa.select(embeddings.c.text_hash).where(where)).scalars())


def _grow_older(connection: sa.Connection) -> None:
    """Put every tree that is full into the next one, in its order."""
    for age, full in enumerate(_FULL):
        of_age = places.c.age == age
        if connection.execute(sa.select(sa.func.count()).select_from(places).where(of_age)).scalar_one() < full:
            return
        entries = sa.select(sa.literal(age + 1, sa.SmallInteger), places.c.digest, places.c.key).where(of_age)
        moved = sa.insert(places).from_select(["age", "digest", "key"], entries.order_by(places.c.digest))
        connection.execute(moved)
        connection.execute(sa.delete(places).where(of_age))
