"""Scores beside F1: ROUGE-L, what the passages bear out, how good the confidences are, and likeness in meaning.

What cannot be scored is None and named under ``unscored`` with the reason, never a number that looks like one. Knows
nothing of how answers came about.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from data.prompt import strip_citations
from data.protocols import Embedder
from data.records import Question
from service.calibration.measures import area_under_risk_coverage, expected_calibration_error, risk_coverage
from service.compare.outcomes import Outcome


def further_scores(outcomes: Sequence[Outcome], asked: int) -> dict[str, Any]:
    """Return one arm's further scores.

    ``rouge_l`` is a mean over all questions, 0-100. ``groundedness`` is the share (0-1) of the sentences given that a
    passage bears out. ``ece``, ``aurc`` and ``risk_coverage`` are of the calibrated confidences of the answers given;
    coverage is of all questions.

    Args:
        outcomes: of one arm.
        asked: how many questions there were.
    """
    sure = [row for row in outcomes if row.answered and row.confidence is not None]
    confidences, right = [row.confidence or 0.0 for row in sure], [row.right for row in sure]
    sentences = sum(row.sentences for row in outcomes)
    unscored: dict[str, str] = {}
    if not sure:
        unscored |= dict.fromkeys(("ece", "aurc", "risk_coverage"), "no calibrated confidence: ragtune calibrate")
    if not sentences:
        unscored["groundedness"] = "no answer was given over passages"
    if not any(row.cited for row in outcomes):
        unscored["citation_precision"] = "nothing was cited"
    return {
        "rouge_l": float(np.mean([row.rouge_l for row in outcomes])),
        "groundedness": sum(row.grounded for row in outcomes) / sentences if sentences else None,
        "ece": expected_calibration_error(confidences, right),
        "aurc": area_under_risk_coverage(confidences, right),
        "risk_coverage": risk_coverage(confidences, right, asked) if sure else None,
        "unscored": unscored,
    }


def similarity(questions: Sequence[Question], outcomes: Sequence[Outcome], embedder: Embedder) -> dict[str, Any]:
    """Return the mean cosine of each answer given and its likest accepted answer; None where there is none to score.

    Args:
        questions: those that were asked, of which only answerable ones count.
        outcomes: of one arm, in their order.
        embedder: of the collection; what it makes of short texts in a language it does not know is noise.
    """
    pairs = [
        (strip_citations(outcome.text), question.answers)
        for question, outcome in zip(questions, outcomes, strict=True)
        if outcome.answered and question.answerable
    ]
    if not pairs:
        return {"semantic_similarity": None}
    answers = embedder.embed_documents([text for text, _ in pairs])
    golds = embedder.embed_documents([gold for _, accepted in pairs for gold in accepted])
    ends = np.cumsum([len(accepted) for _, accepted in pairs])
    best = [
        min(1.0, float((golds[end - len(accepted) : end] @ answers[row]).max()))
        for row, ((_, accepted), end) in enumerate(zip(pairs, ends.tolist(), strict=True))
    ]
    return {"semantic_similarity": float(np.mean(best))}
