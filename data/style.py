"""How much an answer is written like a house's own examples: a meter of style that knows nothing of facts.

Four parts, each from 0 to 1: length, format, register, and fixed phrases. Every part compares what is counted in the
answer with how often the examples have it; what an answer is about does not enter, but for words that most examples
share, which are the house's terms. The features of register are some of Biber's (1988, Variation across speech and
writing): person, contractions, hedges; for Chinese the polite and the plain pronoun.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass, fields
from statistics import fmean, pstdev

from data.errors import InvalidRequest
from data.scoring import normalized_tokens

FEWEST_EXAMPLES = 8
"""Below this a share of the examples says little: one of eight moves it by 0.125."""
SHARED = 0.3
"""A phrase of the house stands in this share of its examples at least: our choice."""
LONGEST_PHRASE = 5
"""Words (Chinese: characters)."""
LEAST_SPREAD = 0.25
"""Natural log of lengths: a house whose examples are all alike still accepts answers a quarter longer."""

_SENTENCE = re.compile(r"[.!?](?=\s|$)|[。!?！？]|\n")
_FORMAT = {
    "bullets": r"(?m)^\s*[-*•·]\s",
    "numbers": r"(?m)^\s*\d+[.)、]\s?",
    "heading": r"(?m)^#{1,6}\s",
    "bold": r"\*\*[^*\n]+\*\*",
    "code": r"`[^`\n]+`",
    "lines": r"\S\s*\n\s*\S",
    "label": r"(?m)^\W*[\w ]{2,24}[:：]",
    "full stop": r"[.。]\s*$",
    "question": r"[?？]\s*$",
    "parenthesis": r"[(（]",
    "capital": r"^\W*[A-Z]",
}
_REGISTER = {
    "you": r"(?i)\byou(r|rs)?\b|[你您]",
    "polite you": r"您",
    "we": r"(?i)\b(we|our|us)\b|我们",
    "I": r"\bI\b|我(?!们)",
    "contraction": r"(?i)\b\w+['’](s|re|ve|ll|d|t|m)\b",
    "please": r"(?i)\b(please|thank|thanks|welcome)\b|请|谢谢|欢迎|麻烦",
    "exclamation": r"[!！]",
    "hedge": r"(?i)\b(may|might|perhaps|probably|likely|about|around|approximately)\b|可能|大概|也许|大约",
    "must": r"(?i)\b(must|shall|never|always)\b|必须|不得|务必|应当",
    "emoji": r"[\U0001F300-\U0001FAFF☀-➿]",
}
_MARKS = {
    part: {name: re.compile(pattern) for name, pattern in patterns.items()}
    for part, patterns in (("format", _FORMAT), ("register", _REGISTER))
}


@dataclass(frozen=True, slots=True)
class StyleScore:
    """How alike an answer is to the house's examples, part by part, each from 0 to 1.

    Attributes:
        length: words in all, and in a sentence.
        format: lists, headings, bold, lines, how it begins and ends.
        register: person, politeness, contractions, hedges.
        phrases: the share of the house's fixed phrases that it has, against what an example has.
    """

    length: float
    format: float
    register: float
    phrases: float

    @property
    def total(self) -> float:
        """The mean of the parts."""
        return fmean(astuple(self))


class StyleMeter:
    """Scores answers against the examples of a house.

    Args:
        examples: answers in the house's style, at least ``FEWEST_EXAMPLES``; citation marks are the caller's to strip.

    Raises:
        InvalidRequest: too few examples.
    """

    def __init__(self, examples: Sequence[str]) -> None:
        texts = [text for text in examples if text.strip()]
        if len(texts) < FEWEST_EXAMPLES:
            raise InvalidRequest(
                "Too few examples to tell a style by",
                got=len(texts),
                wanted=f"at least {FEWEST_EXAMPLES} answers",
                hint="Fifty are a good start.",
            )
        self._marked = Counter(mark for text in texts for mark in _marks(text))
        self._count = len(texts)
        self._lengths = [_spread(values) for values in zip(*map(_lengths, texts), strict=True)]
        found = Counter(phrase for text in texts for phrase in _phrases(text))
        self._phrases = {phrase: count for phrase, count in found.items() if count >= SHARED * self._count}
        # An example is compared with the others alone: what it has by itself is not the house's.
        self._expected = fmean(self._held(text, own=1) for text in texts)
        self.ceiling = _mean(self._score(text, own=1) for text in texts)
        """What the examples themselves reach, each without its own share in the counts."""

    def score(self, text: str) -> StyleScore:
        """Return how much ``text`` is written like the examples."""
        return self._score(text, own=0)

    def _score(self, text: str, own: int) -> StyleScore:
        distances = [
            (value - mean) / spread for value, (mean, spread) in zip(_lengths(text), self._lengths, strict=True)
        ]
        held = self._held(text, own)
        return StyleScore(
            length=fmean(math.exp(-0.5 * distance**2) for distance in distances),
            format=self._alike("format", text, own),
            register=self._alike("register", text, own),
            phrases=min(1.0, held / self._expected) if self._expected else 1.0,
        )

    def _alike(self, part: str, text: str, own: int) -> float:
        """Return the mean over a part's marks of how usual it is for the house to have, or to lack, each as here."""
        present = _marks(text)
        usual = []
        for name in _MARKS[part]:
            mark = (part, name)
            share = (self._marked[mark] - own * (mark in present)) / (self._count - own)
            usual.append((share if mark in present else 1 - share) / max(share, 1 - share))
        return fmean(usual)

    def _held(self, text: str, own: int) -> float:
        """Return the share of the phrases' weight that ``text`` has; longer and more usual ones weigh more."""
        present = set(_phrases(text))
        weights = {phrase: (count - own * (phrase in present)) * len(phrase) for phrase, count in self._phrases.items()}
        whole = sum(weights.values())
        return sum(weight for phrase, weight in weights.items() if phrase in present) / whole if whole else 0.0


def _marks(text: str) -> set[tuple[str, str]]:
    stripped = text.strip()
    return {(part, name) for part, marks in _MARKS.items() for name, mark in marks.items() if mark.search(stripped)}


def _lengths(text: str) -> tuple[float, float]:
    """Return the logs of the number of words and of words in a sentence."""
    words = len(normalized_tokens(text))
    sentences = sum(bool(piece.strip()) for piece in _SENTENCE.split(text))
    return math.log(1 + words), math.log(1 + words / max(1, sentences))


def _spread(values: Sequence[float]) -> tuple[float, float]:
    return fmean(values), max(LEAST_SPREAD, pstdev(values))


def _phrases(text: str) -> set[tuple[str, ...]]:
    words = normalized_tokens(text)
    sizes = range(2, LONGEST_PHRASE + 1)
    return {tuple(words[i : i + size]) for size in sizes for i in range(len(words) - size + 1)}


def _mean(scores: Iterable[StyleScore]) -> StyleScore:
    rows = list(scores)
    return StyleScore(*(fmean(getattr(row, field.name) for row in rows) for field in fields(StyleScore)))
