"""What the scores of a comparison can and cannot show: intervals, p-values, verdicts.

Scores run 0-100 here, one per question, paired by position. Knows nothing of questions, models or
files; every random draw comes from a fixed seed, so the same scores give the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
"""Resamples of one bootstrap: enough for the 2.5 % tails to move by less than a tenth of a point."""
SEED = 20_240
CONFIDENCE = 0.95
POWER = 0.8
"""Chance to see a difference that is really there: Cohen's convention (1988)."""
PLANNING_SD = 45.0
"""Standard deviation of a paired F1 difference assumed before a run. Extractive answers are mostly 0
or 100; two arms that disagree wholly on every fifth question have about 45."""

FEWEST_QUESTIONS = 20
"""Below this the percentile bootstrap is too narrow (one question would even have no width)."""
SMALLEST_OF_INTEREST = 1.0
"""F1 points: nobody should collect thousands of questions to settle a difference below this."""

Scores = NDArray[np.float64]
Interval = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Difference:
    """Arm ``a`` minus arm ``b`` over the same questions.

    Attributes:
        f1: mean difference, F1 points.
        ci: its 95 % interval.
        p: exact McNemar p-value of the exact matches.
        sd: standard deviation of the paired differences, F1 points.
        n: questions.
        p_f1: two-sided p-value of the F1 difference by paired randomization.
        p_adjusted: ``p_f1`` after Holm's correction over the comparisons made beside it; None: made alone.

    A verdict needs both the interval and the p-value: the interval tells by how much, the p-value keeps its level where
    the bootstrap is a little too narrow (few questions, scores that are mostly 0 or 100).
    """

    a: str
    b: str
    f1: float
    ci: Interval
    p: float
    sd: float
    n: int
    p_f1: float = 0.0
    p_adjusted: float | None = None

    @property
    def decisive(self) -> bool:
        """Tell whether interval and p-value leave zero out, over enough questions and after correction."""
        return self.n >= FEWEST_QUESTIONS and self._clear and self._corrected <= 1 - CONFIDENCE

    @property
    def _clear(self) -> bool:
        return self.ci[0] > 0 or self.ci[1] < 0

    @property
    def _corrected(self) -> float:
        return self.p_f1 if self.p_adjusted is None else self.p_adjusted

    @property
    def interval(self) -> str:
        """Say the interval, the questions, and the p-value where that alone denies a verdict."""
        said = f"95 % interval {self.ci[0]:+.1f} to {self.ci[1]:+.1f}, {count_questions(self.n)}"
        denied = self.n >= FEWEST_QUESTIONS and self._clear and not self.decisive
        return f"{said}, p = {self._corrected:.2g}" if denied else said

    @property
    def effect(self) -> float | None:
        """Return the standardised difference (Cohen's d_z, 1988): mean over standard deviation; None without one."""
        return self.f1 / self.sd if self.sd else None


