"""Which span of a passage bears a claim out: the same words in a row, or what the claim says within two sentences.

Words are compared, not meanings: a claim whose numbers or names are not in the span is not borne out, and neither is
one of whose other words too many are missing. What that misses (a denial in the same words, say) it cannot see.
Knows nothing of answers or of how passages were found.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache

from data.prompt import strip_citations
from retrieval.wording import FUNCTION_WORDS, content_stems, span_of

LEAST_SHARE = 0.6
"""Share of a claim's words that a span must have, see bench/RESULTS.md for others."""
_WINDOW = 2
"""Sentences that one claim may draw on."""
_SENTENCE = re.compile(r"(?:[^\n.!?。！？]|[.!?](?!\s|$))+[.!?。！？]*[\"'”’」』）)]*", re.UNICODE)
_NAMED = re.compile(r"(?<![^\W_])[A-Z][^\W_]*")
_WORD = re.compile(r"[^\W_]+")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


@dataclass(frozen=True, slots=True)
class Support:
    """Where a claim is borne out, characters of the passage's text, and how much of its words stand there, 0 to 1."""

    start: int
    end: int
    share: float


def sentence_spans(text: str) -> list[tuple[int, int]]:
    """Return (start, end) of each sentence of ``text`` without the blanks around it; all of it where there is none."""
    spans = []
    for match in _SENTENCE.finditer(text):
        stripped = match.group().strip()
        if stripped:
            start = match.start() + len(match.group()) - len(match.group().lstrip())
            spans.append((start, start + len(stripped)))
    return spans or [(0, len(text))]


@dataclass(frozen=True, slots=True)
class _Window:
    """One sentence of a passage or several that follow each other, with what claims are compared with."""

    start: int
    end: int
    stems: frozenset[str]
    numbers: frozenset[str]


@dataclass(frozen=True, slots=True)
class _Read:
    """A passage as claims are compared with it: its sentences, its words, its windows, the shortest first."""

    spans: tuple[tuple[int, int], ...]
    words: frozenset[str]
    windows: tuple[_Window, ...]


@lru_cache(maxsize=256)  # the same passages bear out every claim of an answer, and of the answers after it
def _read(text: str) -> _Read:
    spans = tuple(sentence_spans(text))
    bounds = [
        (spans[i][0], spans[i + size - 1][1]) for size in range(1, _WINDOW + 1) for i in range(len(spans) - size + 1)
    ]
    windows = (_Window(start, end, content_stems(text[start:end]), _numbers(text[start:end])) for start, end in bounds)
    return _Read(spans, frozenset(_WORD.findall(text.lower())), tuple(windows))


def read_ahead(texts: Iterable[str]) -> None:
    """Find the sentences of passages before the first claim is looked up: while a model reads them, nobody waits."""
    for text in texts:
        _read(text)


def find_support(claim: str, text: str) -> Support | None:
    """Return the span of ``text`` that bears ``claim`` out, None if none does.

    Args:
        claim: a sentence or part of one; its citation marks do not count.
        text: of a passage.
    """
    return _find_support(strip_citations(claim), text)


@lru_cache(maxsize=256)  # marks are put right as they come, and the whole answer is verified after it
def _find_support(said: str, text: str) -> Support | None:
    read = _read(text)
    found = span_of(said, text)
    if found is not None:
        touched = [(s, e) for s, e in read.spans if s < found[1] and e > found[0]] or [found]
        return Support(min(found[0], touched[0][0]), max(found[1], touched[-1][1]), 1.0)
    wanted = content_stems(said)
    if not wanted or not _names(said) <= read.words:
        return None
    numbers = _numbers(said)
    best: Support | None = None
    for window in read.windows:
        share = len(wanted & window.stems) / len(wanted)
        # A shorter span comes first: the longer one must have more.
        if share >= LEAST_SHARE and (best is None or share > best.share) and numbers <= window.numbers:
            best = Support(window.start, window.end, share)
    return best


def _names(claim: str) -> frozenset[str]:
    """Return what may be names in a claim, in lower case: words with a capital, the first among them."""
    return frozenset(word.lower() for word in _NAMED.findall(claim)) - FUNCTION_WORDS


def _numbers(text: str) -> frozenset[str]:
    return frozenset(number.replace(",", "") for number in _NUMBER.findall(text))
