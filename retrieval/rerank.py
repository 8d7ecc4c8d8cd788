"""Reorder the best passages by a model that reads query and passage together.

Knows nothing of indexes, and of a language model only a function that scores one text after another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np

from data.records import Passage

CANDIDATES = 20
"""Passages that are read again, at most."""

LogLikelihood = Callable[[str, str], float]
"""Returns the mean natural log-probability of a query's tokens after a passage."""


class Reranker(Protocol):
    """Scores passages for a query; higher is better, on any scale."""

    @property
    def share(self) -> float:
        """How much of the final score is the reranker's, 0 to 1; the rest stays the search's."""

    def scores(self, query: str, texts: Sequence[str]) -> Sequence[float]:
        """Return one score for each text."""


class LikelihoodReranker:
    """Scores a passage by how likely a language model makes the query after reading it.

    Needs no further model than the one that answers (Sachan et al., "Improving Passage Retrieval with
    Zero-Shot Question Generation", EMNLP 2022).
    """

    share = 0.3

    def __init__(self, log_likelihood: LogLikelihood) -> None:
        self._log_likelihood = log_likelihood

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        """Return the log-likelihood of ``query`` after each text."""
        return [self._log_likelihood(query, text) for text in texts]


def rerank(query: str, passages: Sequence[Passage], reranker: Reranker) -> list[Passage]:
    """Return the passages with their scores mixed with the reranker's, best first, ranked anew.

    Both kinds of score are brought to 0 to 1 over the candidates; passages past the first
    ``CANDIDATES`` follow below them in their order.
    """
    head, tail = list(passages[:CANDIDATES]), list(passages[CANDIDATES:])
    if len(head) < 2:
        return [*head, *tail]
    read = _scaled(reranker.scores(query, [passage.chunk.text for passage in head]))
    own = _scaled([passage.score for passage in head])
    mixed = reranker.share * read + (1 - reranker.share) * own
    order = np.argsort(-mixed, kind="stable")
    chosen = [replace(head[row], score=float(mixed[row])) for row in order]
    chosen += [replace(passage, score=min(passage.score, chosen[-1].score)) for passage in tail]
    return [replace(passage, rank=rank) for rank, passage in enumerate(chosen, start=1)]


def _scaled(scores: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    values = np.asarray(scores, dtype=np.float64)
    low, high = values.min(), values.max()
    return (values - low) / (high - low) if high > low else np.zeros_like(values)
