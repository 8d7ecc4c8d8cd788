"""Documents and their chunks, written together: a document is either wholly there or not at all."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from data.access import current
from data.errors import Conflict, InvalidRequest, UnknownDocument
from data.records import Chunk, Document, Filter
from data.store import retired
from data.store.answers import forget_documents
from data.store.collections import ensure_collection, require_collection
from data.store.database import Database, Row, batches, check_limit, parse_cursor
from data.store.filters import conditions
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
    documents.c.tags,
    documents.c.modified_at,
)
_DOCUMENT = (
    documents.c.id,
    documents.c.source,
    documents.c.title,
    documents.c.text,
    documents.c.media_type,
    documents.c.meta,
)


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """A stored document without its text.

    ``sha256`` is over the file's bytes and ``size`` counts them; ``chunks`` counts its chunks.
    ``modified_at`` is the file's time in Unix seconds, 0 if it is not known.
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
    tags: tuple[str, ...] = ()
    modified_at: float = 0.0


@dataclass(frozen=True, slots=True)
class NewDocument:
    """A document to store, with all its chunks.

    ``document.id`` must not be in use for another source. ``sha256`` is over the file's bytes (64 hex
    digits), ``size`` counts them; ``settings_fingerprint`` names whatever else decided the chunks.
    ``tags`` None keeps those of the document it replaces.
    """

    document: Document
    sha256: str
    chunks: Sequence[Chunk]
    size: int = 0
    settings_fingerprint: str = ""
    tags: Sequence[str] | None = None
    modified_at: float = 0.0


