"""Makes answerable questions unanswerable: the passages that hold an answer are hidden from the search.

What is left are near misses, passages that the same search ranks next. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from data.records import Method, Passage, Question, content_id
from data.scoring import contains

DEPTH = 50
"""Passages that are looked through for the answer."""
_ROUNDS = 4


class Searches(Protocol):
    """Finds passages, some left out: the production retriever."""

    def search(
        self, query: str, collection: str, top_k: int, method: Method, exclude_chunks: frozenset[str]
    ) -> list[Passage]:
        """Return the ``top_k`` best passages."""


@dataclass(frozen=True, slots=True)
class Hidden:
    """Questions of which some were made unanswerable, and the chunks that each of those must not see, by id."""

    questions: tuple[Question, ...]
    chunks: Mapping[str, frozenset[str]]


def hide_answers(questions: Sequence[Question], searches: Searches, collection: str, top_k: int) -> Hidden:
    """Return the questions, every second one with its answers hidden.

    Which ones follows from their ids. A question whose answer is found in ever more passages (a number, say) stays
    answerable.
    """
    order = sorted(range(len(questions)), key=lambda place: content_id(questions[place].id))
    chosen = set(order[::2])
    made, chunks = list(questions), {}
    for place in sorted(chosen):
        question = questions[place]
        hidden = _holders(question, searches, collection, top_k)
        if hidden is not None:
            made[place] = replace(question, answers=(), answerable=False)
            chunks[question.id] = hidden
    return Hidden(tuple(made), chunks)


def _holders(question: Question, searches: Searches, collection: str, top_k: int) -> frozenset[str] | None:
    """Return the chunks without which no passage near the question holds an answer; None where ever more do."""
    hidden: frozenset[str] = frozenset()
    for _ in range(_ROUNDS):
        found = searches.search(question.question, collection, max(DEPTH, top_k), "hybrid", hidden)
        holding = {passage.chunk.id for passage in found if contains(passage.chunk.text, question.answers)}
        if not holding:
            return hidden
        hidden |= holding
    return None
