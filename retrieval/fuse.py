"""Join the rankings of several searches into one, and let alike passages support each other.

Knows nothing of what was searched, nor how.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from data.protocols import Hit, Vectors

Scores = NDArray[np.float64]

_NEIGHBOURS = 5
_SHARE = 0.3
_SHARPNESS = 2


def fuse(legs: Mapping[str, Sequence[Hit]], weights: Mapping[str, float]) -> list[tuple[int, float]]:
    """Return (key, score) best first: the weighted mean of each search's scores over its best one.

    A search that did not find a key gives it the least of its own scores: the key's true one is no
    higher. Scores run from 0 to 1. Convex combination of scores, as in Bruch, Gai and Ingber, "An
    Analysis of Fusion Functions for Hybrid Retrieval", TOIS 2023; dividing by the best score alone and
    equal weights measured best (bench/RESULTS.md). Ties keep the order of first appearance.
    """
    total = sum(weights[name] for name, hits in legs.items() if hits) or 1.0
    fused = dict.fromkeys((hit.key for hits in legs.values() for hit in hits), 0.0)
    for name, hits in legs.items():
        best = max((hit.score for hit in hits), default=0.0)
        if best <= 0:
            continue
        relative = {hit.key: max(hit.score, 0.0) / best for hit in hits}
        least = min(relative.values())
        for key in fused:
            fused[key] += weights[name] / total * relative.get(key, least)
    return sorted(fused.items(), key=lambda item: -item[1])


def support(scores: Sequence[float], vectors: Vectors) -> Scores:
    """Return the scores, each drawn towards those of the passages most like it.

    Passages about one thing tend to be relevant together: a score becomes 70 % itself and 30 % the mean
    of its five nearest neighbours among the candidates, weighted by the square of their cosine (score
    regularization, Diaz, "Regularizing ad hoc retrieval scores", CIKM 2005).

    Args:
        scores: of the candidates.
        vectors: unit vectors of the same candidates, shape (len(scores), dimension); a row of zeros
            stands for an unknown vector, whose score stays.
    """
    given = np.asarray(scores, dtype=np.float64)
    count = min(_NEIGHBOURS, len(given) - 1)
    if count < 1:
        return given
    alike = np.asarray(vectors @ vectors.T, dtype=np.float64)
    np.fill_diagonal(alike, 0.0)
    least = np.partition(alike, -count, axis=1)[:, -count][:, None]
    near = np.where(alike >= least, np.clip(alike, 0.0, None), 0.0) ** _SHARPNESS
    total = near.sum(axis=1)
    mean = np.divide(near @ given, total, out=given.copy(), where=total > 0)
    mixed: Scores = (1 - _SHARE) * given + _SHARE * mean
    return mixed
