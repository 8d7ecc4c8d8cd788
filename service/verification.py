"""Ties each sentence of an answer to the passage span that bears it out, and puts its citation marks right.

Under ``keep`` an answer stays as the model wrote it. Under ``mark`` a citation mark stands only where its passage
bears out what stands before it: another passage's number takes its place where that one does, else the mark goes.
Under ``remove`` sentences that no passage bears out go as well. Knows nothing of models or of how passages were found.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from data.prompt import strip_citations
from data.records import Citation, Passage, Sentence
from retrieval.wording import content_stems
from service.citations import quoted
from service.support import Support, find_support, sentence_spans

Unsupported = Literal["keep", "mark", "remove"]
"""What becomes of a sentence that no passage bears out."""

_MARK = re.compile(r"(?<!\s)(\s*)\[(\d{1,2})\]")
"""A mark with the blanks before it. Without blanks it is one only where ``_TIGHT`` fits what stands before it."""
_CJK = r"\u3000-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef“”‘’"
"""Characters and punctuation of scripts that put no blank before a mark."""
_TIGHT = re.compile(rf"(?:[{_CJK}]|(?:^|[^A-Za-z0-9_.,])\d[\d.,]*)$")
"""What a mark may stand right behind, but for another mark: such a character, a number. ``x2[1]`` is code."""
_BEFORE = 24
"""Characters that ``_TIGHT`` looks back: longer than any number in prose."""
_stems = lru_cache(maxsize=256)(content_stems)
"""The question, and the spans that bear out what is said, are looked at again for each claim of an answer."""
_IN_A_ROW, _MARKED = 0.5, 0.1
"""What they weigh against the share of the question's words, see bench/RESULTS.md for others."""


@dataclass(frozen=True, slots=True)
class Verified:
    """An answer's text under a policy, and what each of its sentences rests on."""

    text: str
    sentences: tuple[Sentence, ...]
    citations: tuple[Citation, ...]


class CheckedMarks:
    """Puts the citation marks of a text right while it comes in pieces; a mark comes whole, with the blanks before it.

    Args:
        passages: those the prompt held; ranks count from 1.
        question: that was asked.
    """

    def __init__(self, passages: Sequence[Passage], question: str = "") -> None:
        self._passages = passages
        self._question = question
        self._claim = ""
        self._cited: set[int] = set()
        self._last = ""
        self._before = ""
        self._chained = False

    def feed(self, piece: str) -> str:
        """Take a piece and return it with the marks that belong there."""
        shown, place = "", 0
        for mark in _marks(piece, self._before, chained=self._chained):
            shown += self._say(piece[place : mark.start()])
            number = self._right(int(mark[2]))
            shown += f"{mark[1]}[{number}]" if number else ""
            place = mark.end()
        self._before = (self._before + piece)[-_BEFORE:]
        self._chained = place == len(piece) if piece else self._chained
        return shown + self._say(piece[place:])

    def _say(self, text: str) -> str:
        self._claim += text
        return text

    def _right(self, number: int) -> int | None:
        """Return the passage to cite for what was said since the last mark, None for none (or none once more)."""
        if self._claim.strip():
            spans = sentence_spans(self._claim)
            self._last = self._claim[spans[-1][0] : spans[-1][1]]
            self._claim, self._cited = "", set()
        found = best_support(self._last, self._passages, self._question, (number,))
        if found is None or found[0] in self._cited:
            return None
        self._cited.add(found[0])
        return found[0]


def _marks(text: str, before: str = "", *, chained: bool = False) -> list[re.Match[str]]:
    """Return the citation marks of a text that goes on from ``before``, whose end is a mark where ``chained``."""
    found: list[re.Match[str]] = []
    end = 0 if chained else -1
    for mark in _MARK.finditer(text):
        if mark[1] or mark.start() == end or _TIGHT.search((before + text[: mark.start()])[-_BEFORE:]):
            found.append(mark)
            end = mark.end()
    return found


def check_marks(text: str, passages: Sequence[Passage], question: str = "") -> str:
    """Return ``text`` with its citation marks put right."""
    return CheckedMarks(passages, question).feed(text)


