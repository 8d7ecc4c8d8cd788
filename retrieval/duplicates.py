"""Near-duplicate questions, found through an inverted index that holds only each question's rarest grams.

Knows questions as text alone: not where they come from, nor what is done with a duplicate.
"""

from __future__ import annotations

from itertools import pairwise
from math import ceil

from retrieval.wording import terms


def grams(question: str) -> frozenset[str]:
    """Return the terms of a question and its pairs of neighbouring terms."""
    words = terms(question)
    return frozenset(words) | {f"{left} {right}" for left, right in pairwise(words)}


class QuestionIndex:
    """Questions that can be asked whether one like a given question is among them.

    Two questions are near-duplicates if the Jaccard similarity of their grams reaches
    ``threshold``. Sets that similar share one of their first ``n - ceil(threshold * n) + 1``
    grams in any fixed order (prefix filtering: Chaudhuri, Ganti and Kaushik, ICDE 2006), so only
    those are indexed; long grams come first, because they are rare, which keeps postings short.
    """

    def __init__(self, threshold: float = 0.8) -> None:
        """Create an empty index; ``threshold`` in (0, 1]."""
        self._threshold = threshold
        self._questions: list[tuple[str, frozenset[str]]] = []
        self._postings: dict[str, list[int]] = {}

    def __len__(self) -> int:
        return len(self._questions)

    def add(self, question: str) -> None:
        """Add a question."""
        held = grams(question)
        for gram in self._prefix(held):
            self._postings.setdefault(gram, []).append(len(self._questions))
        self._questions.append((question, held))

    def find(self, question: str) -> str | None:
        """Return a question that was added and is nearly the same as ``question``, or None."""
        asked = grams(question)
        seen: set[int] = set()
        for gram in self._prefix(asked):
            for number in self._postings.get(gram, ()):
                if number in seen:
                    continue
                seen.add(number)
                text, held = self._questions[number]
                common = len(asked & held)
                if common >= self._threshold * (len(asked) + len(held) - common):
                    return text
        return None

    def _prefix(self, held: frozenset[str]) -> list[str]:
        kept = len(held) - ceil(self._threshold * len(held)) + 1
        return sorted(held, key=lambda gram: (-len(gram), gram))[:kept] if held else []