def _means(scores: Scores, draw: Callable[[np.random.Generator, tuple[int, int]], Scores]) -> Scores:
    """Return the means of RESAMPLES drawn rows, in blocks that keep memory small."""
    generator = np.random.default_rng(SEED)
    size = len(scores)
    block = max(1, min(RESAMPLES, 4_000_000 // size))
    rows = [min(block, RESAMPLES - start) for start in range(0, RESAMPLES, block)]
    return np.concatenate([draw(generator, (count, size)).mean(axis=1) for count in rows])


def _resampled_means(scores: Scores) -> Scores:
    return _means(scores, lambda generator, shape: scores[generator.integers(0, len(scores), shape)])


def bootstrap_interval(scores: Sequence[float]) -> Interval:
    """Return the expanded percentile bootstrap 95 % interval of the mean (Hesterberg 2015, The American Statistician).

    Plain percentiles are too narrow for few scores: by the factor of the standard deviation's n in place of n - 1 and
    of the normal's quantile in place of Student's. The tails are chosen so that neither is lost.

    Raises:
        ValueError: no scores.
    """
    if not len(scores):
        raise ValueError("an interval needs at least one score")
    return _interval(_resampled_means(np.asarray(scores, dtype=np.float64)), len(scores))


def _interval(means: Scores, n: int) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    if n > 1:
        from scipy.stats import norm, t  # takes half a second and 60 MB, so it is not imported with the module

        tail = float(norm.cdf(math.sqrt(n / (n - 1)) * t.ppf(tail, n - 1)))
    low, high = np.percentile(means, [100 * tail, 100 * (1 - tail)])
    return float(low), float(high)


def _randomization_p(paired: Scores) -> float:
    """Return the two-sided p-value of a paired randomization test (Fisher 1935; Smucker et al. 2007 for retrieval).

    If two arms are alike, either could have had each question's score: the share of random signs whose mean is at
    least as far from zero. It keeps its level for any number of questions, which no bootstrap does.
    """
    means = np.abs(_means(paired, lambda generator, shape: np.where(generator.random(shape) < 0.5, paired, -paired)))
    seen = abs(paired.mean()) * (1 - 1e-9)  # equal sums that were added in another order are ties
    return float((1 + (means >= seen).sum()) / (1 + len(means)))


def wilson_interval(successes: int, n: int) -> Interval:
    """Return the 95 % interval of a rate, 0-1 (Wilson 1927).

    Raises:
        ValueError: nothing was counted.
    """
    if not n:
        raise ValueError("a rate needs at least one case")
    from scipy.stats import binomtest

    found = binomtest(successes, n).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values that hold over all of them together (Holm 1979), in the order given."""
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def sign_test(wins: int, losses: int) -> float:
    """Return the exact two-sided p-value of so many wins and losses if both were equally likely; ties do not count."""
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses, 0.5).pvalue) if wins + losses else 1.0


def mcnemar(a_right: Sequence[bool], b_right: Sequence[bool]) -> float:
    """Return the exact two-sided McNemar p-value: a binomial test on the questions they split on."""
    only_a = sum(a and not b for a, b in zip(a_right, b_right, strict=True))
    only_b = sum(b and not a for a, b in zip(a_right, b_right, strict=True))
    return sign_test(only_a, only_b)


def compare_arms(a: str, b: str, f1: Mapping[str, Sequence[float]], right: Mapping[str, Sequence[bool]]) -> Difference:
    """Compare two arms: paired bootstrap and randomization over questions for F1, exact McNemar for exact matches.

    Args:
        a: name of the arm to subtract from.
        b: name of the arm to subtract.
        f1: each arm's F1 per question, 0-100, in one order of questions.
        right: each arm's exact matches, in the same order.
    """
    paired = np.asarray(f1[a], dtype=np.float64) - np.asarray(f1[b], dtype=np.float64)
    spread = float(paired.std(ddof=1)) if len(paired) > 1 else 0.0
    interval, p = _interval(_resampled_means(paired), len(paired)), mcnemar(right[a], right[b])
    return Difference(a, b, float(paired.mean()), interval, p, spread, len(paired), _randomization_p(paired))


def _effect() -> float:
    quantile = NormalDist().inv_cdf
    return quantile(1 - (1 - CONFIDENCE) / 2) + quantile(POWER)


def minimum_detectable_difference(questions: int, sd: float = PLANNING_SD) -> float:
    """Return the smallest true difference (F1 points) that ``questions`` show with 80 % power.

    Normal approximation of the paired test; ``sd`` is the standard deviation of the paired
    differences in F1 points.
    """
    return _effect() * sd / math.sqrt(questions)


def questions_needed(difference: float, sd: float) -> int:
    """Return how many questions show a true ``difference`` (F1 points, not 0) with 80 % power."""
    return math.ceil((_effect() * sd / abs(difference)) ** 2)


def count_questions(n: int) -> str:
    """Return ``n`` with its noun."""
    return "1 question" if n == 1 else f"{n} questions"


def describe_power(questions: int) -> str:
    """Return, before anything is asked, which differences so many questions (at least one) can show."""
    counted = count_questions(questions)
    smallest = minimum_detectable_difference(questions)
    if smallest > 100:
        return f"{counted} can show no difference; {questions_needed(10, PLANNING_SD)} show one of 10 F1 points."
    return f"{counted} can show differences of about {smallest:.0f} F1 points or more."


def describe(difference: Difference) -> str:
    """Return one sentence on a difference: who is better by how much, or that it is not decisive."""
    a, b, f1, n = difference.a, difference.b, difference.f1, difference.n
    (low, high), interval = difference.ci, difference.interval
    if difference.decisive and f1 > 0:
        return f"{a} is better than {b} by {f1:.1f} F1 points ({interval})"
    if difference.decisive:
        turned = f"95 % interval {-high:+.1f} to {-low:+.1f}, {count_questions(n)}"
        return f"{b} is better than {a} by {-f1:.1f} F1 points ({turned})"
    if abs(f1) < SMALLEST_OF_INTEREST and n >= FEWEST_QUESTIONS:
        return f"{a} against {b} is not decisive: they are alike on these questions, {f1:+.1f} F1 points ({interval})"
    wanted = questions_needed(f1, max(difference.sd, 1.0)) if f1 else FEWEST_QUESTIONS
    more = max(wanted, FEWEST_QUESTIONS, n + 1) - n
    return f"{a} against {b} is not decisive: ask {more} more questions ({f1:+.1f} F1 points so far, {interval})"


def verdict(differences: Sequence[Difference], means: Mapping[str, float]) -> str:
    """Return the sentence that heads a report: what the main difference shows, then who leads.

    Args:
        differences: the main one first (combined-rag where both arms ran).
        means: every arm's mean F1, 0-100.
    """
    if not differences:
        (arm, value), *_ = means.items()
        return f"{arm} alone reaches {value:.1f} F1; run a second arm to compare it with"
    sentences = [describe(differences[0])]
    added = next((d for d in differences if (d.a, d.b) == ("combined", "reader")), None)
    if added is not None and added is not differences[0]:
        sentences.append(f"against the starter reader alone: {describe(added)}")
    best: Callable[[str], float] = means.__getitem__
    leader = max(means, key=best)
    if leader not in (differences[0].a, differences[0].b):
        sentences.append(f"the highest mean is {leader}'s, {means[leader]:.1f} F1")
    text = ". ".join(sentence[0].upper() + sentence[1:] for sentence in sentences)
    return text + "."
