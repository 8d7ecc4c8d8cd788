"""Documents and their chunks, written together: a document is either wholly there or not at all."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from data.errors import Conflict, InvalidRequest, UnknownDocument
from data.records import Chunk, Document
from data.store.collections import ensure_collection, require_collection
from data.store.database import Database, Row, batches, check_limit, parse_cursor
from data.store.pairs import mark_stale, unmark_stale
from data.store.schema import chunks as chunk_table
from data.store.schema import documents

_ROW = (
    documents.c.id,
    documents.c.source,
    documents.c.title,
    documents.c.media_type,
    documents.c.sha256,
    documents.c.size,
    documents.c.chunks,
    documents.c.created_at,
    documents.c.settings_fingerprint,
    documents.c.collection,
)


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """A stored document without its text.

    ``sha256`` is over the file's bytes and ``size`` counts them; ``chunks`` counts its chunks.
    """

    id: str
    source: str
    title: str
    media_type: str
    sha256: str
    size: int
    chunks: int
    created_at: float
    settings_fingerprint: str
    collection: str


def _row(row: Row) -> DocumentRow:
    return DocumentRow(*row[: len(_ROW)])


def _unknown(document_id: str) -> UnknownDocument:
    return UnknownDocument("No such document.", got=document_id, hint="GET /v1/documents lists them.")


def _check(document: Document, chunks: Sequence[Chunk]) -> None:
    for chunk in chunks:
        if chunk.document_id != document.id:
            raise InvalidRequest("A chunk belongs to another document.", got=chunk.document_id, wanted=document.id)
        if document.text[chunk.start : chunk.end] != chunk.text:
            raise InvalidRequest(
                "A chunk's text does not stand at its offsets.", got=f"{chunk.start}:{chunk.end} of {document.source}"
            )
    if len({chunk.id for chunk in chunks}) != len(chunks):
        raise InvalidRequest("Two chunks of a document have the same id.", got=document.source)


class Documents:
    """The documents of a store, at most one for each (collection, source)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(
        self,
        collection: str,
        document: Document,
        sha256: str,
        chunks: Sequence[Chunk],
        *,
        size: int = 0,
        settings_fingerprint: str = "",
    ) -> DocumentRow:
        """Store a document with all its chunks, in place of the one of the same collection and source.

        Durable when this returns. Unchanged chunks keep their keys; pairs whose chunks are gone become stale.

        Args:
            collection: created if it does not exist.
            document: its id must not be in use for another source.
            chunks: all of them.
            sha256: of the file's bytes, 64 hex digits.
            size: of the file, in bytes.
            settings_fingerprint: of whatever else decided the chunks.

        Raises:
            InvalidRequest: a chunk is not of this document, or not where it says.
            Conflict: the id belongs to another source or collection.
        """
        _check(document, chunks)
        values = asdict(document) | {"collection": collection, "sha256": sha256, "size": size}
        values |= {"chunks": len(chunks), "settings_fingerprint": settings_fingerprint}
        with self._database.write() as connection:
            ensure_collection(self._database, connection, collection)
            self._refuse_foreign_id(connection, collection, document)
            old = self._at_source(connection, collection, document.source)
            if old is not None and old != document.id:
                _delete(connection, old)
            new = sa.insert(documents).values(created_at=time.time())
            change = new if old != document.id else sa.update(documents).where(documents.c.id == old)
            connection.execute(change.values(values))
            _put_chunks(connection, collection, document.id, chunks)
            return _row(connection.execute(sa.select(*_ROW).where(documents.c.id == document.id)).one())

    @staticmethod
    def _at_source(connection: sa.Connection, collection: str, source: str) -> str | None:
        where = (documents.c.collection == collection) & (documents.c.source == source)
        return connection.execute(sa.select(documents.c.id).where(where)).scalar()

    @staticmethod
    def _refuse_foreign_id(connection: sa.Connection, collection: str, document: Document) -> None:
        query = sa.select(documents.c.collection, documents.c.source).where(documents.c.id == document.id)
        found = connection.execute(query).one_or_none()
        if found is not None and tuple(found) != (collection, document.source):
            raise Conflict(
                "The document's id is in use.",
                got=f"{document.id} of {found.source} in {found.collection}",
                wanted="an id made from collection, source and text",
            )

    def by_source(self, collection: str) -> dict[str, DocumentRow]:
        """Return every document of a collection (none if there is no such collection) by its source."""
        query = sa.select(*_ROW).where(documents.c.collection == collection).order_by(documents.c.source)
        with self._database.read() as connection:
            return {row.source: _row(row) for row in connection.execute(query)}

    def get(self, document_id: str) -> Document:
        """Return a document with its text.

        Raises:
            UnknownDocument: there is none.
        """
        table = documents.c
        query = sa.select(table.id, table.source, table.title, table.text, table.media_type, table.meta)
        with self._database.read() as connection:
            row = connection.execute(query.where(table.id == document_id)).one_or_none()
        if row is None:
            raise _unknown(document_id)
        return Document(*row)

    def row(self, document_id: str) -> DocumentRow:
        """Return a document without its text.

        Raises:
            UnknownDocument: there is none.
        """
        with self._database.read() as connection:
            row = connection.execute(sa.select(*_ROW).where(documents.c.id == document_id)).one_or_none()
        if row is None:
            raise _unknown(document_id)
        return _row(row)

    def list(self, collection: str, cursor: str | None = None, limit: int = 50) -> tuple[list[DocumentRow], str | None]:
        """Return a page of documents, oldest first, and the cursor of the next page (None at the end).

        Raises:
            UnknownCollection: there is no such collection.
            InvalidRequest: a bad cursor or limit.
        """
        where = (documents.c.collection == collection) & (documents.c.key > parse_cursor(cursor))
        query = sa.select(*_ROW, documents.c.key).where(where).order_by(documents.c.key).limit(check_limit(limit) + 1)
        with self._database.read() as connection:
            require_collection(connection, collection)
            found = connection.execute(query).all()
        following = str(found[limit - 1].key) if len(found) > limit else None
        return [_row(row) for row in found[:limit]], following

    def delete(self, document_id: str) -> None:
        """Remove a document and its chunks; pairs made from them stay and become stale.

        Raises:
            UnknownDocument: there is none.
        """
        with self._database.write() as connection:
            if not _delete(connection, document_id):
                raise _unknown(document_id)

    def count(self, collection: str | None = None) -> int:
        """Count the documents of a collection, or of all of them."""
        query = sa.select(sa.func.count()).select_from(documents)
        if collection is not None:
            query = query.where(documents.c.collection == collection)
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())


