"""How each arm of a comparison writes against a house's own examples, and whether its facts stayed the same.

Knows nothing of how the answers came about.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import fmean
from typing import Any

from data.errors import InvalidRequest
from data.formats import read_questions, read_rows
from data.prompt import strip_citations
from data.style import StyleMeter, StyleScore
from service.compare.outcomes import Outcome
from service.compare.result import arm_pairs
from service.compare.statistics import bootstrap_interval, mcnemar


def read_examples(path: Path) -> tuple[str, ...]:
    """Return the answers in a file of rows (chat, instruction, sharegpt) or of questions with their answers.

    Raises:
        InvalidRequest: a line is neither, or there is no answer.
    """
    failures: list[InvalidRequest] = []
    texts = [str(row["messages"][-1]["content"]) for row in read_rows(path, on_error=failures.append)]
    if not texts:
        texts = [question.answers[0] for question in read_questions(path) if question.answers]
    elif failures:
        raise failures[0]
    if not texts:
        raise InvalidRequest("The file holds no answers to learn a style from", got=str(path))
    return tuple(texts)


def check_examples(examples: Sequence[str]) -> None:
    """Raise unless a style can be told by ``examples``; none at all ask for no style.

    Raises:
        InvalidRequest: too few of them.
    """
    if examples:
        StyleMeter([strip_citations(text) for text in examples])


def style_summary(examples: Sequence[str], outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, Any]:
    """Return the style of each arm and the paired differences; all scores run 0-100.

    Abstentions and failures have no style and are left out; a difference is over the questions that both arms
    answered. ``facts`` are over all questions: how many answers hold an accepted answer in one arm alone.

    Returns:
        ``{"examples": n, "ceiling": total, "arms": {arm: {"total", "ci", "length", "format", "register", "phrases",
        "n"}}, "difference": {"a-b": {"total", "ci", "n", "facts": {"gained", "lost", "p"}}}}``; figures of an arm that
        answered nothing are None.

    Raises:
        InvalidRequest: too few examples.
    """
    meter = StyleMeter([strip_citations(text) for text in examples])
    scores = {
        arm: [None if row.abstained or row.error else meter.score(strip_citations(row.text)) for row in rows]
        for arm, rows in outcomes.items()
    }
    return {
        "examples": len(examples),
        "ceiling": 100 * meter.ceiling.total,
        "arms": {arm: _arm([score for score in found if score is not None]) for arm, found in scores.items()},
        "difference": {
            f"{a}-{b}": _difference(scores[a], scores[b], outcomes[a], outcomes[b]) for a, b in arm_pairs(outcomes)
        },
    }


def _arm(scores: Sequence[StyleScore]) -> dict[str, Any]:
    totals = [100 * score.total for score in scores]
    parts = ("length", "format", "register", "phrases")
    means = {part: 100 * fmean(asdict(score)[part] for score in scores) if scores else None for part in parts}
    return {
        "total": fmean(totals) if totals else None,
        "ci": list(bootstrap_interval(totals)) if totals else None,
        **means,
        "n": len(scores),
    }


def _difference(
    a: Sequence[StyleScore | None], b: Sequence[StyleScore | None], of_a: Sequence[Outcome], of_b: Sequence[Outcome]
) -> dict[str, Any]:
    both = [100 * (x.total - y.total) for x, y in zip(a, b, strict=True) if x is not None and y is not None]
    right_a, right_b = ([row.contained for row in rows] for rows in (of_a, of_b))
    pairs = list(zip(right_a, right_b, strict=True))
    return {
        "total": fmean(both) if both else None,
        "ci": list(bootstrap_interval(both)) if both else None,
        "n": len(both),
        "facts": {
            "gained": sum(x and not y for x, y in pairs),
            "lost": sum(y and not x for x, y in pairs),
            "p": mcnemar(right_a, right_b),
        },
    }
