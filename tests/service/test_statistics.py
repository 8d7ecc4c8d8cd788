"""The statistics of a comparison, checked against scipy and against simulated truth."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, bootstrap

from service.compare.statistics import (
    Difference,
    bootstrap_interval,
    compare_arms,
    describe,
    mcnemar,
    minimum_detectable_difference,
    questions_needed,
    verdict,
)


def scores(seed: int, n: int, share_right: float) -> list[float]:
    return [100.0 * flag for flag in np.random.default_rng(seed).random(n) < share_right]


def test_interval_agrees_with_scipys_percentile_bootstrap() -> None:
    values = scores(1, 72, 0.4)
    low, high = bootstrap_interval(values)
    reference = bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=3).confidence_interval
    assert low == pytest.approx(reference.low, abs=1.0)
    assert high == pytest.approx(reference.high, abs=1.0)
    assert low < np.mean(values) < high


def test_interval_is_the_same_each_time_and_needs_scores() -> None:
    values = scores(2, 30, 0.5)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval([])


def test_mcnemar_is_the_exact_binomial_on_the_split_questions() -> None:
    a = [True] * 9 + [False] * 1 + [True] * 20
    b = [False] * 9 + [True] * 1 + [True] * 20
    assert mcnemar(a, b) == pytest.approx(2 * binom.cdf(1, 10, 0.5))
    assert mcnemar(a, a) == 1.0


def test_pairing_counts_not_just_the_means() -> None:
    a, b = scores(3, 100, 0.6), scores(3, 100, 0.5)
    shuffled = list(np.random.default_rng(0).permutation(b))
    flags = {"a": [x == 100 for x in a], "b": [x == 100 for x in b]}
    paired = compare_arms("a", "b", {"a": a, "b": b}, flags)
    unpaired = compare_arms("a", "b", {"a": a, "b": shuffled}, flags)
    assert paired.f1 == pytest.approx(unpaired.f1)
    assert paired.ci[1] - paired.ci[0] < unpaired.ci[1] - unpaired.ci[0]


def test_alike_arms_are_seldom_called_different() -> None:
    decisive = 0
    for seed in range(60):
        a, b = scores(1000 + seed, 60, 0.4), scores(5000 + seed, 60, 0.4)
        row = compare_arms("a", "b", {"a": a, "b": b}, {"a": [False] * 60, "b": [False] * 60})
        decisive += row.decisive
    assert decisive <= 8  # 5 % of 60 is 3; more than 8 happens by chance once in 100 times


def test_detectable_difference_has_the_power_it_states() -> None:
    n, sd = 72, 50.0
    smallest = minimum_detectable_difference(n, sd)
    draws = np.random.default_rng(4).normal(smallest, sd, (2000, n))
    z = draws.mean(axis=1) / (draws.std(axis=1, ddof=1) / math.sqrt(n))
    assert (z > 1.96).mean() == pytest.approx(0.8, abs=0.04)
    assert questions_needed(smallest, sd) == pytest.approx(n, abs=1)


def difference(f1: float, low: float, high: float, n: int = 72) -> Difference:
    return Difference("combined", "rag", f1, (low, high), 0.01, 40.0, n)


def test_verdicts_say_who_is_better_or_what_is_missing() -> None:
    better = describe(difference(31.0, 20.0, 42.0))
    assert better.startswith("combined is better than rag by 31.0 F1 points")
    worse = describe(difference(-31.0, -42.0, -20.0))
    assert worse.startswith("rag is better than combined by 31.0 F1 points")
    assert "+20.0 to +42.0" in worse
    unclear = describe(difference(5.0, -4.0, 14.0))
    assert "not decisive: ask " in unclear
    more = questions_needed(5.0, 40.0) - 72
    assert f"ask {more} more questions" in unclear


def test_few_questions_never_decide() -> None:
    one = compare_arms("combined", "rag", {"combined": [100.0], "rag": [0.0]}, {"combined": [True], "rag": [False]})
    assert not one.decisive
    assert "not decisive: ask 19 more questions" in describe(one)


def test_no_difference_at_all_asks_for_nothing() -> None:
    assert "they are alike" in describe(difference(0.0, -3.0, 3.0))


def test_verdict_names_the_leader_when_it_is_a_third_arm() -> None:
    text = verdict([difference(5.0, -4.0, 14.0)], {"combined": 30.0, "rag": 25.0, "tuned": 60.0})
    assert text.endswith("The highest mean is tuned's, 60.0 F1.")
    assert "run a second arm" in verdict([], {"rag": 12.0})