def _row(row: Row) -> DocumentRow:
    values = {column.name: value for column, value in zip(_ROW, row, strict=False)}
    return DocumentRow(**values | {"tags": tuple(values["tags"])})


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
        tags: Sequence[str] | None = None,
        modified_at: float = 0.0,
    ) -> DocumentRow:
        """Store one document; see ``put_many``."""
        new = NewDocument(document, sha256, chunks, size, settings_fingerprint, tags, modified_at)
        return self.put_many(collection, [new])[0]

    def put_many(self, collection: str, new: Sequence[NewDocument]) -> list[DocumentRow]:
        """Store documents with all their chunks, each in place of the one of the same collection and source.

        One transaction: all are durable when this returns, or none is there. Unchanged chunks keep
        their keys; pairs whose chunks are gone become stale. What is replaced is found by searches
        until the next index generation takes over.

        Args:
            collection: created if it does not exist.
            new: each of another source.

        Raises:
            InvalidRequest: a chunk is not of its document, or not where it says; or one source comes twice.
            Conflict: an id belongs to another source or collection.
        """
        for item in new:
            _check(item.document, item.chunks)
        sources = [item.document.source for item in new]
        if len(set(sources)) != len(sources):
            raise InvalidRequest("One source comes twice.", wanted="each source once")
        with self._database.write() as connection:
            ensure_collection(self._database, connection, collection)
            self._refuse_foreign_ids(connection, collection, new)
            old = _at_sources(connection, collection, sources)
            replaced = [row for item in new if (row := old.get(item.document.source)) and row.id != item.document.id]
            retired.retire(connection, collection, [row.key for row in replaced], [])
            _delete(connection, [row.id for row in replaced])
            _write_rows(connection, collection, new, old)
            _put_chunks(connection, collection, new, {row.id for row in old.values()})
            rows = _at_sources(connection, collection, sources)
            return [_row(rows[source]) for source in sources]

    @staticmethod
    def _refuse_foreign_ids(connection: sa.Connection, collection: str, new: Sequence[NewDocument]) -> None:
        wanted = {item.document.id: (collection, item.document.source) for item in new}
        for batch in batches(wanted):
            query = sa.select(documents.c.id, documents.c.collection, documents.c.source)
            for found in connection.execute(query.where(documents.c.id.in_(batch))):
                if tuple(found[1:]) != wanted[found.id]:
                    raise Conflict(
                        "The document's id is in use.",
                        got=f"{found.id} of {found.source} in {found.collection}",
                        wanted="an id made from collection, source and text",
                    )

    def move(self, document_id: str, source: str) -> DocumentRow:
        """Change a document's source; its id, chunks, keys and pairs stay.

        Raises:
            UnknownDocument: there is none.
            Conflict: another document of the collection has that source.
        """
        with self._database.write() as connection:
            found = _require(connection, document_id)
            connection.execute(sa.update(documents).where(documents.c.id == document_id).values(source=source))
            retired.rename(connection, found.collection, found.source, source)
            return _require(connection, document_id)

    def annotate(self, notes: Sequence[tuple[str, Sequence[str], float]]) -> None:
        """Replace tags and date of documents, given as (id, tags, modified_at); unknown ids are ignored."""
        with self._database.write() as connection:
            for document_id, tags, modified_at in notes:
                values = {"tags": list(dict.fromkeys(tags)), "modified_at": modified_at}
                connection.execute(sa.update(documents).where(documents.c.id == document_id).values(values))

    def by_source(self, collection: str) -> dict[str, DocumentRow]:
        """Return every document of a collection (none if there is no such collection) by its source."""
        query = sa.select(*_ROW).where(documents.c.collection == collection).order_by(documents.c.source)
        with self._database.read() as connection:
            return {row.source: _row(row) for row in connection.execute(query)}

    def at_sources(self, collection: str, sources: Sequence[str]) -> dict[str, DocumentRow]:
        """Return the documents of a collection that are at ``sources``, by source."""
        with self._database.read() as connection:
            return {source: _row(row) for source, row in _at_sources(connection, collection, sources).items()}

    def any_of(self, sha256: str, name: str) -> bool:
        """Say whether a document of any collection is made of a file ``name`` with these bytes, or lies inside one."""
        source = documents.c.source
        made = (documents.c.sha256 == sha256) & ((source == name) | source.endswith(f"/{name}", autoescape=True))
        with self._database.read() as connection:
            query = sa.select(documents.c.key).where(made | source.startswith(f"{name}/", autoescape=True))
            return connection.execute(query.limit(1)).scalar() is not None

    def count_by_settings(self, collection: str) -> dict[str, int]:
        """Return how many documents of a collection were cut into chunks under each settings fingerprint."""
        query = sa.select(documents.c.settings_fingerprint, sa.func.count()).where(documents.c.collection == collection)
        with self._database.read() as connection:
            rows = connection.execute(query.group_by(documents.c.settings_fingerprint)).all()
        return {fingerprint: int(count) for fingerprint, count in rows}

    def get(self, document_id: str) -> Document:
        """Return a document with its text: also one that was replaced, while an index may still find it.

        Raises:
            UnknownDocument: there is none.
        """
        query = sa.select(*_DOCUMENT, documents.c.collection).where(documents.c.id == document_id)
        with self._database.read() as connection:
            row = connection.execute(query).one_or_none() or retired.text_of(connection, document_id)
        if row is None or not current().sees(row.collection):
            raise _unknown(document_id)
        return Document(*row[:-1])

    def iterate(self, collection: str, batch: int = 100) -> Iterator[tuple[DocumentRow, Document, list[Chunk]]]:
        """Yield every document with its text and chunks, oldest first; each batch is a read of its own."""
        last = 0
        while True:
            where = (documents.c.collection == collection) & (documents.c.key > last)
            query = sa.select(*_ROW, *_DOCUMENT, documents.c.key).where(where).order_by(documents.c.key).limit(batch)
            with self._database.read() as connection:
                rows = connection.execute(query).all()
                chunks = _chunks_of(connection, [row[0] for row in rows])
            for row in rows:
                yield _row(row), Document(*row[len(_ROW) : len(_ROW) + len(_DOCUMENT)]), chunks.get(row[0], [])
            if len(rows) < batch:
                return
            last = rows[-1][-1]

    def recount(self, document_id: str) -> int:
        """Set a document's number of chunks to how many it has, and return it."""
        count = sa.select(sa.func.count()).where(chunk_table.c.document_id == document_id).scalar_subquery()
        with self._database.write() as connection:
            connection.execute(sa.update(documents).where(documents.c.id == document_id).values(chunks=count))
            _note_keys(connection, [document_id])
            return _require(connection, document_id).chunks

    def row(self, document_id: str) -> DocumentRow:
        """Return a document without its text.

        Raises:
            UnknownDocument: there is none.
        """
        with self._database.read() as connection:
            return _require(connection, document_id)

    def list(
        self, collection: str, cursor: str | None = None, limit: int = 50, filter: Filter | None = None
    ) -> tuple[list[DocumentRow], str | None]:
        """Return a page of documents, oldest first, and the cursor of the next page (None at the end).

        Raises:
            UnknownCollection: there is no such collection.
            InvalidRequest: a bad cursor or limit.
        """
        where = (documents.c.collection == collection) & (documents.c.key > parse_cursor(cursor))
        narrowed = sa.and_(where, *conditions(documents, filter or Filter(), self._database.dialect))
        query = sa.select(*_ROW, documents.c.key).where(narrowed).order_by(documents.c.key)
        with self._database.read() as connection:
            require_collection(connection, collection)
            found = connection.execute(query.limit(check_limit(limit) + 1)).all()
        following = str(found[limit - 1].key) if len(found) > limit else None
        return [_row(row) for row in found[:limit]], following

    def delete(self, document_id: str) -> None:
        """Remove a document, its chunks, older versions and place in answers; pairs made from them become stale.

        Raises:
            UnknownDocument: there is none.
        """
        if not self.delete_many([document_id]):
            raise _unknown(document_id)

    def delete_many(self, ids: Iterable[str]) -> int:
        """Remove documents as ``delete`` does, in one transaction; return how many there were."""
        with self._database.write() as connection:
            found: list[Row] = []
            for batch in batches(ids):
                query = sa.select(documents.c.id, documents.c.collection, documents.c.source)
                found.extend(connection.execute(query.where(documents.c.id.in_(batch))))
            found = [row for row in found if current().sees(row.collection)]
            for row in found:
                forget_documents(connection, [row.id, *retired.forget(connection, row.collection, [row.source])])
            _delete(connection, [row.id for row in found])
        return len(found)

    def collect_retired(self, collection: str) -> int:
        """Forget the replaced documents that no index generation can hold any more; return how many."""
        with self._database.write() as connection:
            return retired.collect(connection, collection)

    def count(self, collection: str | None = None) -> int:
        """Count the documents of a collection, or of all of them."""
        where = documents.c.collection == collection if collection is not None else sa.true()
        query = sa.select(sa.func.count()).select_from(documents).where(where)
        with self._database.read() as connection:
            return int(connection.execute(query).scalar_one())


