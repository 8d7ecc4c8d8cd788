"""The threshold that keeps the share of false answers under a wanted rate, by conformal risk control.

Angelopoulos, Bates, Fisch, Lei and Schuster, 2022, Conformal Risk Control, theorem 1: with losses of at most 1 that
fall as the threshold rises, the smallest threshold at which ``n / (n + 1) * mean loss + 1 / (n + 1)`` is within the
rate has an expected loss within the rate on the next question, if that one is exchangeable with the n. Here the n are
unanswerable questions and the loss of one is 1 where it gets an answer: the loss's mean is ``false_answer_rate`` as
``compare`` counts it. Knows nothing of how a confidence comes about.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from data.errors import CalibrationTooSmall, InvalidRequest

_ROUNDING = 1e-9
"""Rates are decimal fractions: 0.15 * 20 is 3 and not a little less."""


def check_rate(rate: float) -> None:
    """Raise ``InvalidRequest`` for a rate that no number of questions can vouch for."""
    if not 0 < rate <= 1:
        raise InvalidRequest(
            "A share of false answers cannot be kept at that",
            got=rate,
            wanted="max_false_answer_rate over 0 and at most 1",
            hint="No finite number of questions shows a rate of 0; ask for 0.05, say.",
        )


def questions_needed(rate: float) -> int:
    """Return how many unanswerable questions a threshold for ``rate`` needs at least: 1 / (n + 1) within the rate."""
    check_rate(rate)
    return max(0, math.ceil(1 / rate - 1 - _ROUNDING))


def allowed_answers(unanswerable: int, rate: float) -> int:
    """Return how many of the unanswerable questions may get an answer; negative where they are too few."""
    return math.floor(rate * (unanswerable + 1) - 1 + _ROUNDING)


def threshold(answered: Sequence[float], unanswerable: int, rate: float) -> float:
    """Return the confidence above which an answer is given; ``-inf`` where every answer may be.

    Args:
        answered: confidences of the unanswerable questions that got an answer.
        unanswerable: how many unanswerable questions there were, those that got none among them.
        rate: largest share of unanswerable questions that may get an answer, over 0 and at most 1.

    Raises:
        InvalidRequest: the rate is out of range.
        CalibrationTooSmall: no threshold can be vouched for with so few questions.
    """
    check_rate(rate)
    allowed = allowed_answers(unanswerable, rate)
    if allowed < 0 and rate < 1:
        raise CalibrationTooSmall(
            "Too few unanswerable questions were asked to keep the share of false answers that low",
            got=f"{unanswerable} unanswerable questions",
            wanted=f"at least {questions_needed(rate)} for a rate of {rate:g}",
            hint="Calibrate with more unanswerable questions, or allow a higher rate.",
        )
    ordered = sorted(answered, reverse=True)
    return ordered[allowed] if len(ordered) > max(allowed, 0) and rate < 1 else -math.inf
