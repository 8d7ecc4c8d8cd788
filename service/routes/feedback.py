"""``POST /v1/feedback``: what a person says about an answer; a correction becomes a candidate pair."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from data.errors import InvalidRequest
from data.prompt import strip_citations
from data.records import Chunk, PairKind, QAPair, content_id
from data.store import AnswerRow
from service.access import wants
from service.deps import WorkspaceDep
from service.schemas import FeedbackBody

router = APIRouter(prefix="/feedback", tags=["feedback"])


@router.post("", status_code=201, dependencies=[wants("query")])
def give_feedback(body: FeedbackBody, workspace: WorkspaceDep) -> dict[str, Any]:
    """Keep a rating, a comment or a correction of an answer."""
    if body.rating is None and body.correction is None and body.comment is None:
        raise InvalidRequest("The feedback says nothing", wanted="a rating, a correction or a comment")
    row = workspace.store.answers.get(body.answer_id)
    identity = workspace.store.feedback.add(body.answer_id, body.rating, body.correction or "", body.comment or "")
    pair_id = None
    if body.correction is not None:
        pair = correction_pair(row, body.correction)
        workspace.store.pairs.add(row.collection, None, [pair])
        pair_id = pair.id
    return {"id": identity, "answer_id": body.answer_id, "pair_id": pair_id}


@router.get("", dependencies=[wants("train")])
def list_feedback(workspace: WorkspaceDep) -> dict[str, Any]:
    """Return the newest feedback."""
    return {"feedback": workspace.store.feedback.list()}


def correction_pair(row: AnswerRow, correction: str) -> QAPair:
    """Return the pair that a corrected answer proposes: a span where a passage holds the correction."""
    answer = strip_citations(correction)
    cited = {citation.document_id for citation in row.answer.citations}
    chunks = [passage.chunk for passage in row.answer.passages]
    holding = [chunk for chunk in chunks if answer in chunk.text]
    evidence: Chunk | None = next((c for c in holding if c.document_id in cited), holding[0] if holding else None)
    kind: PairKind = "span" if evidence is not None else "free"
    return QAPair(
        id=content_id("feedback", row.answer.id, row.question, answer),
        question=row.question,
        answer=answer,
        chunk_ids=(evidence.id,) if evidence is not None else (),
        kind=kind,
        generated_by="feedback",
    )
