"""Questions that mean the same though their words differ: by the cosine of their vectors.

``data.splits.QuestionIndex`` finds near-duplicates by their letters; this finds paraphrases. Knows
nothing of embedders: a function gives the vectors.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np

from data.protocols import Vectors
from data.scoring import token_f1

SAME_MEANING = 0.75
ALIKE_ANSWERS = 0.8
"""Least cosine of two questions, and least token F1 of their answers.

Measured once with all-MiniLM-L6-v2 on 843 questions of 90 paragraphs of SQuAD 2.0 (dev): of the pairs of
one paragraph at this cosine 6 have a common answer and 60 have not ("When was he born?", "When did he
die?": 0.89), so the cosine alone is wrong at every threshold; with answers alike it finds those 6 and 1 other.
"""

Embed = Callable[[Sequence[str]], Vectors]
"""Returns a vector for each text, shape (number of texts, dimension), each of length 1."""

_DIGITS = re.compile(r"\d+")
_FIRST_ROWS = 256


class MeaningIndex:
    """Finds a question that means the same among those added; exact, 4 bytes a number, grown by doubling.

    Two questions count as the same if their vectors' cosine is at least ``SAME_MEANING``, their answers are
    alike (token F1 of at least ``ALIKE_ANSWERS``, or both have none), and they hold the same numbers, as
    vectors hardly tell 2019 from 2020.
    """

    def __init__(self, embed: Embed) -> None:
        self._embed = embed
        self._entries: list[tuple[str, str]] = []
        self._vectors: Vectors = np.zeros((0, 0), dtype=np.float32)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entries: Sequence[tuple[str, str]]) -> None:
        """Add questions with their answers ("" for one without)."""
        if not entries:
            return
        fresh = self._embed([question for question, _ in entries])
        wanted = len(self._entries) + len(entries)
        if wanted > len(self._vectors):
            grown = np.zeros((max(wanted, 2 * len(self._vectors), _FIRST_ROWS), fresh.shape[1]), dtype=np.float32)
            if self._entries:
                grown[: len(self._entries)] = self._vectors[: len(self._entries)]
            self._vectors = grown
        self._vectors[len(self._entries) : wanted] = fresh
        self._entries += entries

    def match(self, question: str, answer: str) -> tuple[str, float] | None:
        """Return the most similar question that means the same, and the cosine, or None if none does."""
        if not self._entries:
            return None
        similar = self._vectors[: len(self._entries)] @ self._embed([question])[0]
        near = np.flatnonzero(similar >= SAME_MEANING)
        for number in near[np.argsort(-similar[near], kind="stable")]:
            other, its_answer = self._entries[number]
            same_numbers = sorted(_DIGITS.findall(question)) == sorted(_DIGITS.findall(other))
            if same_numbers and _alike(answer, its_answer):
                return other, float(similar[number])
        return None


def _alike(answer: str, other: str) -> bool:
    if not answer or not other:
        return answer == other
    return token_f1(answer, [other]) >= ALIKE_ANSWERS
