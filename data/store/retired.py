"""Replaced documents and chunks: an index generation finds what it was built from until it is gone.

When a document is replaced, the index still holds the old chunks until the next generation takes over
(and again after a rollback). They are kept here, out of every list and count, for as long as a ready
generation may hold them; ``needed_until`` names the newest that may. Deleting a document forgets its
old versions at once.
"""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from data.store.database import Row, batches
from data.store.schema import chunks, collections, documents, generations, retired_chunks, retired_documents

_DOCUMENT = ("id", "collection", "source", "title", "media_type", "meta", "tags", "modified_at")
_CHUNK = ("key", "id", "document_id", "start", "end", "page", "heading", "text")


def retire(connection: sa.Connection, collection: str, gone: Sequence[int], rechunked: Sequence[int]) -> None:
    """Keep documents that are about to be deleted, and the chunks of others that are about to be.

    Args:
        connection: inside the write transaction that goes on to delete them.
        collection: of all of them.
        gone: keys of documents that are replaced by others.
        rechunked: keys of chunks that go while their documents stay.
    """
    needed_until = _newest_generation(connection, collection)
    if needed_until is None:
        return
    for batch in batches(gone):
        _keep_documents(connection, batch, needed_until)
    for batch in batches(rechunked):
        _keep_chunks(connection, batch, needed_until)


def _newest_generation(connection: sa.Connection, collection: str) -> int | None:
    """Return the newest generation that may hold present chunks: one may just be about to begin."""
    used = (generations.c.collection == collection) & (generations.c.status != "failed")
    if connection.execute(sa.select(generations.c.number).where(used).limit(1)).scalar() is None:
        return None
    last = sa.select(collections.c.last_generation).where(collections.c.name == collection)
    return int(connection.execute(last).scalar_one()) + 1


def _keep_documents(connection: sa.Connection, keys: Sequence[int], needed_until: int) -> None:
    fields = [documents.c[name] for name in _DOCUMENT]
    # Whoever reads the text of a document reads it by id: an older copy of the same one is not needed beside it.
    source = sa.select(sa.literal(needed_until), *fields, documents.c.text).where(documents.c.key.in_(keys))
    connection.execute(sa.insert(retired_documents).from_select(["needed_until", *_DOCUMENT, "text"], source))
    newest = sa.select(sa.func.max(retired_documents.c.key)).where(retired_documents.c.id == documents.c.id)
    kept = (
        sa.select(newest.scalar_subquery(), *(chunks.c[name] for name in _CHUNK))
        .join_from(chunks, documents, chunks.c.document_id == documents.c.id)
        .where(documents.c.key.in_(keys))
    )
    connection.execute(sa.insert(retired_chunks).from_select(["retired_key", *_CHUNK], kept))


def _keep_chunks(connection: sa.Connection, keys: Sequence[int], needed_until: int) -> None:
    owners = sa.select(chunks.c.document_id).where(chunks.c.key.in_(keys)).distinct()
    source = sa.select(
        sa.literal(needed_until), *(documents.c[name] for name in _DOCUMENT), sa.literal(None, sa.Text)
    ).where(documents.c.id.in_(owners))
    connection.execute(sa.insert(retired_documents).from_select(["needed_until", *_DOCUMENT, "text"], source))
    newest = sa.select(sa.func.max(retired_documents.c.key)).where(retired_documents.c.id == chunks.c.document_id)
    kept = sa.select(newest.scalar_subquery(), *(chunks.c[name] for name in _CHUNK)).where(chunks.c.key.in_(keys))
    connection.execute(sa.insert(retired_chunks).from_select(["retired_key", *_CHUNK], kept))


def forget(connection: sa.Connection, collection: str, sources: Sequence[str]) -> list[str]:
    """Forget the old versions of documents that are being deleted; return their ids."""
    gone: list[str] = []
    for batch in batches(sources):
        where = (retired_documents.c.collection == collection) & retired_documents.c.source.in_(batch)
        gone.extend(connection.execute(sa.select(retired_documents.c.id).where(where)).scalars())
        connection.execute(sa.delete(retired_documents).where(where))
    return gone


def rename(connection: sa.Connection, collection: str, source: str, new: str) -> None:
    """Let the old versions of a moved document go with it."""
    where = (retired_documents.c.collection == collection) & (retired_documents.c.source == source)
    connection.execute(sa.update(retired_documents).where(where).values(source=new))


def collect(connection: sa.Connection, collection: str) -> int:
    """Forget what no generation can hold any more; return how many documents that were."""
    of = generations.c.collection == collection
    query = sa.select(sa.func.min(generations.c.number)).where(of & (generations.c.status != "failed"))
    oldest = connection.execute(query).scalar()
    where = retired_documents.c.collection == collection
    if oldest is not None:
        where &= retired_documents.c.needed_until < oldest
    return connection.execute(sa.delete(retired_documents).where(where)).rowcount


def text_of(connection: sa.Connection, document_id: str) -> Row | None:
    """Return (id, source, title, text, media_type, meta, collection) of a replaced document, None if it is gone."""
    table = retired_documents.c
    columns = (table.id, table.source, table.title, table.text, table.media_type, table.meta, table.collection)
    query = sa.select(*columns)
    where = (table.id == document_id) & table.text.is_not(None)
    return connection.execute(query.where(where).order_by(table.key.desc()).limit(1)).one_or_none()


def chunk_rows(connection: sa.Connection, keys: Sequence[int]) -> Sequence[Row]:
    """Return rows of (key, id, document_id, text, start, end, heading, page, source, title), oldest first.

    ``keys`` are at most ``IN_LIMIT``.
    """
    table = retired_chunks.c
    query = (
        sa.select(
            *(table[name] for name in ("key", "id", "document_id", "text", "start", "end", "heading", "page")),
            retired_documents.c.source,
            retired_documents.c.title,
        )
        .join_from(retired_chunks, retired_documents, table.retired_key == retired_documents.c.key)
        .where(table.key.in_(keys))
        .order_by(table.key)
    )
    return connection.execute(query).all()
