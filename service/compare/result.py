"""From scored answers to the result of a comparison: the JSON that scripts read.

Knows nothing of how the answers came about; ``statistics`` supplies the numbers' meaning.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from data.errors import RagtuneError
from data.records import Question
from service.compare.outcomes import Outcome
from service.compare.scores import further_scores
from service.compare.statistics import (
    FEWEST_QUESTIONS,
    Difference,
    bootstrap_interval,
    compare_arms,
    holm,
    minimum_detectable_difference,
    verdict,
    wilson_interval,
)
from service.compare.strata import strata

_PREFERENCE = ("combined", "tuned", "reader", "rag", "base")
_RECOMMENDED = ("base", "rag", "tuned", "combined")
LEAST_COVERAGE = 0.1
"""Share of the answerable questions that an arm must answer to be recommended while another does: our choice."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A finished comparison: the questions, every arm's outcomes in their order, and the result."""

    questions: tuple[Question, ...]
    outcomes: Mapping[str, tuple[Outcome, ...]]
    result: Mapping[str, Any]


def _share(flags: Sequence[bool]) -> float | None:
    return sum(flags) / len(flags) if flags else None


def _share_interval(flags: Sequence[bool]) -> list[float] | None:
    return list(wilson_interval(sum(flags), len(flags))) if flags else None


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def citation_precision(outcomes: Sequence[Outcome]) -> float | None:
    """Return the share (0-1) of cited passages that hold an accepted answer; None if none is cited."""
    return _share([number in outcome.supporting for outcome in outcomes for number in outcome.cited])


def citation_recall(outcomes: Sequence[Outcome]) -> float | None:
    """Return the share (0-1) of answers with a supporting passage at hand that cite one of them."""
    could = [outcome for outcome in outcomes if outcome.supporting and not outcome.abstained and not outcome.error]
    return _share([bool(set(outcome.cited) & set(outcome.supporting)) for outcome in could])


def summarize_arm(outcomes: Sequence[Outcome], questions: Sequence[Question]) -> dict[str, Any]:
    """Return one arm's figures: F1, EM and containment 0-100, rates 0-1, latency in milliseconds."""
    answered = [not outcome.abstained and not outcome.error for outcome in outcomes]
    pairs = list(zip(answered, questions, strict=True))
    latency = [outcome.latency_ms for outcome in outcomes if not outcome.error] or [0.0]
    median, slow = np.percentile(latency, [50, 95])
    precision, recall = citation_precision(outcomes), citation_recall(outcomes)
    false_answers = [flag for flag, question in pairs if not question.answerable]
    coverage = [flag for flag, question in pairs if question.answerable]
    f1 = [outcome.f1 for outcome in outcomes]
    return {
        "f1": float(np.mean(f1)),
        "f1_ci": list(bootstrap_interval(f1)),
        "em": 100 * float(np.mean([outcome.em for outcome in outcomes])),
        "containment": 100 * float(np.mean([outcome.contained for outcome in outcomes])),
        "n": len(outcomes),
        "abstained": sum(outcome.abstained for outcome in outcomes),
        "false_answer_rate": _share(false_answers),
        "false_answer_rate_ci": _share_interval(false_answers),
        "coverage_answerable": _share(coverage),
        "coverage_answerable_ci": _share_interval(coverage),
        "citation_precision": precision,
        "citation_recall": recall if any(outcome.passages for outcome in outcomes) else None,
        **further_scores(outcomes, len(questions)),
        "latency_ms_p50": float(median),
        "latency_ms_p95": float(slow),
        "prompt_tokens": _mean([outcome.prompt_tokens for outcome in outcomes if not outcome.error]),
        "cached_tokens": _mean([outcome.cached_tokens for outcome in outcomes if not outcome.error]),
        "completion_tokens": _mean([outcome.completion_tokens for outcome in outcomes if not outcome.error]),
        "adapter": next((outcome.adapter for outcome in outcomes if outcome.adapter), None),
        "errors": [{"id": o.question_id, "error": o.error} for o in outcomes if o.error],
    }


