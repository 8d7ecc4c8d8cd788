"""Join the rankings of several searches into one.

Knows nothing of what was searched, nor how.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

Key = TypeVar("Key", bound=Hashable)


def reciprocal_rank_fusion(rankings: Sequence[Sequence[Key]], k: int = 60) -> list[tuple[Key, float]]:
    """Return (key, score) best first; a key's score is the sum of 1 / (k + rank) over the rankings.

    ``k`` = 60 as in Cormack, Clarke and Büttcher, "Reciprocal Rank Fusion outperforms Condorcet and
    individual rank learning methods", SIGIR 2009. Ties keep the order of first appearance, the first
    ranking before the others.
    """
    scores: dict[Key, float] = {}
    for ranking in rankings:
        for rank, key in enumerate(ranking, start=1):
            scores[key] = scores.get(key, 0.0) + 1.0 / (k + rank)
    return sorted(scores.items(), key=lambda item: -item[1])


def found_by(rankings: Mapping[str, Sequence[Key]], key: Key) -> str:
    """Name the searches whose ranking holds ``key``, joined by "+"."""
    return "+".join(name for name, ranking in rankings.items() if key in ranking)
