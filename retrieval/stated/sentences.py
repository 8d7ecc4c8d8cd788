"""The sentences of a document's prose, with their places, and how they read without markup.

Code, tables, lists, quotations and headings are left out. Knows nothing of questions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from retrieval.heading import FENCE, HEADING, heading_name

LONGEST_SENTENCE = 1000
"""Characters of a sentence that is looked at."""
LONGEST_ABBREVIATION = 16

_NO_PROSE = re.compile(r"\s*(?:[#>|]|/{3,}|:{3,}|!!!|<|\{[%*]|!\[)|(?: {4}|\t)")
_FRONT_MATTER = re.compile(r"\s*---[ \t]*\n[\w-]+:.*?\n---[ \t]*(?:\n|$)", re.DOTALL)
_LISTED = re.compile(r"\s*(?:[-*+]|\d+[.)、])\s")
# A full stop after an initial or an abbreviation ends no sentence as far as its look goes.
_ENDS = re.compile(r"[.!?][\"”’)]?\s+(?=[\"“‘(`*\[]*[A-Z0-9`\u4e00-\u9fff])|[。！？][”’」』）]?\s*")
_ABBREVIATED = re.compile(
    r"(?:\b[A-Z]|\b[A-Za-z]\.[A-Za-z]|\b(?:Fr|Ave|Blvd|Rd|Dept|Univ|Mr|Mrs|Ms|Dr|St|Sr|Jr|Prof|Rev|Gen|Col|Lt|Sgt|Capt|Gov|Sen|Rep|Hon|No|Nos|"
    r"vs|ca|cf|approx|etc|al|Fig|Vol|pp|ed|Inc|Ltd|Co|Corp|Bros|Mt|Ft|Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sep|Sept|Oct|Nov|Dec))\.$"
)
_LINK = re.compile(r"(?<!!)\[([^\[\]]*)\]\([^()\s]*(?:\([^()]*\)[^()\s]*)?(?:\s+\"[^\"]*\")?\)(?:\{[^{}]*\})?")
_TAG = re.compile(r"</?[A-Za-z][^<>]*>")
_STRONG = re.compile(
    r"\*\*(?=\S)([^*]+?)(?<=\S)\*\*|(?<![\w*])\*(?=\S)([^*]+?)(?<=\S)\*(?!\w)|(?<!\w)_(?=\S)([^_]+?)(?<=\S)_(?!\w)"
)
_CODE = re.compile(r"`[^`]*`")
_NOTE = re.compile(r"\[(?:\d+|[a-z]|[a-z ]+ needed)\]")
_LEFT_OVER = re.compile(r"``|[\[\]{}|<>*]|!\[|https?:|[\U0001f000-\U0001faff\u2600-\u27bf]")


@dataclass(frozen=True, slots=True)
class Sentence:
    """What stands at ``start:end`` of a document, ``text``, how it reads, and ``under``, the headings above it."""

    text: str
    start: int
    end: int
    under: str = ""


def sentences(document: str) -> list[Sentence]:
    """Return the sentences of a document's paragraphs, in order; those with markup that is not read are left out."""
    return [
        Sentence(plain(document[first:last]), first, last, under)
        for start, end, under in _paragraphs(document)
        for first, last in _split(document, start, end)
        if _is_read(document[first:last])
    ]


def _paragraphs(document: str) -> Iterator[tuple[int, int, str]]:
    """Yield the places of the paragraphs of prose, each with the headings above it."""
    fenced, position, begun = False, 0, -1
    headings: list[str] = []
    front = _FRONT_MATTER.match(document)
    for line in document.splitlines(keepends=True):
        start, position = position, position + len(line)
        if front and start < front.end():
            continue
        fence = FENCE.match(line) is not None
        fenced ^= fence
        blank = not line.strip()
        item = _LISTED.match(line)
        stops = fence or fenced or blank or _NO_PROSE.match(line) is not None
        if begun >= 0 and (stops or item):
            yield begun, start, " ".join(headings)
            begun = -1
        if not fenced and (level := HEADING.match(line)):
            headings = [*headings[: len(level[1]) - 1], heading_name(line)]
        if not stops and begun < 0:
            begun = start + (item.end() if item else 0)
    if begun >= 0:
        yield begun, len(document), " ".join(headings)


def _split(document: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Yield the places of a paragraph's sentences, without the whitespace around them."""
    begun = start
    for found in _ENDS.finditer(document, start, end):
        stop = found.start() + len(found.group().rstrip())
        if _ABBREVIATED.search(document[max(begun, stop - LONGEST_ABBREVIATION) : stop]):
            continue
        yield _bare(document, begun, stop)
        begun = found.end()
    yield _bare(document, begun, end)


def _bare(document: str, start: int, end: int) -> tuple[int, int]:
    raw = document[start:end]
    return start + len(raw) - len(raw.lstrip()), end - len(raw) + len(raw.rstrip())


def _is_read(raw: str) -> bool:
    """Tell whether a sentence has a length to be looked at, and no markup but what ``plain`` reads."""
    if not raw or len(raw) > LONGEST_SENTENCE:
        return False
    text = _CODE.sub("", plain(raw)) if "``" not in raw else raw
    return "`" not in text and not _LEFT_OVER.search(text)


def plain(text: str) -> str:
    """Return Markdown as it reads: links by their words, without emphasis, tags and notes, on one line."""
    said = _LINK.sub(r"\1", text)
    said = _NOTE.sub("", _TAG.sub("", said))
    said = _STRONG.sub(lambda found: found[1] or found[2] or found[3], said)
    return " ".join(said.split())
