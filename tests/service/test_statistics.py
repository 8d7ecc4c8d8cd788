"""The statistics of a comparison, checked against scipy and against simulated truth."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from service.compare.statistics import (
    Difference,
    bootstrap_interval,
    compare_arms,
    describe,
    describe_power,
    holm,
    mcnemar,
    minimum_detectable_difference,
    questions_needed,
    verdict,
    wilson_interval,
)


def scores(seed: int, n: int, share_right: float) -> list[float]:
    return [100.0 * flag for flag in np.random.default_rng(seed).random(n) < share_right]


@pytest.mark.slow
def test_interval_is_scipys_percentile_bootstrap_expanded_for_few_scores() -> None:
    from scipy.stats import bootstrap, t

    for n, wider in ((72, True), (2000, False)):
        values = scores(1, n, 0.4)
        low, high = bootstrap_interval(values)
        reference = bootstrap((values,), np.mean, method="percentile", n_resamples=20_000, rng=3).confidence_interval
        expanded = (reference.high - reference.low) * (math.sqrt(n / (n - 1)) * t.ppf(0.975, n - 1) / 1.96 - 1) / 2
        assert low == pytest.approx(reference.low - expanded, abs=1.5)
        assert high == pytest.approx(reference.high + expanded, abs=1.5)
        assert (expanded > 0.1) == wider
        assert low < np.mean(values) < high


def test_interval_is_the_same_each_time_and_needs_scores() -> None:
    values = scores(2, 30, 0.5)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    with pytest.raises(ValueError, match="at least one"):
        bootstrap_interval([])


def test_mcnemar_is_the_exact_binomial_on_the_split_questions() -> None:
    a = [True] * 9 + [False] * 1 + [True] * 20
    b = [False] * 9 + [True] * 1 + [True] * 20
    assert mcnemar(a, b) == pytest.approx(2 * (1 + 10) / 2**10), "none or one of ten, in either direction"
    assert mcnemar(a, a) == 1.0


def test_pairing_counts_not_just_the_means() -> None:
    a, b = scores(3, 100, 0.6), scores(3, 100, 0.5)
    shuffled = list(np.random.default_rng(0).permutation(b))
    flags = {"a": [x == 100 for x in a], "b": [x == 100 for x in b]}
    paired = compare_arms("a", "b", {"a": a, "b": b}, flags)
    unpaired = compare_arms("a", "b", {"a": a, "b": shuffled}, flags)
    assert paired.f1 == pytest.approx(unpaired.f1)
    assert paired.ci[1] - paired.ci[0] < unpaired.ci[1] - unpaired.ci[0]


def answers(seed: int, n: int) -> list[float]:
    """Draw F1 as extractive answers have it: right, wrong, or in part; its mean is 51."""
    generator = np.random.default_rng(seed)
    return list(np.where(generator.random(n) < 0.4, 100.0, np.where(generator.random(n) < 0.3, 55.0, 15.0)))


MEAN = 0.4 * 100 + 0.6 * (0.3 * 55 + 0.7 * 15)


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    covered = []
    for n in (20, 40, 72, 200):
        for seed in range(250):
            low, high = bootstrap_interval(answers(1000 * n + seed, n))
            covered.append(low <= MEAN <= high)
    assert 0.93 <= np.mean(covered) <= 0.97


@pytest.mark.slow
def test_alike_arms_are_seldom_called_different() -> None:
    runs, decisive, p_values = 400, 0, []
    for seed in range(runs):
        f1 = {"a": answers(10_000 + seed, 60), "b": answers(50_000 + seed, 60)}
        row = compare_arms("a", "b", f1, {"a": [False] * 60, "b": [False] * 60})
        decisive += row.decisive
        p_values.append(row.p_f1)
    from scipy.stats import binom

    assert decisive <= binom.ppf(0.95, runs, 0.05)
    for level in (0.1, 0.5, 0.9):  # alike arms' p-values are spread evenly
        assert np.mean(np.asarray(p_values) <= level) == pytest.approx(level, abs=0.06)


@pytest.mark.slow
def test_a_difference_has_scipys_randomization_p_value() -> None:
    from scipy.stats import permutation_test

    for n in (12, 40):
        f1, none = {"a": answers(1, n), "b": answers(2, n)}, {"a": [False] * n, "b": [False] * n}
        paired = np.subtract(f1["a"], f1["b"])
        reference = permutation_test((paired,), np.mean, permutation_type="samples", n_resamples=20_000, rng=3)
        assert compare_arms("a", "b", f1, none).p_f1 == pytest.approx(reference.pvalue, abs=0.02)
    assert compare_arms("a", "b", {"a": answers(1, 40), "b": answers(1, 40)}, none).p_f1 == 1.0


def test_five_questions_in_forty_that_split_one_way_are_no_verdict() -> None:
    """The bootstrap interval leaves zero out, but signs drawn at random fall so as often as once in sixteen."""
    b = [100.0 * (i % 2) for i in range(40)]
    a = [100.0 if i in (0, 2, 4, 6, 8) else score for i, score in enumerate(b)]
    row = compare_arms("a", "b", {"a": a, "b": b}, {"a": [x == 100 for x in a], "b": [x == 100 for x in b]})
    assert row.ci[0] > 0
    assert row.p == pytest.approx(1 / 16)
    assert row.p_f1 == pytest.approx(1 / 16, abs=0.01)
    assert not row.decisive
    assert describe(row).startswith("a against b is not decisive")
    assert "40 questions, p = 0.06" in describe(row)


def test_many_comparisons_are_corrected_together() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []
    clear = difference(31.0, 20.0, 42.0)
    assert clear.decisive
    assert not replace(clear, p_adjusted=0.06).decisive
    assert replace(clear, p_adjusted=0.04).decisive


def test_a_rate_has_an_interval_even_at_its_ends() -> None:
    low, high = wilson_interval(0, 20)
    assert (low, high) == pytest.approx((0.0, 0.161), abs=0.001)  # Wilson's formula by hand: z² / (n + z²)
    assert wilson_interval(10, 20)[0] == pytest.approx(1 - wilson_interval(10, 20)[1])
    with pytest.raises(ValueError, match="at least one"):
        wilson_interval(0, 0)


def test_an_effect_is_measured_in_standard_deviations() -> None:
    assert difference(20.0, 10.0, 30.0).effect == 0.5
    assert Difference("a", "b", 0.0, (0.0, 0.0), 1.0, 0.0, 30).effect is None


def test_detectable_difference_has_the_power_it_states() -> None:
    n, sd = 72, 50.0
    smallest = minimum_detectable_difference(n, sd)
    draws = np.random.default_rng(4).normal(smallest, sd, (2000, n))
    z = draws.mean(axis=1) / (draws.std(axis=1, ddof=1) / math.sqrt(n))
    assert (z > 1.96).mean() == pytest.approx(0.8, abs=0.04)
    assert questions_needed(smallest, sd) == pytest.approx(n, abs=1)


def difference(f1: float, low: float, high: float, n: int = 72) -> Difference:
    return Difference("combined", "rag", f1, (low, high), 0.01, 40.0, n)


def test_what_questions_can_show_is_said_before_they_are_asked() -> None:
    assert describe_power(1) == "1 question can show no difference; 159 show one of 10 F1 points."
    assert describe_power(159) == "159 questions can show differences of about 10 F1 points or more."


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
    assert "1 question)" in describe(one)


def test_no_difference_at_all_asks_for_nothing() -> None:
    assert "they are alike" in describe(difference(0.0, -3.0, 3.0))


def test_verdict_names_the_leader_when_it_is_a_third_arm() -> None:
    text = verdict([difference(5.0, -4.0, 14.0)], {"combined": 30.0, "rag": 25.0, "tuned": 60.0})
    assert text.endswith("The highest mean is tuned's, 60.0 F1.")
    assert "run a second arm" in verdict([], {"rag": 12.0})
