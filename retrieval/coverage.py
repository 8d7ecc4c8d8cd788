"""What a collection's pairs cover: for each document its chunks, those with pairs, and the information they hold.

Knows nothing of how pairs are made.
"""

from __future__ import annotations

from dataclasses import dataclass

from data.store import Store
from retrieval.wording import information


@dataclass(frozen=True, slots=True)
class DocumentCoverage:
    """One document's pairs; stale ones are not counted.

    ``information`` counts names, numbers and long words, chunk by chunk (``retrieval.wording``);
    ``information_share`` is the share of it, 0 to 1, in chunks with an accepted pair.
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


def coverage(
    store: Store, collection: str, cursor: str | None = None, limit: int = 50
) -> tuple[list[DocumentCoverage], str | None]:
    """Return the coverage of a page of documents, and the cursor of the next page (None at the end).

    Raises:
        InvalidRequest: a bad cursor or limit.
    """
    documents, following = store.documents.list(collection, cursor, limit)
    return [_covered(store, row.id, row.source, row.title) for row in documents], following


def _covered(store: Store, document_id: str, source: str, title: str) -> DocumentCoverage:
    accepted_on = store.pairs.on_document(document_id)
    chunks = store.chunks.of_document(document_id)
    held = {chunk.id: information(chunk.text) for chunk in chunks}
    pairs = {pair_id: accepted for on in accepted_on.values() for pair_id, accepted in on.items()}
    covered = sum(held[chunk_id] for chunk_id, on in accepted_on.items() if any(on.values()))
    total = sum(held.values())
    return DocumentCoverage(
        document_id=document_id,
        source=source,
        title=title,
        chunks=len(chunks),
        chunks_with_pairs=len(accepted_on),
        pairs=len(pairs),
        accepted=sum(pairs.values()),
        information=total,
        information_share=covered / total if total else 0.0,
    )
