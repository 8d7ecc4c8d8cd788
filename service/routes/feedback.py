"""``POST /v1/feedback``: what a person says about an answer; a correction, or a good answer, is a candidate pair."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from data.errors import InvalidRequest
from service import api_models as models
from service.access import wants
from service.deps import WorkspaceDep
from service.feedback import proposed_pair
from service.schemas import FeedbackBody

router = APIRouter(prefix="/feedback", tags=["feedback"])


@router.post("", status_code=201, dependencies=[wants("query")], responses={201: {"model": models.Feedback}})
def give_feedback(body: FeedbackBody, workspace: WorkspaceDep) -> dict[str, Any]:
    """Keep a rating, a comment or a correction of an answer."""
    if body.rating is None and body.correction is None and body.comment is None:
        raise InvalidRequest("The feedback says nothing", wanted="a rating, a correction or a comment")
    row = workspace.store.answers.get(body.answer_id)
    identity = workspace.store.feedback.add(body.answer_id, body.rating, body.correction or "", body.comment or "")
    pair = proposed_pair(row, body.rating, body.correction)
    if pair is not None:
        workspace.store.pairs.add(row.collection, None, [pair])
    return {"id": identity, "answer_id": body.answer_id, "pair_id": pair.id if pair is not None else None}


@router.get("", dependencies=[wants("train")])
def list_feedback(workspace: WorkspaceDep) -> dict[str, Any]:
    """Return the newest feedback."""
    return {"feedback": workspace.store.feedback.list()}
