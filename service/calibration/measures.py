"""How good a confidence is: does it rank right answers first, and does it mean what it says?

Confidences run 0 to 1. Knows nothing of where they come from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

BINS = 10
"""Bins of the reliability diagram (Guo et al. 2017, On Calibration of Modern Neural Networks, takes 15 for 10,000)."""


@dataclass(frozen=True, slots=True)
class Bin:
    """Answers of like confidence: how many, their mean confidence, and the share of them that are right."""

    n: int
    confidence: float
    right: float


def auroc(scores: Sequence[float], positive: Sequence[bool]) -> float | None:
    """Return the chance that a positive one is scored above another; None unless both kinds occur."""
    flags = np.asarray(positive, dtype=bool)
    ones, zeros = int(flags.sum()), int((~flags).sum())
    if not ones or not zeros:
        return None
    from scipy.stats import rankdata

    ranks = rankdata(np.asarray(scores, dtype=np.float64))
    return float((ranks[flags].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def reliability(confidences: Sequence[float], right: Sequence[bool], bins: int = BINS) -> list[Bin]:
    """Return the reliability diagram: bins of equal width that hold an answer, the least confident first."""
    values = np.asarray(confidences, dtype=np.float64)
    flags = np.asarray(right, dtype=np.float64)
    places = np.minimum((values * bins).astype(int), bins - 1)
    return [
        Bin(int(chosen.sum()), float(values[chosen].mean()), float(flags[chosen].mean()))
        for chosen in (places == place for place in range(bins))
        if chosen.any()
    ]


def expected_calibration_error(confidences: Sequence[float], right: Sequence[bool], bins: int = BINS) -> float | None:
    """Return how far confidence and accuracy are apart, weighted by bin (Naeini et al. 2015); None without answers."""
    found = reliability(confidences, right, bins)
    total = sum(each.n for each in found)
    return sum(each.n * abs(each.confidence - each.right) for each in found) / total if total else None


def brier(confidences: Sequence[float], right: Sequence[bool]) -> float | None:
    """Return the mean squared distance of confidence from truth (Brier 1950); None without answers."""
    if not len(confidences):
        return None
    apart = np.asarray(confidences, dtype=np.float64) - np.asarray(right, dtype=np.float64)
    return float(np.mean(apart**2))


def risks(scores: Sequence[float], right: Sequence[bool]) -> list[float]:
    """Return the share of wrong answers among the k best scored, for k = 1, 2, ...

    Among equal scores the order says nothing: each counts as wrong as they are on average.
    """
    values, wrong = np.asarray(scores, dtype=np.float64), 1.0 - np.asarray(right, dtype=np.float64)
    order = np.argsort(-values, kind="stable")
    values, wrong = values[order], wrong[order]
    _, group = np.unique(-values, return_inverse=True)
    shared = (np.bincount(group, wrong) / np.bincount(group))[group] if len(values) else wrong
    return [float(value) for value in np.cumsum(shared) / np.arange(1, len(values) + 1)]


def area_under_risk_coverage(scores: Sequence[float], right: Sequence[bool]) -> float | None:
    """Return AURC (Geifman and El-Yaniv 2017): the mean of ``risks``; 0 is best. None without answers."""
    found = risks(scores, right)
    return float(np.mean(found)) if found else None


def risk_coverage(scores: Sequence[float], right: Sequence[bool], asked: int) -> list[dict[str, float]]:
    """Return the curve at every tenth of the answers given: the share of questions answered, and how many are wrong.

    Args:
        scores: of the answers given.
        right: which of them are right.
        asked: how many questions were asked, those without an answer among them.
    """
    found = risks(scores, right)
    places = sorted({max(1, round(len(found) * tenth / 10)) for tenth in range(1, 11)}) if found else []
    return [{"coverage": place / asked, "risk": found[place - 1]} for place in places]
