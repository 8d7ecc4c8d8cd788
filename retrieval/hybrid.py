"""Search the legs of an index and blend what they find into one ranking.

Hybrid search takes the best of both legs, gives each candidate its true score in the leg that did not
find it, fuses the scores, and lets alike candidates support each other. Knows nothing of files,
generations or the store.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from data.errors import InvalidRequest
from data.protocols import Hit, Index, Keys, Vectors
from data.records import METHODS, Method
from retrieval.fuse import fuse, support

DEPTH = 100
"""Hits of each leg that a hybrid search blends, at least."""

_BLENDED = 30
"""Candidates that are scored by their own vectors and support each other."""
_MAX_UNKNOWN = 0.2
"""Share of a query's tokens that the embedder may not know: English has none, Chinese 0.35 and more in MiniLM."""
_FILLER = 1e-6
_NO_KEYS: Keys = np.zeros(0, dtype=np.int64)
_BESIDE = ThreadPoolExecutor(os.cpu_count(), "dense")
"""Searches the dense leg beside the lexical one: both do their work in native code that lets Python go on."""

VectorsOf = Callable[[Sequence[int]], Vectors]
"""Returns the vectors of keys, shape (n, dimension); zeros where one is not known."""


@runtime_checkable
class KnowsWords(Protocol):
    """An embedder that can tell how much of a text it has words for."""

    def unknown_share(self, text: str) -> float:
        """Return the share of the tokens of ``text`` that are unknown to the model, 0 to 1."""


@runtime_checkable
class HoldsVectors(Protocol):
    """A dense index that can return what it holds."""

    def vectors(self, keys: Sequence[int] | Keys) -> Vectors:
        """Return the vectors of ``keys``, shape (len(keys), dimension); zeros where one is not held."""


@runtime_checkable
class ScoresOthers(Protocol):
    """An index that scores given keys in the search that finds the best ones."""

    def search_beside(self, query: str, k: int, others: Callable[[], Keys]) -> list[Hit]:
        """Return the ``k`` best hits and those of the ``others``, best first; none that share no word.

        The others are asked for once, and late: what finds them may still be at work.
        """


@dataclass(frozen=True, slots=True)
class Found:
    """A chunk key with its score in the chosen method; ``origin`` names the legs that found it."""

    key: int
    score: float
    origin: str


def understands(embedder: object, query: str) -> bool:
    """Say whether the embedder knows the words of a query: if not, its ranking is noise."""
    return not isinstance(embedder, KnowsWords) or embedder.unknown_share(query) <= _MAX_UNKNOWN


def mix(found: Sequence[Found], other: Sequence[Found], share: float) -> list[Found]:
    """Return both rankings as one of relative scores: ``share`` from ``other``, the rest from ``found``."""
    scores: dict[int, float] = {}
    origins: dict[int, str] = {}
    for ranking, weight in ((found, 1 - share), (other, share)):
        best = max((hit.score for hit in ranking), default=0.0)
        for hit in ranking:
            relative = max(hit.score, 0.0) / best if best > 0 else 0.0
            scores[hit.key] = scores.get(hit.key, 0.0) + weight * relative
            origins.setdefault(hit.key, hit.origin)
    return [Found(key, score, origins[key]) for key, score in sorted(scores.items(), key=lambda item: -item[1])]


def search_legs(
    legs: Mapping[str, Index],
    query: str,
    vector: Vectors | None,
    method: Method,
    k: int,
    *,
    allowed: Keys | None = None,
    vectors_of: VectorsOf | None = None,
    understood: bool = True,
) -> list[Found]:
    """Search one leg, or both and blend them; ``allowed`` narrows each search to those keys.

    Args:
        legs: the indexes by name, dense and lexical.
        query: the words to search for.
        vector: the query's, shape (1, dimension); only the lexical method may leave it out.
        method: one of ``METHODS``.
        k: hits of each leg.
        allowed: keys to search among, ascending; None for all.
        vectors_of: lets a hybrid search look at its candidates' vectors; without it they are ranked by
            the legs' scores alone.
        understood: whether the embedder knows the query's words; if not, the dense leg only follows
            after what the lexical one found.

    Raises:
        InvalidRequest: an unknown method.
    """
    if method not in METHODS:
        raise InvalidRequest("Unknown search method.", got=method, wanted=", ".join(METHODS))
    given = np.zeros((1, 0), dtype=np.float32) if vector is None else vector
    if method != "hybrid":
        return [Found(hit.key, hit.score, method) for hit in legs[method].search(query, given, k, allowed)]
    depth = max(k, DEPTH)
    dense = _BESIDE.submit(legs["dense"].search, query, given, depth, allowed)

    def others() -> Keys:
        return np.array(sorted(hit.key for hit in dense.result()), dtype=np.int64) if understood else _NO_KEYS

    own, more = _lexical(legs["lexical"], query, given, depth, allowed=allowed, others=others)
    hits = {"dense": dense.result(), "lexical": [*own, *more]}
    held = {"dense": {hit.key for hit in hits["dense"]}, "lexical": {hit.key for hit in own}}
    fused = _blend(hits, given, vectors_of) if understood else fuse(hits, {"dense": _FILLER, "lexical": 1.0})
    return [Found(key, score, "+".join(name for name in held if key in held[name])) for key, score in fused]


def _lexical(
    lexical: Index, query: str, vector: Vectors, depth: int, *, allowed: Keys | None, others: Callable[[], Keys]
) -> tuple[list[Hit], list[Hit]]:
    """Return the best ``depth`` lexical hits, and those of the ``others`` beyond them: 0 if they share no word."""
    if allowed is None and isinstance(lexical, ScoresOthers):
        found = lexical.search_beside(query, depth, others)
        own, more = found[:depth], found[depth:]
    else:
        own, more = lexical.search(query, vector, depth, allowed), []
        beyond = np.setdiff1d(others(), [hit.key for hit in own])
        more = lexical.search(query, vector, len(beyond), beyond) if len(beyond) else []
    wanted = set(others().tolist())
    scored = {hit.key for hit in own} | {hit.key for hit in more}
    return own, [*(hit for hit in more if hit.key in wanted), *(Hit(key, 0.0) for key in sorted(wanted - scored))]


def _blend(hits: Mapping[str, Sequence[Hit]], vector: Vectors, vectors_of: VectorsOf | None) -> list[tuple[int, float]]:
    weights = dict.fromkeys(hits, 0.5)
    fused = fuse(hits, weights)
    if vectors_of is None or len(fused) < 2:
        return fused
    # Twice as many: exact scores may bring up what the least score of the dense leg held down.
    keys = [key for key, _ in fused[: 2 * _BLENDED]]
    vectors = vectors_of(keys)
    held = {hit.key for hit in hits["dense"]}
    exact = [
        Hit(key, float(own @ vector[0]))
        for key, own in zip(keys, vectors, strict=True)
        if key not in held and own.any()
    ]
    fused = fuse({**hits, "dense": [*hits["dense"], *exact]}, weights)
    rows = {key: row for row, key in enumerate(keys)}
    head = [item for item in fused if item[0] in rows][:_BLENDED]
    scores = support([score for _, score in head], vectors[[rows[key] for key, _ in head]])
    order = np.argsort(-scores, kind="stable")
    best = [(head[row][0], float(scores[row])) for row in order]
    # What was not blended stays below what was, in its order.
    floor = best[-1][1]
    chosen = {key for key, _ in best}
    return best + [(key, min(score, floor)) for key, score in fused if key not in chosen]
