"""A proposed pair, and what the checks may ask about it: what was accepted so far, what is found, what is read.

Knows nothing of the checks themselves, nor of the store.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from data.records import PairKind, Passage
from data.splits import QuestionIndex
from retrieval.asking import FREE_WORDS
from retrieval.glossary import Glossary
from retrieval.meaning import Embed, MeaningIndex
from retrieval.wording import stretch_of

CONTAMINATION_THRESHOLD = 0.7

Search = Callable[[str], Sequence[Passage]]
"""Returns what the production retriever finds for a question, best first."""

Read = Callable[[str, Sequence[Passage]], str]
"""Returns the reader's answer to a question over passages."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A proposal about ``passage``: ``raw`` as it was generated; the rest is "" where ``raw`` lacks it.

    ``others`` are the further passages that it needs (kind "multi").
    """

    raw: str
    question: str
    answer: str
    kind: PairKind
    passage: Passage
    others: tuple[Passage, ...] = ()

    @property
    def passages(self) -> tuple[Passage, ...]:
        """Return every passage that it is about."""
        return (self.passage, *self.others)

    @property
    def texts(self) -> list[str]:
        """Return what the passages say, their headings included."""
        return [f"{p.title}\n{p.chunk.heading}\n{p.chunk.text}" for p in self.passages]


@dataclass(frozen=True, slots=True)
class Reading:
    """What the reader said to a question over passages, named by their chunks' ids."""

    question: str
    chunk_ids: tuple[str, ...]
    said: str


@dataclass(frozen=True, slots=True)
class CheckResult:
    """The outcome of one check; ``reason`` says what was found."""

    name: str
    passed: bool
    reason: str = ""


class SourceCap:
    """How many accepted pairs each document has, and how many one may have: a share of the whole set."""

    def __init__(self, accepted: Mapping[str, int], requested: int, share: float) -> None:
        """Start from the numbers of accepted pairs by document; ``share`` is of all, or of ``requested`` if more."""
        self._counts = Counter(accepted)
        self._requested = requested
        self._share = share

    def limit(self) -> float:
        """Return how many pairs one document may have by now."""
        return max(1.0, self._share * max(self._requested, self._counts.total() + 1))

    def full(self, document_id: str) -> bool:
        """Tell whether one more pair of this document would be too many."""
        return self._counts[document_id] + 1 > self.limit()

    def add(self, document_id: str) -> None:
        """Count an accepted pair."""
        self._counts[document_id] += 1


class Context:
    """What checks may ask about a question; the passages of the latest question are kept."""

    def __init__(
        self,
        search: Search,
        *,
        accepted: Iterable[tuple[str, str]] = (),
        evaluation: Iterable[str] = (),
        read: Read | None = None,
        embed: Embed | None = None,
        cap: SourceCap | None = None,
        glossary: Glossary | None = None,
    ) -> None:
        """Start from the questions (with answers) already accepted and the ones that are measured on."""
        self.accepted = QuestionIndex()
        self.evaluation = QuestionIndex(CONTAMINATION_THRESHOLD)
        known = list(accepted)
        for question, _ in known:
            self.accepted.add(question)
        for question in evaluation:
            self.evaluation.add(question)
        self.reading: Reading | None = None
        """What was read already, taken where it is of the same question and passages."""
        self._read = read
        self.cap = cap
        self.glossary = glossary or Glossary()
        self.meanings = MeaningIndex(embed) if embed else None
        if self.meanings is not None:
            self.meanings.add(known)
        self.search = search
        self._latest: tuple[str, Sequence[Passage]] | None = None

    def accept(self, question: str, answer: str, *document_ids: str) -> None:
        """Take in a pair that passed, so that those that follow are compared with it."""
        self.accepted.add(question)
        if self.meanings is not None:
            self.meanings.add([(question, answer)])
        if self.cap is not None:
            for document_id in dict.fromkeys(document_ids):
                self.cap.add(document_id)

    @property
    def reads(self) -> bool:
        """Tell whether there is a reader."""
        return self._read is not None

    def read(self, question: str) -> str:
        """Return the reader's answer to ``question`` over what the production retriever finds for it."""
        assert self._read is not None
        passages = self.passages(question)
        held = self.reading
        if held is not None and (held.question, held.chunk_ids) == (question, chunk_ids(passages)):
            return held.said
        return self._read(question, passages)

    def passages(self, question: str) -> Sequence[Passage]:
        """Return what the production retriever finds for ``question``."""
        if self._latest is None or self._latest[0] != question:
            self._latest = (question, self.search(question))
        return self._latest[1]


def chunk_ids(passages: Sequence[Passage]) -> tuple[str, ...]:
    """Return the ids of the passages' chunks, in their order."""
    return tuple(passage.chunk.id for passage in passages)


def parse_candidate(raw: str, kind: PairKind, passage: Passage, *others: Passage) -> Candidate:
    """Read a generated JSON object into a candidate; a span gets the passage's own spelling."""
    fields = reply_fields(raw, kind) or {}
    question = " ".join(fields.get("question", "").split())
    answer = " ".join(fields.get("answer", "").split())
    spelled = stretch_of(answer, passage.chunk.text) if kind not in FREE_WORDS else None
    return Candidate(raw, question, spelled or answer, kind, passage, others)


def reply_fields(raw: str, kind: PairKind) -> dict[str, str] | None:
    """Return the fields of a reply, None if it is not the JSON object that was asked for."""
    try:
        value = json.loads(raw)
    except ValueError:
        return None
    wanted = {"question"} if kind == "unanswerable" else {"question", "answer"}
    if not isinstance(value, dict) or set(value) != wanted or not all(isinstance(v, str) for v in value.values()):
        return None
    return value
