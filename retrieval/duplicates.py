"""Collapse passages that say the same: copies of a page, boilerplate, another version of a text.

Knows nothing of where passages come from.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from dataclasses import replace

from data.records import Passage

_WORD_ASCII = re.compile(r"[a-z0-9]+")
_WORD = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]|[^\W_]+")
_ALIKE = 0.9
"""Jaccard similarity of word triples from which on two passages are one: a few words of a page may differ."""

Shingles = frozenset[tuple[str, ...]]


def shingles(text: str) -> Shingles:
    """Return the runs of three words (or Chinese characters) of a text, without case and punctuation."""
    if text.isascii():  # The same words, three times as fast: this runs on every candidate of every search.
        words = _WORD_ASCII.findall(text.lower())
    else:
        words = _WORD.findall(unicodedata.normalize("NFKC", text).lower())
    return frozenset(zip(words, words[1:], words[2:], strict=False)) or frozenset([tuple(words)])


def collapse(passages: Iterable[Passage], limit: int) -> list[Passage]:
    """Return the first ``limit`` passages that differ, ranked anew; each counts its ``duplicates`` passed over."""
    kept: list[Passage] = []
    seen: list[Shingles] = []
    for passage in passages:
        own = shingles(passage.chunk.text)
        same = next((i for i, other in enumerate(seen) if _alike(own, other)), None)
        if same is not None:
            kept[same] = replace(kept[same], duplicates=kept[same].duplicates + 1)
        elif len(kept) < limit:
            kept.append(replace(passage, rank=len(kept) + 1))
            seen.append(own)
    return kept


def _alike(one: Shingles, other: Shingles) -> bool:
    smaller, larger = sorted((len(one), len(other)))
    if smaller < _ALIKE * larger:
        return False
    shared = len(one & other)
    return shared >= _ALIKE * (smaller + larger - shared)
