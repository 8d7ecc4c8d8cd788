"""What a calibration is worth: measured on questions that it has not seen.

The questions are halved by document, each half is measured by a calibration of the other, and both are looked at
together. Knows nothing of how answers are made.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from math import exp
from typing import Any

from data.errors import CalibrationTooSmall
from service.calibration.calibration import Fit, Point, fit, fold_numbers
from service.calibration.conformal import questions_needed, threshold
from service.calibration.measures import (
    area_under_risk_coverage,
    auroc,
    brier,
    expected_calibration_error,
    reliability,
    risk_coverage,
)

RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.3)
"""Shares of false answers that are reported; any other can be asked for."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What became of questions under a threshold, counts.

    Attributes:
        unanswerable: questions that have no answer in the documents.
        false: those of them that got one.
        answerable: questions that have an answer.
        answered: those of them that got one.
        wrong: those of them whose answer was wrong.
    """

    unanswerable: int = 0
    false: int = 0
    answerable: int = 0
    answered: int = 0
    wrong: int = 0

    def __add__(self, other: Kept) -> Kept:
        """Return both counts together."""
        return Kept(*(a + b for a, b in zip(asdict(self).values(), asdict(other).values(), strict=True)))

    def rates(self) -> dict[str, float | None]:
        """Return the rates, 0 to 1, None where there was nothing to count.

        ``false_answer_rate`` and ``coverage_answerable`` are those of ``compare``; ``wrong_answer_rate`` is the share
        of all answers given that are wrong, answers to unanswerable questions among them.
        """
        given = self.answered + self.false
        return {
            "false_answer_rate": self.false / self.unanswerable if self.unanswerable else None,
            "coverage_answerable": self.answered / self.answerable if self.answerable else None,
            "wrong_answer_rate": (self.wrong + self.false) / given if given else None,
        }


def keep(points: Sequence[Point], confidences: Mapping[str, float], floor: float) -> Kept:
    """Count what becomes of the questions where an answer's confidence must exceed ``floor``."""
    given = [point for point in points if point.answered and confidences[point.question_id] > floor]
    return Kept(
        unanswerable=sum(not point.answerable for point in points),
        false=sum(not point.answerable for point in given),
        answerable=sum(point.answerable for point in points),
        answered=sum(point.answerable for point in given),
        wrong=sum(point.answerable and not point.right for point in given),
    )


def report(points: Sequence[Point], names: Sequence[str], fitted: Fit) -> dict[str, Any]:
    """Return the figures of a calibration.

    ``auroc``, ``ece``, ``brier``, ``aurc``, ``bins`` and ``risk_coverage`` are of the answers given; of
    ``thresholds`` each has the threshold that is served and, under ``held_out``, what one fitted on half of the
    questions did to the other half.

    Args:
        points: all questions.
        names: the signals used.
        fitted: the fit over all of them.
    """
    halves = _halves(points)
    fits = [_try_fit(half, names) for half in halves]
    answered = [point for point in points if point.answered]
    unseen = _unseen(halves, fits) if all(fits) else dict(fitted.confidences)
    values = [unseen[point.question_id] for point in answered]
    right = [point.right for point in answered]
    return {
        "n": len(points),
        "answerable": sum(point.answerable for point in points),
        "unanswerable": fitted.unanswerable,
        "answered": len(answered),
        "right": sum(right),
        "held_out": "each half by a calibration of the other" if all(fits) else "folds: too few questions to halve",
        "auroc": auroc(values, right),
        "auroc_answerable": auroc(values, [point.answerable for point in answered]),
        "ece": expected_calibration_error(values, right),
        "ece_uncalibrated": _uncalibrated(answered),
        "brier": brier(values, right),
        "aurc": area_under_risk_coverage(values, right),
        "bins": [asdict(each) for each in reliability(values, right)],
        "risk_coverage": risk_coverage(values, right, len(points)),
        "thresholds": [_threshold(rate, fitted, halves, fits) for rate in RATES],
        "weights": dict(zip(names, fitted.model.weights, strict=True)),
    }


def _halves(points: Sequence[Point]) -> tuple[list[Point], list[Point]]:
    places = fold_numbers([point.group for point in points], 2)
    first = [point for point, place in zip(points, places, strict=True) if place == 0]
    return first, [point for point, place in zip(points, places, strict=True) if place == 1]


def _try_fit(points: Sequence[Point], names: Sequence[str]) -> Fit | None:
    try:
        return fit(points, names)
    except CalibrationTooSmall:
        return None


def _unseen(halves: Sequence[Sequence[Point]], fits: Sequence[Fit | None]) -> dict[str, float]:
    """Return each answer's confidence by the fit of the other half."""
    found: dict[str, float] = {}
    for points, other in zip(halves, reversed(fits), strict=True):
        assert other is not None
        found |= {point.question_id: other.model.probability(point.signals) for point in points if point.answered}
    return found


def _uncalibrated(answered: Sequence[Point]) -> float | None:
    """Return the calibration error of the geometric mean of the token probabilities, which nothing was fitted for."""
    plain = [exp(point.signals["logprob_mean"]) for point in answered]
    return expected_calibration_error(plain, [point.right for point in answered])


def _threshold(
    rate: float, fitted: Fit, halves: Sequence[Sequence[Point]], fits: Sequence[Fit | None]
) -> dict[str, Any]:
    row: dict[str, Any] = {"max_false_answer_rate": rate, "unanswerable_needed": questions_needed(rate)}
    try:
        floor = threshold(fitted.false_confidences, fitted.unanswerable, rate)
    except CalibrationTooSmall:
        return row | {"threshold": None, "held_out": None}
    # JSON has no infinity: every answer is given.
    row["threshold"] = max(floor, 0.0)
    try:
        counts = Kept()
        for points, other in zip(halves, reversed(fits), strict=True):
            if other is None:
                return row | {"held_out": None}
            confidences = _unseen_by(points, other)
            counts += keep(points, confidences, threshold(other.false_confidences, other.unanswerable, rate))
    except CalibrationTooSmall:
        return row | {"held_out": None}
    return row | {"held_out": counts.rates() | {"unanswerable": counts.unanswerable}}


def _unseen_by(points: Sequence[Point], other: Fit) -> dict[str, float]:
    return {point.question_id: other.model.probability(point.signals) for point in points if point.answered}
