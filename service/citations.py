"""From an answer's text and its passages to citations whose quotes stand in the documents.

Knows nothing of how the answer was generated.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from data.prompt import cited_numbers, strip_citations
from data.records import Citation, Passage
from service.support import sentence_spans

SUPPORT_OVERLAP = 0.6
"""Share of the answer's words a passage must hold to support it, where it does not hold it verbatim."""

_WORD = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]|[^\W_]+", re.UNICODE)
_ARTICLES = frozenset(("a", "an", "the"))


def cite_passages(text: str, passages: Sequence[Passage]) -> tuple[Citation, ...]:
    """Return a citation for every passage that ``text`` cites.

    Where it cites none, the best passage that holds the answer verbatim is cited for it. A number
    that names no passage is left out.
    """
    answer = strip_citations(text)
    numbers = [n for n in cited_numbers(text) if 1 <= n <= len(passages)]
    if not numbers and not cited_numbers(text):
        holders = (n for n, passage in enumerate(passages, 1) if _find(answer, passage.chunk.text) is not None)
        numbers = list(holders)[:1]
    cited = [(n, passages[n - 1], passages[n - 1].chunk.text) for n in numbers]
    return tuple(
        quoted(n, passage, *_quote_span(answer, text), supported=supports(answer, text)) for n, passage, text in cited
    )


def supports(answer: str, passage: str) -> bool:
    """Tell whether ``passage`` holds ``answer``: as a run of words, or most of its words."""
    wanted = _words(answer)
    held = _words(passage)
    if not wanted:
        return False
    if f" {' '.join(wanted)} " in f" {' '.join(held)} ":
        return True
    present = set(held)
    return sum(word in present for word in wanted) / len(wanted) >= SUPPORT_OVERLAP


def quoted(number: int, passage: Passage, start: int, end: int, *, supported: bool) -> Citation:
    """Return the citation of passage ``number`` that quotes ``start:end`` of its chunk's text."""
    chunk = passage.chunk
    return Citation(
        n=number,
        document_id=chunk.document_id,
        source=passage.source,
        title=passage.title,
        heading=chunk.heading,
        page=chunk.page,
        start=chunk.start + start,
        end=chunk.start + end,
        quote=chunk.text[start:end],
        score=passage.score,
        supported=supported,
    )


def _words(text: str) -> list[str]:
    return [word for word in _WORD.findall(text.lower()) if word not in _ARTICLES]


def _find(answer: str, text: str) -> tuple[int, int] | None:
    """Return where ``answer`` stands in ``text``, ignoring case, spacing and punctuation at its ends."""
    words = answer.strip(" \t\n.,;:!?\"'“”‘’。，；：！？").split()
    if not words:
        return None
    pattern = r"\s+".join(re.escape(word) for word in words)
    if words[0][0].isascii() and words[0][0].isalnum():
        pattern = r"(?<![A-Za-z0-9])" + pattern
    if words[-1][-1].isascii() and words[-1][-1].isalnum():
        pattern += r"(?![A-Za-z0-9])"
    found = re.search(pattern, text, re.IGNORECASE)
    return found.span() if found else None


def _quote_span(answer: str, text: str) -> tuple[int, int]:
    """Return the span of the sentences that hold the answer, else of the one that shares most words."""
    sentences = sentence_spans(text)
    found = _find(answer, text)
    if found is not None:
        touched = [(s, e) for s, e in sentences if s < found[1] and e > found[0]]
        return min(found[0], *(s for s, _ in touched)), max(found[1], *(e for _, e in touched))
    wanted = set(_words(answer))
    return max(sentences, key=lambda span: len(wanted & set(_words(text[span[0] : span[1]]))))
