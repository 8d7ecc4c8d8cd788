"""Reviews of pairs: what a reviewer sees, and what a decision or a correction changes.

The same for the command line and HTTP, and knows neither.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data.errors import InvalidRequest
from data.records import Passage, QAPair
from service.views import pair_view

if TYPE_CHECKING:
    from data.store import Reviewed, Store
    from data.store.chunks import Found

BY_HAND = "by_hand"
"""Why a pair was rejected where the reviewer gives no reason."""


def pair_details(store: Store, pairs: Sequence[QAPair]) -> list[dict[str, Any]]:
    """Return pairs as reviewers see them: each with the passages it rests on and its answer's place in them."""
    found = store.chunks.by_ids(dict.fromkeys(chunk_id for pair in pairs for chunk_id in pair.chunk_ids))
    return [
        {**pair_view(pair), "passages": [_passage(pair, *found[i]) for i in pair.chunk_ids if i in found]}
        for pair in pairs
    ]


def pair_with_history(store: Store, pair_id: str) -> dict[str, Any]:
    """Return one pair as ``pair_details`` does, with what it was before each review, newest first.

    Raises:
        UnknownPair: there is none.
    """
    (details,) = pair_details(store, [store.pairs.get(pair_id)])
    return {**details, "history": store.reviews.history(pair_id)}


def _passage(pair: QAPair, chunk: Any, source: str, title: str) -> dict[str, Any]:
    """Return a passage with ``span``: where the answer stands in ``text``, in characters; None where it does not."""
    from retrieval.wording import span_of

    span = span_of(pair.answer, chunk.text) if pair.answer else None
    return {
        "chunk_id": chunk.id,
        "document_id": chunk.document_id,
        "source": source,
        "title": title,
        "heading": chunk.heading,
        "page": chunk.page,
        "start": chunk.start,
        "end": chunk.end,
        "text": chunk.text,
        "span": {"start": span[0], "end": span[1]} if span else None,
    }


def decision(status: str, reason: str = "") -> dict[str, str]:
    """Return the changes that a decision makes: only a rejected pair has a reason."""
    return {"status": status, "reason": (reason.strip() or BY_HAND) if status == "rejected" else ""}


def edit_pair(store: Store, pair_id: str, changes: Mapping[str, Any]) -> Reviewed:
    """Accept, reject or correct one pair; what its new wording says for itself is checked again.

    The checks are recorded, the decision stays the reviewer's.

    Args:
        store: holds the pair.
        pair_id: which.
        changes: of question, answer, status and reason.

    Raises:
        UnknownPair: there is none.
        InvalidRequest: nothing would change, or an answerable pair would have no answer.
    """
    pair = store.pairs.get(pair_id)
    if not changes:
        raise InvalidRequest("The review changes nothing", wanted="question, answer, status or reason")
    made = dict(changes)
    answer = made.get("answer", pair.answer)
    if pair.kind != "unanswerable" and not answer.strip():
        raise InvalidRequest("An answerable pair needs an answer", got=repr(answer))
    if pair.kind == "unanswerable" and answer.strip():
        raise InvalidRequest("An unanswerable pair has no answer", got=repr(answer), hint="Import it as a new pair.")
    if {"status", "reason"} & made.keys():
        status = made.get("status", pair.status)
        made |= decision(status, made.get("reason", pair.reason if status == pair.status else ""))
    if {"question", "answer"} & made.keys():
        made["checks"] = _checks(store, pair, made.get("question", pair.question), answer)
    return store.reviews.change([pair_id], made)


def _checks(store: Store, pair: QAPair, question: str, answer: str) -> dict[str, Any]:
    """Return the checks of an edited pair; those that the old wording went through and cannot be run here are gone."""
    from retrieval.curate import check_wording

    found = [_as_passage(hit) for hit in store.chunks.by_ids(pair.chunk_ids).values()]
    results = check_wording(question, answer, pair.kind, found)
    return {result.name: {"passed": result.passed, "reason": result.reason} for result in results}


def _as_passage(found: Found) -> Passage:
    chunk, source, title = found
    return Passage(chunk, 0.0, 1, "review", source, title)


def reviewed_view(done: Reviewed) -> dict[str, Any]:
    """Return what became of a review as JSON."""
    return {"review_id": done.review_id, "changed": list(done.changed), "unchanged": done.unchanged}
