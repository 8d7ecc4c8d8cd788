"""What a collection's pairs cover: for each document its chunks, those with pairs, and the information they hold.

Knows nothing of how pairs are made.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from data.store import DocumentRow, PairFilter, Store
from retrieval.question_types import QUESTION_TYPES, askable, count_types
from retrieval.wording import information


@dataclass(frozen=True, slots=True)
class DocumentCoverage:
    """One document's pairs; stale ones are not counted.

    ``information`` counts names, numbers and long words, chunk by chunk (``retrieval.wording``);
    ``information_share`` is the share of it, 0 to 1, in chunks with an accepted pair. ``question_types`` counts the
    accepted questions (the first 1000) by their question word, ``offered_types`` are those that its chunks could
    answer (``retrieval.question_types``).
    """

    document_id: str
    source: str
    title: str
    chunks: int
    chunks_with_pairs: int
    pairs: int
    accepted: int
    information: int
    information_share: float
    question_types: Mapping[str, int]
    offered_types: tuple[str, ...]


def coverage(
    store: Store, collection: str, cursor: str | None = None, limit: int = 50
) -> tuple[list[DocumentCoverage], str | None]:
    """Return the coverage of a page of documents, and the cursor of the next page (None at the end).

    Raises:
        InvalidRequest: a bad cursor or limit.
    """
    documents, following = store.documents.list(collection, cursor, limit)
    return [_covered(store, collection, row) for row in documents], following


def _covered(store: Store, collection: str, row: DocumentRow) -> DocumentCoverage:
    accepted_on = store.pairs.on_document(row.id)
    chunks = store.chunks.of_document(row.id)
    chosen = PairFilter(status="accepted", stale=False, document_id=row.id)
    asked, _ = store.pairs.find(collection, chosen, limit=1000)
    offered = {one for chunk in chunks for one in askable(chunk.text)}
    held = {chunk.id: information(chunk.text) for chunk in chunks}
    pairs = {pair_id: accepted for on in accepted_on.values() for pair_id, accepted in on.items()}
    covered = sum(held[chunk_id] for chunk_id, on in accepted_on.items() if any(on.values()))
    total = sum(held.values())
    return DocumentCoverage(
        document_id=row.id,
        source=row.source,
        title=row.title,
        chunks=len(chunks),
        chunks_with_pairs=len(accepted_on),
        pairs=len(pairs),
        accepted=sum(pairs.values()),
        information=total,
        information_share=covered / total if total else 0.0,
        question_types=count_types(pair.question for pair in asked),
        offered_types=tuple(one for one in QUESTION_TYPES if one in offered),
    )
