"""Ranking measures, their bootstrap intervals, and the queries on which two methods disagree.

Knows nothing of how a ranking came about.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

_RESAMPLES = 1000
_SEED = 0

Ranking = Sequence[str]
Relevant = Mapping[str, float]
Scores = NDArray[np.float64]


def ndcg_at(ranking: Ranking, relevant: Relevant, k: int) -> float:
    """Return nDCG at ``k``, 0 to 1, with linear gains as trec_eval computes it (Järvelin & Kekäläinen 2002)."""
    gained = sum(relevant.get(item, 0.0) / math.log2(rank + 1) for rank, item in enumerate(ranking[:k], start=1))
    ideal = sorted(relevant.values(), reverse=True)[:k]
    best = sum(gain / math.log2(rank + 1) for rank, gain in enumerate(ideal, start=1))
    return gained / best if best else 0.0


def recall_at(ranking: Ranking, relevant: Relevant, k: int) -> float:
    """Return the share of the relevant documents among the first ``k``, 0 to 1."""
    return len(set(ranking[:k]) & relevant.keys()) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranking: Ranking, relevant: Relevant) -> float:
    """Return 1 / rank of the first relevant document, 0 if none was found."""
    return next((1.0 / rank for rank, item in enumerate(ranking, start=1) if item in relevant), 0.0)


MEASURES: dict[str, Callable[[Ranking, Relevant], float]] = {
    "ndcg@10": lambda ranking, relevant: ndcg_at(ranking, relevant, 10),
    "recall@1": lambda ranking, relevant: recall_at(ranking, relevant, 1),
    "recall@5": lambda ranking, relevant: recall_at(ranking, relevant, 5),
    "recall@10": lambda ranking, relevant: recall_at(ranking, relevant, 10),
    "mrr": reciprocal_rank,
}


def compare(
    rankings: Mapping[str, Mapping[str, Ranking]], relevant: Mapping[str, Relevant], disagreements: int = 0
) -> dict[str, Any]:
    """Return figures of each method, differences of each two, and queries on which they differ most.

    Args:
        rankings: by method, then by query; every method ranks the same queries.
        relevant: of each query.
        disagreements: how many queries to name, at most.

    Figures run 0 to 1 and are means over the queries. Intervals are 95 % percentile bootstrap
    intervals over queries (1,000 resamples, fixed seed); a difference is taken query by query on the
    same resamples, which is what makes it paired. ``p`` is the two-sided bootstrap p-value.
    """
    scores = {
        method: {
            name: np.array([measure(ranking, relevant[query]) for query, ranking in ranked.items()])
            for name, measure in MEASURES.items()
        }
        for method, ranked in rankings.items()
    }
    count = len(next(iter(rankings.values()), ()))
    samples = np.random.default_rng(_SEED).integers(0, count, size=(_RESAMPLES, count))
    differences = {
        f"{one}-{other}": {name: _difference(scores[one][name] - scores[other][name], samples) for name in MEASURES}
        for one, other in combinations(scores, 2)
    }
    result: dict[str, Any] = {
        "methods": {method: _figures(held, samples) for method, held in scores.items()},
        "differences": differences,
    }
    if disagreements:
        by_method = {method: held["ndcg@10"] for method, held in scores.items()}
        result["disagreements"] = _disagreements(rankings, by_method, relevant)[:disagreements]
    return result


def _interval(scores: Scores, samples: NDArray[np.int64]) -> list[float]:
    low, high = np.percentile(scores[samples].mean(axis=1), [2.5, 97.5])
    return [round(float(low), 4), round(float(high), 4)]


def _figures(scores: Mapping[str, Scores], samples: NDArray[np.int64]) -> dict[str, Any]:
    means = {name: round(float(values.mean()), 4) for name, values in scores.items()}
    return {**means, "ci": {name: _interval(values, samples) for name, values in scores.items()}}


def _difference(differences: Scores, samples: NDArray[np.int64]) -> dict[str, Any]:
    resampled = differences[samples].mean(axis=1)
    tail = min(int((resampled <= 0).sum()), int((resampled >= 0).sum())) + 1  # the sample itself: no p-value is 0
    return {
        "difference": round(float(differences.mean()), 4),
        "ci": _interval(differences, samples),
        "p": round(min(1.0, 2 * tail / (len(resampled) + 1)), 4),
    }


def _disagreements(
    rankings: Mapping[str, Mapping[str, Ranking]], scores: Mapping[str, Scores], relevant: Mapping[str, Relevant]
) -> list[dict[str, Any]]:
    """Return the queries whose nDCG@10 differs between methods, the widest difference first."""
    found = []
    for place, query in enumerate(next(iter(rankings.values()))):
        own = {method: round(float(held[place]), 4) for method, held in scores.items()}
        spread = max(own.values()) - min(own.values())
        if spread > 0:
            first = {method: ranked[query][0] if ranked[query] else None for method, ranked in rankings.items()}
            wanted = sorted(relevant[query], key=lambda item: -relevant[query][item])
            found.append(
                {"id": query, "ndcg@10": own, "spread": round(spread, 4), "first": first, "relevant": wanted[:10]}
            )
    return sorted(found, key=lambda row: -row["spread"])