def _delete(connection: sa.Connection, document_id: str) -> bool:
    mark_stale(connection, sa.select(chunk_table.c.id).where(chunk_table.c.document_id == document_id))
    return connection.execute(sa.delete(documents).where(documents.c.id == document_id)).rowcount > 0


def _put_chunks(connection: sa.Connection, collection: str, document_id: str, chunks: Sequence[Chunk]) -> None:
    table = chunk_table.c
    query = sa.select(table.id, table.document_id, table.text, table.start, table.end, table.heading, table.page)
    old = {Chunk(*row) for row in connection.execute(query.where(table.document_id == document_id))}
    wanted = set(chunks)
    for batch in batches(chunk.id for chunk in old - wanted):
        mark_stale(connection, batch)
        connection.execute(sa.delete(chunk_table).where(chunk_table.c.id.in_(batch)))
    new: list[dict[str, Any]] = [
        {
            "id": chunk.id,
            "document_id": document_id,
            "collection": collection,
            "start": chunk.start,
            "end": chunk.end,
            "page": chunk.page,
            "heading": chunk.heading,
            "text": chunk.text,
        }
        for chunk in chunks
        if chunk not in old
    ]
    if new:
        connection.execute(sa.insert(chunk_table), new)
        unmark_stale(connection, [row["id"] for row in new])
