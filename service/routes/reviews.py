"""``/v1/pairs``: decisions about many pairs, the way back, and what the pairs cover."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from service.access import wants
from service.answerer import check_collection
from service.deps import Cursor, Limit, WorkspaceDep
from service.review import decision, pair_with_history, reviewed_view
from service.schemas import BulkReviewBody

router = APIRouter(prefix="/pairs", tags=["pairs"], dependencies=[wants("train")])


@router.get("/coverage")
def pair_coverage(
    workspace: WorkspaceDep, *, collection: str = "default", cursor: Cursor = None, limit: Limit = 50
) -> dict[str, Any]:
    """Return what the pairs cover of each document, a page of documents at a time."""
    from retrieval.coverage import coverage

    check_collection(workspace.store, collection)
    found, following = coverage(workspace.store, collection, cursor, limit)
    return {"documents": [asdict(document) for document in found], "next_cursor": following}


@router.post("/bulk")
def review_many(body: BulkReviewBody, workspace: WorkspaceDep) -> dict[str, Any]:
    """Accept or reject pairs by id or by filter: all of them or none; ``dry_run`` only counts them."""
    check_collection(workspace.store, body.collection)
    reviews, changes = workspace.store.reviews, decision(body.status, body.reason)
    if body.filter is None:
        ids = list(dict.fromkeys(body.ids or ()))
        if body.dry_run:
            return {"dry_run": True, "pairs": len([workspace.store.pairs.get(pair_id) for pair_id in ids])}
        return reviewed_view(reviews.change(ids, changes))
    chosen = body.filter.record()
    if body.dry_run:
        return {"dry_run": True, "pairs": reviews.count(body.collection, chosen)}
    return reviewed_view(reviews.change_all(body.collection, chosen, changes))


@router.post("/reviews/{review_id}/undo")
def undo_review(review_id: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """Undo a whole review; pairs that were reviewed again since are left, and counted as ``unchanged``."""
    return reviewed_view(workspace.store.reviews.undo_review(review_id))


@router.post("/{pair_id}/undo")
def undo_pair(pair_id: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """Give a pair back the state before its newest review; 409 where none is left."""
    workspace.store.reviews.undo(pair_id)
    return pair_with_history(workspace.store, pair_id)