def best_support(
    claim: str, passages: Sequence[Passage], question: str = "", marked: Sequence[int] = ()
) -> tuple[int, Support] | None:
    """Return the rank of the passage that bears a claim out, and where; None if none does.

    Of several the one whose span has most of the question's words, since a short answer ("1842", "three") stands in
    many; the same words in a row count more than words apart, and the model's own mark a little.
    """
    asked = _stems(question)
    best: tuple[float, int, Support] | None = None
    for number, passage in enumerate(passages, 1):
        support = find_support(claim, passage.chunk.text)
        if support is None:
            continue
        span = f"{passage.chunk.heading} {passage.chunk.text[support.start : support.end]}"
        fit = len(asked & _stems(span)) / len(asked) if asked else 0.0
        score = fit + _IN_A_ROW * (support.share >= 1.0) + _MARKED * (number in marked)
        if best is None or score > best[0]:
            best = (score, number, support)
    return None if best is None else best[1:]


def verify(text: str, passages: Sequence[Passage], policy: Unsupported, question: str = "") -> Verified:
    """Return the answer under ``policy``, its sentences and its citations.

    Without passages there is nothing to verify with: the text stays, and no sentences are told.

    Args:
        text: with ranks in its citation marks, which ``check_marks`` has put right unless the policy is ``keep``.
        passages: those the prompt held.
        policy: what becomes of sentences that no passage bears out.
        question: that was asked.
    """
    if not passages:
        return Verified(text, (), ())
    claims = _claims(text)
    tied = [_tie(text[start:end], passages, question) for start, end in claims]
    if policy == "remove":
        kept = [text[start:end] for (start, end), support in zip(claims, tied, strict=True) if support is not None]
        text = " ".join(kept)
        claims, tied = _claims(text) if kept else [], [support for support in tied if support is not None]
    sentences = tuple(_sentence(span, support, passages) for span, support in zip(claims, tied, strict=True))
    return Verified(text, sentences, _citations(sentences, passages))


def _tie(sentence: str, passages: Sequence[Passage], question: str) -> tuple[int, Support] | None:
    """Return what bears a sentence out: one passage, else one for each of its cited parts (the first is returned)."""
    whole = best_support(sentence, passages, question, _numbers(sentence))
    if whole is not None:
        return whole
    marks = _marks(sentence)
    starts = [0, *(mark.end() for mark in marks)]
    ends = [*(mark.start() for mark in marks), len(sentence)]
    parts = [sentence[start:end] for start, end in zip(starts, ends, strict=True)]
    said = [part for part in parts if re.search(r"\w", part)]
    if len(said) < 2:
        return None
    found = [best_support(part, passages, question) for part in said]
    return found[0] if all(support is not None for support in found) else None


def _numbers(claim: str) -> tuple[int, ...]:
    return tuple(dict.fromkeys(int(mark[2]) for mark in _marks(f" {claim}")))


def _claims(text: str) -> list[tuple[int, int]]:
    """Return the sentences of an answer; marks behind a full stop belong to the sentence before it."""
    spans: list[tuple[int, int]] = []
    for start, end in sentence_spans(text):
        lead = re.match(r"(?:\s*\[\d{1,2}\])+\s*", text[start:end])
        begin = start
        if lead and spans:
            begin = start + lead.end()
            spans[-1] = (spans[-1][0], start + len(lead[0].rstrip()))
        if strip_citations(text[begin:end]):
            spans.append((begin, end))
    return spans


def _sentence(span: tuple[int, int], found: tuple[int, Support] | None, passages: Sequence[Passage]) -> Sentence:
    if found is None:
        return Sentence(*span, supported=False)
    number, support = found
    chunk = passages[number - 1].chunk
    return Sentence(
        *span,
        supported=True,
        n=number,
        document_id=chunk.document_id,
        quote_start=chunk.start + support.start,
        quote_end=chunk.start + support.end,
        quote=chunk.text[support.start : support.end],
    )


def _citations(sentences: Sequence[Sentence], passages: Sequence[Passage]) -> tuple[Citation, ...]:
    """Return a citation for each passage that a sentence rests on, quoting what bears out the first."""
    first: dict[int, tuple[int, int]] = {}
    for sentence in sentences:
        if sentence.n is not None and sentence.quote_start is not None and sentence.quote_end is not None:
            first.setdefault(sentence.n, (sentence.quote_start, sentence.quote_end))
    cited = [(number, passages[number - 1], span) for number, span in first.items()]
    return tuple(
        quoted(n, passage, start - passage.chunk.start, end - passage.chunk.start, supported=True)
        for n, passage, (start, end) in cited
    )