def _require(connection: sa.Connection, document_id: str) -> DocumentRow:
    row = connection.execute(sa.select(*_ROW).where(documents.c.id == document_id)).one_or_none()
    if row is None or not current().sees(row.collection):
        raise _unknown(document_id)
    return _row(row)


def _at_sources(connection: sa.Connection, collection: str, sources: Sequence[str]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for batch in batches(sources):
        query = sa.select(*_ROW, documents.c.key).where(documents.c.collection == collection)
        found.update((row.source, row) for row in connection.execute(query.where(documents.c.source.in_(batch))))
    return found


def _delete(connection: sa.Connection, ids: Sequence[str]) -> None:
    for batch in batches(ids):
        mark_stale(connection, sa.select(chunk_table.c.id).where(chunk_table.c.document_id.in_(batch)))
        connection.execute(sa.delete(documents).where(documents.c.id.in_(batch)))


def _write_rows(connection: sa.Connection, collection: str, new: Sequence[NewDocument], old: Mapping[str, Row]) -> None:
    inserted = []
    for item in new:
        before = old.get(item.document.source)
        tags = list(dict.fromkeys(item.tags)) if item.tags is not None else list(before.tags) if before else []
        values = {name: getattr(item.document, name) for name in ("id", "source", "title", "text", "media_type")}
        values |= {"meta": dict(item.document.meta), "collection": collection, "sha256": item.sha256}
        values |= {"size": item.size, "chunks": len(item.chunks), "settings_fingerprint": item.settings_fingerprint}
        values |= {"tags": tags, "modified_at": item.modified_at}
        if before is not None and before.id == item.document.id:
            connection.execute(sa.update(documents).where(documents.c.id == before.id).values(values))
        else:
            inserted.append(values | {"created_at": time.time()})
    if inserted:
        connection.execute(sa.insert(documents), inserted)


def _chunks_of(connection: sa.Connection, ids: Iterable[str]) -> dict[str, list[Chunk]]:
    table, found = chunk_table.c, dict[str, list[Chunk]]()
    query = sa.select(table.id, table.document_id, table.text, table.start, table.end, table.heading, table.page)
    for batch in batches(ids):
        rows = connection.execute(query.where(table.document_id.in_(batch)).order_by(table.start, table.key))
        for row in rows:
            found.setdefault(row.document_id, []).append(Chunk(*row))
    return found


def _put_chunks(connection: sa.Connection, collection: str, new: Sequence[NewDocument], known: Collection[str]) -> None:
    """Write the chunks of documents, leaving alone those that are there; ``known`` documents may have some."""
    before = _chunks_of(connection, [item.document.id for item in new if item.document.id in known])
    old = {chunk for chunks in before.values() for chunk in chunks}
    gone = old - {chunk for item in new for chunk in item.chunks}
    for batch in batches(chunk.id for chunk in gone):
        where = chunk_table.c.id.in_(batch)
        keys = connection.execute(sa.select(chunk_table.c.key).where(where)).scalars().all()
        retired.retire(connection, collection, [], keys)
        mark_stale(connection, batch)
        connection.execute(sa.delete(chunk_table).where(where))
    fields = ("id", "document_id", "start", "end", "page", "heading", "text")
    rows: list[dict[str, Any]] = [
        {"collection": collection} | {name: getattr(chunk, name) for name in fields}
        for item in new
        for chunk in item.chunks
        if chunk not in old
    ]
    if rows:
        connection.execute(sa.insert(chunk_table), rows)
        unmark_stale(connection, [row["id"] for row in rows])
    for batch in batches(item.document.id for item in new):
        _note_keys(connection, batch)


def _note_keys(connection: sa.Connection, ids: Sequence[str]) -> None:
    """Note the first and last key of the chunks of documents."""
    own = chunk_table.c.document_id == documents.c.id
    ends = {
        "first_key": sa.select(sa.func.min(chunk_table.c.key)).where(own).scalar_subquery(),
        "last_key": sa.select(sa.func.max(chunk_table.c.key)).where(own).scalar_subquery(),
    }
    connection.execute(sa.update(documents).where(documents.c.id.in_(ids)).values(ends))
