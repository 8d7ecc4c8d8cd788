"""What feedback becomes: a candidate pair for review, a question to evaluate on.

A correction is somebody's own answer, so it is both. A good rating proposes the answer as a pair only: measured against
the service's own answers, whatever is live would win. Knows nothing of HTTP.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.prompt import abstains, strip_citations
from data.records import Chunk, PairKind, QAPair, Question, content_id

if TYPE_CHECKING:
    from data.store import AnswerRow, Store

FEEDBACK = "feedback"
"""Origin of the questions, and ``generated_by`` of the pairs."""
_ROWS = 1000


def proposed_pair(row: AnswerRow, rating: int | None, correction: str | None) -> QAPair | None:
    """Return the candidate pair that feedback on an answer proposes, None if it proposes none."""
    if correction is not None:
        return correction_pair(row, correction)
    # A document that an answer was made of may have been deleted, and its text with it.
    if rating is not None and rating > 0 and not row.answer.abstained and row.answer.text:
        return correction_pair(row, row.answer.text)
    return None


def correction_pair(row: AnswerRow, correction: str) -> QAPair:
    """Return the pair that a corrected answer proposes: a span where a passage holds the correction."""
    answer = strip_citations(correction)
    if abstains(answer):
        answer = ""
    cited = {citation.document_id for citation in row.answer.citations}
    chunks = [passage.chunk for passage in row.answer.passages]
    holding = [chunk for chunk in chunks if answer and answer in chunk.text]
    evidence: Chunk | None = next((c for c in holding if c.document_id in cited), holding[0] if holding else None)
    kind: PairKind = "span" if evidence is not None else "free" if answer else "unanswerable"
    return QAPair(
        id=content_id("feedback", row.answer.id, row.question, answer),
        question=row.question,
        answer=answer,
        chunk_ids=(evidence.id,) if evidence is not None else (),
        kind=kind,
        generated_by=FEEDBACK,
    )


def feedback_questions(store: Store, collection: str) -> tuple[Question, ...]:
    """Return the corrected questions of a collection, the newest correction of each; an abstention is unanswerable."""
    found: dict[str, Question] = {}
    for row in store.feedback.list(_ROWS):
        if not row.correction:
            continue
        asked = store.answers.get(row.answer_id)
        answer = strip_citations(row.correction)
        if asked.collection != collection or asked.question in found:
            continue
        known = not abstains(answer)
        identity = f"{FEEDBACK}-{row.id[:12]}"
        answers = (answer,) if known else ()
        found[asked.question] = Question(identity, asked.question, answers, answerable=known, origin=FEEDBACK)
    return tuple(found.values())
