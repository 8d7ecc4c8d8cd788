"""A ``Filter`` as SQL conditions on documents, and the chunks it lets through.

Knows nothing of indexes; the chunk keys of both present and replaced documents are returned, so that a
filtered search sees the same documents as one without a filter.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from typing import Any

import numpy as np
import sqlalchemy as sa

from data.protocols import Keys
from data.records import Filter
from data.store.database import batches
from data.store.schema import chunks, documents, retired_chunks, retired_documents

_WILD = frozenset("*?[")


def conditions(table: sa.FromClause, chosen: Filter, dialect: str) -> Iterator[sa.ColumnElement[bool]]:
    """Yield what a row of ``table`` (documents, or those replaced) must fulfil."""
    column = table.c
    if chosen.sources:
        yield sa.or_(*(_source(column.source, source, dialect) for source in chosen.sources))
    if chosen.media_types:
        yield column.media_type.in_(chosen.media_types)
    for tag in chosen.tags:
        yield _has_tag(column.tags, tag, dialect)
    if chosen.since is not None:
        yield column.modified_at >= chosen.since
    if chosen.until is not None:
        yield column.modified_at <= chosen.until


def _source(column: sa.ColumnElement[str], source: str, dialect: str) -> sa.ColumnElement[bool]:
    if not _WILD.intersection(source):
        return column == source
    # A name may itself hold a bracket: it is exact as well as a pattern.
    if dialect == "sqlite":
        return sa.or_(column == source, column.op("GLOB")(source))
    return sa.or_(column == source, column.op("~")(f"^(?:{fnmatch.translate(source)[4:-3]})$"))


def _has_tag(column: sa.ColumnElement[object], tag: str, dialect: str) -> sa.ColumnElement[bool]:
    if dialect == "sqlite":
        return sa.exists(
            sa.select(1).select_from(each := sa.func.json_each(column).table_valued("value")).where(each.c.value == tag)
        )
    each = sa.func.json_array_elements_text(column).table_valued("value")
    return sa.exists(sa.select(1).select_from(each).where(each.c.value == tag))


def matching(connection: sa.Connection, collection: str, chosen: Filter, dialect: str) -> Keys:
    """Return the keys of the chunks of every document that passes, ascending."""
    where = sa.and_(documents.c.collection == collection, *conditions(documents, chosen, dialect))
    spread = sa.case((documents.c.last_key - documents.c.first_key + 1 != documents.c.chunks, documents.c.id))
    query = sa.select(documents.c.first_key, documents.c.chunks, spread)
    rows = connection.execute(query.where(where, documents.c.first_key.is_not(None))).all()
    first, counts, spread_ids = zip(*rows, strict=True) if rows else ((), (), ())
    whole = np.array([identity is None for identity in spread_ids], dtype=np.bool_)
    found = [_between(np.array(first, dtype=np.int64)[whole], np.array(counts, dtype=np.int64)[whole])]
    for batch in batches(identity for identity in spread_ids if identity is not None):
        found.append(_keys(connection, sa.select(chunks.c.key).where(chunks.c.document_id.in_(batch))))
    retired = sa.and_(retired_documents.c.collection == collection, *conditions(retired_documents, chosen, dialect))
    link = retired_chunks.c.retired_key == retired_documents.c.key
    old = sa.select(retired_chunks.c.key).join_from(retired_documents, retired_chunks, link).where(retired)
    found.append(_keys(connection, old))
    keys: Keys = np.unique(np.concatenate(found))
    return keys


def _keys(connection: sa.Connection, query: sa.Select[Any]) -> Keys:
    return np.fromiter(connection.execute(query).scalars(), dtype=np.int64)


def _between(first: Keys, counts: Keys) -> Keys:
    """Return ``counts[i]`` keys from ``first[i]`` on, for each i."""
    before = np.cumsum(counts) - counts
    keys: Keys = np.arange(counts.sum(), dtype=np.int64) + np.repeat(first - before, counts)
    return keys
