"""Which pairs a review or a listing is about, as a record and as an SQL condition."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa

from data.records import Filter, PairKind, PairStatus
from data.store.filters import conditions
from data.store.schema import chunks, documents, pair_chunks, pairs


@dataclass(frozen=True, slots=True)
class PairFilter:
    """All conditions hold; what is None does not narrow.

    ``source`` is a document's source or a pattern of sources (``*`` and ``?``), ``text`` stands in the
    question or the answer (upper and lower case alike), ``failed_check`` names a check that the pair
    failed, ``generated_by`` is who made it, exactly.
    """

    status: PairStatus | None = None
    kind: PairKind | None = None
    stale: bool | None = None
    source: str | None = None
    document_id: str | None = None
    text: str | None = None
    failed_check: str | None = None
    generated_by: str | None = None


def narrowed(collection: str, chosen: PairFilter, dialect: str) -> sa.ColumnElement[bool]:
    """Return the condition that a row of ``pairs`` must fulfil."""
    return sa.and_(pairs.c.collection == collection, *_conditions(chosen, dialect))


def _conditions(chosen: PairFilter, dialect: str) -> Iterator[sa.ColumnElement[bool]]:
    for column, value in (
        (pairs.c.status, chosen.status),
        (pairs.c.kind, chosen.kind),
        (pairs.c.stale, chosen.stale),
        (pairs.c.generated_by, chosen.generated_by),
    ):
        if value is not None:
            yield column == value
    if chosen.text is not None:
        held = [column.icontains(chosen.text, autoescape=True) for column in (pairs.c.question, pairs.c.answer)]
        yield sa.or_(*held)
    if chosen.failed_check is not None:
        yield pairs.c.checks[(chosen.failed_check, "passed")].as_boolean().is_(sa.false())
    if chosen.source is not None or chosen.document_id is not None:
        yield _about(chosen, dialect)


def _about(chosen: PairFilter, dialect: str) -> sa.ColumnElement[bool]:
    """Return the condition that one of a pair's chunks belongs to the document; stale pairs have lost theirs."""
    joined = sa.select(1).select_from(
        pair_chunks.join(chunks, chunks.c.id == pair_chunks.c.chunk_id).join(
            documents, documents.c.id == chunks.c.document_id
        )
    )
    where = [pair_chunks.c.pair_id == pairs.c.id]
    if chosen.document_id is not None:
        where.append(documents.c.id == chosen.document_id)
    if chosen.source is not None:
        where += conditions(documents, Filter(sources=(chosen.source,)), dialect)
    return joined.where(*where).correlate(pairs).exists()
