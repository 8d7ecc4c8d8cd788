"""Recall canaries: before an index generation may serve, sampled chunks must be found in it again.

They catch what hashes cannot: vectors of another embedder, texts that were analysed otherwise, rows
under the wrong keys. Knows nothing of how a generation is built or stored.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import numpy as np

from data.errors import IndexRefused
from data.protocols import Index, Keys, Vectors

SAMPLE = 32
"""Chunks that are searched for: a leg of which a third is wrong passes in fewer than 1 of 100 builds."""

_WANTED = 0.9
_TOP = 10
_LEAST_COSINE = 0.9
"""Between a vector and its copy in the index: 8-bit codes keep over 0.99."""
_ROUNDING = 1e-4
_WORDS = 8
_LONG = 4
_WORD = re.compile(r"[^\W_]{2,60}")
_NO_VECTOR: Vectors = np.zeros((1, 0), dtype=np.float32)


def sample(keys: Keys, seed: int) -> Keys:
    """Choose at most ``SAMPLE`` of the keys, ascending."""
    chosen = np.random.default_rng(seed).choice(keys, min(SAMPLE, len(keys)), replace=False)
    return np.sort(chosen).astype(np.int64)


def check_recall(dense: Index, lexical: Index, texts: Mapping[int, str], vectors: Vectors) -> dict[str, list[int]]:
    """Search each of ``texts`` (by key, with the rows of ``vectors``) in both legs.

    Returns:
        For each leg how many were found, and of how many.

    Raises:
        IndexRefused: a leg does not find enough of them.
    """
    near = [_finds_vector(dense, key, vector[None]) for key, vector in zip(texts, vectors, strict=True)]
    words = [_finds_words(lexical, key, text) for key, text in texts.items()]
    legs = {"dense": near, "lexical": [each for each in words if each is not None]}
    for leg, found in legs.items():
        if found and sum(found) < _WANTED * len(found):
            raise IndexRefused(
                f"The new index does not find its own chunks again in the {leg} leg; the one before stays.",
                got=f"{sum(found)} of {len(found)} sampled chunks",
                wanted=f"{_WANTED:.0%} of them",
                hint="Build it from nothing: ragtune index rebuild.",
            )
    return {leg: [sum(found), len(found)] for leg, found in legs.items()}


def _finds_vector(dense: Index, key: int, vector: Vectors) -> bool:
    """Say whether a chunk is held with its vector, and is among the nearest to it (or as near as they are)."""
    hits = dense.search("", vector, _TOP)
    scores = {hit.key: hit.score for hit in hits}
    if key not in scores:  # Narrowed to one key every row is looked at: not done unless need be.
        own = dense.search("", vector, 1, np.array([key], dtype=np.int64))
        if not own or len(hits) < _TOP or hits[-1].score < own[0].score - _ROUNDING:
            return False
        scores[key] = own[0].score
    return scores[key] >= _LEAST_COSINE


def _finds_words(lexical: Index, key: int, text: str) -> bool | None:
    """Say whether a chunk is found by its longest words, which are seldom the common ones; None if it has none."""
    words = sorted(set(_WORD.findall(text)), key=lambda word: (-len(word), word))[:_WORDS]
    if not words or (words[0].isascii() and len(words[0]) < _LONG):
        return None
    return bool(lexical.search(" ".join(words), _NO_VECTOR, 1, np.array([key], dtype=np.int64)))
