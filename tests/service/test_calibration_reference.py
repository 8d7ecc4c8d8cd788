"""The regression and the measures of calibration against scikit-learn's (whose import takes over a second)."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss, roc_auc_score

from service.calibration.logistic import LogisticModel, fit_logistic
from service.calibration.measures import area_under_risk_coverage, auroc, brier, expected_calibration_error

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("ridge", [0.5, 5.0])
def test_the_regression_is_scikit_learns(ridge):
    generator = np.random.default_rng(1)
    rows = generator.normal(size=(300, 4)) * [1, 10, 0.1, 1] + [0, 5, 0, 1]
    rows[:, 3] = 7.0
    positive = generator.random(300) < 1 / (1 + np.exp(-(rows[:, 0] + rows[:, 1] - 5)))
    ours = fit_logistic(("a", "b", "c", "d"), rows, positive.tolist(), ridge)
    standard = (rows - rows.mean(axis=0)) / np.where(rows.std(axis=0) > 0, rows.std(axis=0), 1)
    theirs = LogisticRegression(C=1 / ridge, tol=1e-10, max_iter=1000).fit(standard, positive)
    assert ours.probabilities(rows) == pytest.approx(theirs.predict_proba(standard)[:, 1], abs=1e-5)
    assert ours.weights[3] == 0
    assert LogisticModel.from_json(ours.to_json()) == ours


def test_the_measures_are_scikit_learns():
    generator = np.random.default_rng(5)
    scores = generator.random(500).round(2).tolist()
    right = (generator.random(500) < scores).tolist()
    assert auroc(scores, right) == pytest.approx(roc_auc_score(right, scores))
    assert brier(scores, right) == pytest.approx(brier_score_loss(right, scores))
    assert auroc(scores, [True] * 500) is None
    assert brier([], []) is None
    assert expected_calibration_error([], []) is None
    assert area_under_risk_coverage([], []) is None
