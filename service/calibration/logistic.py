"""A logistic regression by Newton's method, small enough to be read as JSON.

Knows nothing of what its features mean.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

RIDGE = 1.0
"""Penalty on squared weights of standardised features (scikit-learn's default, C = 1); the intercept is free."""
_ITERATIONS = 50
_CONVERGED = 1e-8

Rows = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LogisticModel:
    """Probability from named features: each is centred, scaled and weighted.

    A feature that was constant where the model was fitted has weight 0.
    """

    names: tuple[str, ...]
    means: tuple[float, ...]
    scales: tuple[float, ...]
    weights: tuple[float, ...]
    intercept: float

    def probability(self, features: Mapping[str, float]) -> float:
        """Return the probability, 0 to 1.

        Raises:
            KeyError: a feature is missing.
        """
        return float(self.probabilities(rows_of([features], self.names))[0])

    def probabilities(self, rows: Rows) -> Rows:
        """Return the probabilities of rows of shape (n, features), in the order of ``names``; shape (n,)."""
        standard = (rows - np.asarray(self.means)) / np.asarray(self.scales)
        return _sigmoid(standard @ np.asarray(self.weights) + self.intercept)

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            "names": list(self.names),
            "means": list(self.means),
            "scales": list(self.scales),
            "weights": list(self.weights),
            "intercept": self.intercept,
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> LogisticModel:
        """Read it back."""
        lists = {name: tuple(stored[name]) for name in ("names", "means", "scales", "weights")}
        return cls(**lists, intercept=float(stored["intercept"]))


def rows_of(features: Sequence[Mapping[str, float]], names: Sequence[str]) -> Rows:
    """Return features as rows, shape (len(features), len(names))."""
    return np.array([[row[name] for name in names] for row in features], dtype=np.float64).reshape(-1, len(names))


def fit_logistic(names: Sequence[str], rows: Rows, positive: Sequence[bool], ridge: float = RIDGE) -> LogisticModel:
    """Return the ridge-penalised maximum-likelihood model (iteratively reweighted least squares).

    Args:
        names: of the columns.
        rows: shape (n, len(names)).
        positive: which rows are to be probable; both kinds must occur.
        ridge: penalty on the squared weights of the standardised features.

    Raises:
        ValueError: all rows are of one kind.
    """
    wanted = np.asarray(positive, dtype=np.float64)
    if not 0 < wanted.sum() < len(wanted):
        raise ValueError("a logistic regression needs rows of both kinds")
    means, spread = rows.mean(axis=0), rows.std(axis=0)
    scales = np.where(spread > 0, spread, 1.0)
    design = np.column_stack([np.ones(len(rows)), (rows - means) / scales])
    penalty = np.diag([0.0, *([ridge] * len(names))])
    weights = np.zeros(design.shape[1])
    weights[0] = np.log(wanted.mean() / (1 - wanted.mean()))
    loss = _loss(design, wanted, weights, penalty)
    for _ in range(_ITERATIONS):
        likely = _sigmoid(design @ weights)
        gradient = design.T @ (wanted - likely) - penalty @ weights
        hessian = (design * (likely * (1 - likely))[:, None]).T @ design + penalty
        step = np.linalg.lstsq(hessian, gradient, rcond=None)[0]
        moved = _loss(design, wanted, weights + step, penalty)
        while moved > loss and np.abs(step).max() > _CONVERGED:
            step /= 2  # a full Newton step can overshoot where the classes are nearly apart
            moved = _loss(design, wanted, weights + step, penalty)
        weights, loss = weights + step, moved
        if np.abs(step).max() <= _CONVERGED:
            break
    found = weights.tolist()
    return LogisticModel(tuple(names), tuple(means.tolist()), tuple(scales.tolist()), tuple(found[1:]), found[0])


def _sigmoid(values: Rows) -> Rows:
    return np.asarray(1 / (1 + np.exp(-np.clip(values, -500, 500))), dtype=np.float64)


def _loss(design: Rows, wanted: Rows, weights: Rows, penalty: Rows) -> float:
    scores = design @ weights
    return float((np.logaddexp(0, scores) - wanted * scores).sum() + weights @ penalty @ weights / 2)
