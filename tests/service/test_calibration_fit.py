from __future__ import annotations

import math

import numpy as np
import pytest

from data.errors import CalibrationTooSmall, InvalidRequest
from service.calibration.calibration import Point, check_points, fit, fold_numbers
from service.calibration.conformal import questions_needed, threshold
from service.calibration.logistic import fit_logistic
from service.calibration.measures import (
    area_under_risk_coverage,
    auroc,
    expected_calibration_error,
    reliability,
    risk_coverage,
    risks,
)

NAMES = ("sure", "found")


def simulated(seed, n, *, unanswerable=1 / 3):
    """Points whose chance to be right follows from their signals; unanswerable ones are never right."""
    generator = np.random.default_rng(seed)
    points = []
    for number in range(n):
        sure, found = generator.normal(), generator.normal()
        answerable = generator.random() > unanswerable
        right = answerable and generator.random() < 1 / (1 + math.exp(-(0.5 + 2 * sure + found)))
        answered = generator.random() > 0.05
        signals = {"sure": sure, "found": found} if answered else {}
        points.append(Point(f"{seed}-{number}", f"d{number % 12}", answerable, answered, answered and right, signals))
    return points


def test_classes_that_are_wholly_apart_are_fitted_too():
    rows = np.array([[-1.0], [-2.0], [1.0], [2.0]] * 10)
    model = fit_logistic(("x",), rows, [False, False, True, True] * 10)
    assert model.probability({"x": 2.0}) > 0.9 > 0.1 > model.probability({"x": -2.0})
    with pytest.raises(ValueError, match="both kinds"):
        fit_logistic(("x",), rows, [True] * 40)


def test_a_threshold_lets_through_as_many_as_the_theorem_allows():
    falses = [n / 100 for n in range(1, 40)]
    # 39 unanswerable questions: (k + 1) / 40 <= 0.1 allows three answers.
    floor = threshold(falses, 39, 0.1)
    assert sum(value > floor for value in falses) == 3
    assert threshold(falses, 39, 1.0) == -math.inf
    assert threshold([0.9, 0.8], 39, 0.1) == -math.inf
    assert threshold([], 39, 0.05) == -math.inf
    with pytest.raises(CalibrationTooSmall, match="at least 99"):
        threshold(falses, 39, 0.01)
    assert [questions_needed(rate) for rate in (0.01, 0.05, 0.1, 0.2, 1.0)] == [99, 19, 9, 4, 0]
    for n in range(1, 200):
        smallest = 1 / (n + 1)
        assert questions_needed(smallest) <= n
        threshold([0.5] * n, n, smallest)
    for rate in (0.0, -0.1, 1.5, math.nan):
        with pytest.raises(InvalidRequest):
            threshold(falses, 39, rate)


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.05, 0.1, 0.2])
def test_the_share_of_false_answers_is_kept_in_expectation(rate):
    realised, bound = [], []
    for seed in range(150):
        points, others = simulated(seed, 240), simulated(10_000 + seed, 240)
        fitted = fit(points, NAMES)
        floor = threshold(fitted.false_confidences, fitted.unanswerable, rate)
        false = [p for p in others if not p.answerable]
        realised.append(np.mean([p.answered and fitted.model.probability(p.signals) > floor for p in false]))
        bound.append(1 / (fitted.unanswerable + 1))
    error = np.std(realised) / math.sqrt(len(realised))
    assert np.mean(realised) <= rate + 2 * error
    assert np.mean(realised) >= rate - 2 * np.mean(bound)


@pytest.mark.slow
def test_a_fitted_confidence_means_what_it_says():
    fitted = fit(simulated(1, 3000, unanswerable=0), NAMES)
    others = [point for point in simulated(2, 6000, unanswerable=0) if point.answered]
    values = [fitted.model.probability(point.signals) for point in others]
    right = [point.right for point in others]
    assert expected_calibration_error(values, right) < 0.03
    found = auroc(values, right)
    assert found is not None
    assert found > 0.75


def test_no_answer_is_judged_by_a_model_that_saw_its_document():
    points = simulated(3, 400)
    flipped = [
        Point(p.question_id, p.group, p.answerable, p.answered, p.answered and not p.right, p.signals)
        if p.group == "d4"
        else p
        for p in points
    ]
    one, other = fit(points, NAMES), fit(flipped, NAMES)
    asked = [point.question_id for point in points if point.group == "d4" and point.answered]
    assert asked
    assert [one.confidences[name] for name in asked] == [other.confidences[name] for name in asked]
    assert one.model != other.model


def test_too_few_answers_are_refused_with_how_many_are_needed():
    points = simulated(4, 400)
    right = [point for point in points if point.right]
    for few in (points[:1], points[:15], right, [point for point in points if not point.answerable], []):
        with pytest.raises(CalibrationTooSmall, match="at least 10 right ones and 10 wrong ones"):
            fit(few, NAMES)


def test_what_is_too_few_says_how_many_would_do_or_that_none_would():
    def refused(right, wrong, abstained):
        kinds = [(True, True)] * right + [(True, False)] * wrong + [(False, False)] * abstained
        points = [Point(f"q{n}", f"d{n}", True, answered, good) for n, (answered, good) in enumerate(kinds)]
        with pytest.raises(CalibrationTooSmall) as caught:
            check_points(points)
        return caught.value

    seldom = refused(3, 57, 0)
    assert "about 200 such questions" in seldom.hint
    never = refused(0, 60, 0)
    assert "not one answer was right" in never.hint
    silent = refused(0, 0, 60)
    assert "60 without an answer" in silent.got
    assert "gave no answer at all" in silent.hint
    assert "not one answer was wrong" in refused(60, 0, 0).hint


def test_folds_keep_groups_whole_and_even():
    groups = [f"g{n % 7}" for n in range(70)] + ["large"] * 20
    places = fold_numbers(groups, 3)
    for group in set(groups):
        assert len({int(p) for p, g in zip(places, groups, strict=True) if g == group}) == 1
    assert np.bincount(places).tolist() == [30, 30, 30]


def test_a_reliability_diagram_by_hand():
    found = reliability([0.05, 0.95, 0.95, 1.0], [False, True, False, True])
    assert [(each.n, each.right) for each in found] == [(1, 0.0), (3, pytest.approx(2 / 3))]
    assert expected_calibration_error([0.05, 0.95, 0.95, 1.0], [False, True, False, True]) == pytest.approx(
        (0.05 + 3 * (2.9 / 3 - 2 / 3)) / 4
    )


def test_risk_is_counted_from_the_most_confident_answer_on():
    assert risks([0.9, 0.1, 0.5], [True, False, False]) == pytest.approx([0, 1 / 2, 2 / 3])
    assert area_under_risk_coverage([0.9, 0.1, 0.5], [True, False, False]) == pytest.approx((1 / 2 + 2 / 3) / 3)
    # Where scores are equal no order can be claimed, whichever the file has.
    assert risks([0.5, 0.5], [True, False]) == risks([0.5, 0.5], [False, True]) == pytest.approx([0.5, 0.5])
    curve = risk_coverage([0.9, 0.1, 0.5], [True, False, False], 6)
    assert curve[-1] == {"coverage": 0.5, "risk": pytest.approx(2 / 3)}
    assert risk_coverage([], [], 6) == []