def summarize_failed(given: Sequence[tuple[Question, Outcome]], error: RagtuneError) -> dict[str, Any]:
    """Return the figures of an arm that could not go on, over the questions it answered, with ``failed``."""
    answered = [(question, outcome) for question, outcome in given if not outcome.error]
    failed = {"type": error.type, "error": str(error), "after": len(answered)}
    if not answered:
        answered = [(question, outcome) for question, outcome in given[:1]]
    questions, outcomes = zip(*answered, strict=True)
    return summarize_arm(outcomes, questions) | {"n": failed["after"], "failed": failed, "adapter": outcomes[0].adapter}


def _preference(arm: str) -> int:
    return _PREFERENCE.index(arm) if arm in _PREFERENCE else 1


def arm_pairs(arms: Iterable[str]) -> list[tuple[str, str]]:
    """Return every two arms, the preferred one first, and the main pair before all others."""
    ordered = sorted(arms, key=_preference)
    pairs = [(a, b) for i, a in enumerate(ordered) for b in ordered[i + 1 :]]
    return sorted(pairs, key=lambda pair: pair != ("combined", "rag"))


def all_differences(outcomes: Mapping[str, Sequence[Outcome]]) -> list[Difference]:
    """Compare every two arms, the main difference first: combined-rag, else the two that matter most.

    The main one is named before anything is measured, so it stands alone; the others are corrected together.
    """
    f1 = {arm: [outcome.f1 for outcome in row] for arm, row in outcomes.items()}
    right = {arm: [outcome.em for outcome in row] for arm, row in outcomes.items()}
    found = [compare_arms(a, b, f1, right) for a, b in arm_pairs(outcomes)]
    adjusted = holm([difference.p_f1 for difference in found[1:]])
    return [*found[:1], *(replace(d, p_adjusted=p) for d, p in zip(found[1:], adjusted, strict=True))]


def containment_difference(a: Sequence[Outcome], b: Sequence[Outcome]) -> dict[str, Any]:
    """Return how many points more answers of ``a`` hold an accepted answer, with the paired 95 % interval."""
    paired = [100.0 * (x.contained - y.contained) for x, y in zip(a, b, strict=True)]
    return {"containment": float(np.mean(paired)), "containment_ci": list(bootstrap_interval(paired))}


def _recommendation(arms: Mapping[str, Mapping[str, Any]], questions: int) -> str | None:
    """Return the mode with the highest mean F1 of those that answer, or None where too few questions were asked.

    Whoever always abstains is right about every question without an answer, and of use to nobody.
    """
    modes = [arm for arm in arms if arm in _RECOMMENDED]
    if questions < FEWEST_QUESTIONS or not modes:
        return None
    answering = [arm for arm in modes if (arms[arm]["coverage_answerable"] or 0.0) >= LEAST_COVERAGE]
    return max(answering or modes, key=lambda arm: arms[arm]["f1"])


def summarize(
    outcomes: Mapping[str, Sequence[Outcome]], questions: Sequence[Question], seconds: Mapping[str, float]
) -> dict[str, Any]:
    """Return the result of design.md section 4: arms, differences, verdict, what was detectable.

    Args:
        outcomes: every arm's outcomes, in the order of ``questions``.
        questions: at least one.
        seconds: wall time of each stage.
    """
    arms = {arm: summarize_arm(rows, questions) for arm, rows in outcomes.items()}
    means = {arm: figures["f1"] for arm, figures in arms.items()}
    differences = all_differences(outcomes)
    n = len(questions)
    spread = differences[0].sd if differences else 0.0
    detectable = minimum_detectable_difference(n, spread) if spread else minimum_detectable_difference(n)
    return {
        "arms": arms,
        "difference": {
            f"{d.a}-{d.b}": {
                "f1": d.f1,
                "ci": list(d.ci),
                **containment_difference(outcomes[d.a], outcomes[d.b]),
                "p": d.p,
                "p_f1": d.p_f1,
                "p_adjusted": d.p_f1 if d.p_adjusted is None else d.p_adjusted,
                "effect": d.effect,
                "decisive": d.decisive,
            }
            for d in differences
        },
        "verdict": verdict(differences, means),
        "recommendation": _recommendation(arms, n),
        "minimum_detectable_difference": detectable,
        "questions": {
            "n": n,
            "answerable": sum(question.answerable for question in questions),
            "origins": dict(Counter(question.origin for question in questions)),
        },
        "strata": strata(questions, outcomes),
        "seconds": dict(seconds),
    }
