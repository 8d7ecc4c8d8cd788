"""Cut a document into chunks along its headings, within a token budget, with exact offsets.

Sections come first (Markdown headings, or the heading lines a loader found), then the blocks inside a
section: tables are cut between rows, code between definitions or lines, prose at paragraph, sentence
and clause ends, Chinese ones included. Knows nothing of files, embeddings or indexes; tokens are
counted by whoever calls.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise

from data.errors import InvalidRequest
from data.records import Chunk, Document, content_id
from retrieval.blocks import SENTENCE_END, Block, blocks, cut
from retrieval.heading import heading_name

CHUNKER = "headings-blocks-3"
"""Name of this algorithm: a changed one needs a new name, so that stored chunks are made again."""

_FRONT_MATTER = re.compile(r"\A---\n(?:.*\n)*?---\n")
_TINY_SHARE = 0.25
_PROSE_TYPES = {"text/x-rst", "text/x-markdown", "text/x-web-markdown"}
_LETTERS_PER_TOKEN = 16  # WordPiece calls a megabyte without a space one unknown token: such text counts by length

_MAX_MARKDOWN = 1_000_000
"""Characters up to which the Markdown parser looks for headings; beyond, lines with # outside fences are taken."""
_ATX = re.compile(r"^ {0,3}(#{1,6})[ \t]+\S[^\n]*$", re.MULTILINE)
_MAX_HEADER = 200
_HEADER_READ = 20 * _MAX_HEADER
"""Of a table's header row, letters that are looked at for each chunk: a sheet may have a hundred thousand columns."""

CountTokens = Callable[[str], int]


@dataclass(frozen=True, slots=True)
class _Span:
    """A stretch of text under a heading path (without the title)."""

    start: int
    end: int
    path: tuple[str, ...]


def embedded_text(chunk: Chunk) -> str:
    """Return what is embedded and indexed for a chunk: its heading path, then its text."""
    return f"{chunk.heading}\n{chunk.text}" if chunk.heading else chunk.text


def chunk(document: Document, count_tokens: CountTokens, chunk_size: int = 200, chunk_overlap: int = 0) -> list[Chunk]:
    """Cut ``document`` into chunks of at most ``chunk_size`` tokens.

    Every visible character outside heading lines is in a chunk. ``chunk_overlap`` is at most that
    many tokens of the previous chunk of the same section, whole sentences where they fit. Small
    neighbouring sections share a chunk where they fit together.

    Raises:
        InvalidRequest: ``chunk_size`` is not above ``chunk_overlap``, or either is negative.
    """
    if chunk_overlap < 0 or chunk_size <= chunk_overlap:
        raise InvalidRequest(
            "chunk_overlap must be smaller than chunk_size.",
            got=f"chunk_size={chunk_size}, chunk_overlap={chunk_overlap}",
            wanted="0 <= chunk_overlap < chunk_size",
        )
    longest = _LETTERS_PER_TOKEN * (chunk_size + 1)

    @lru_cache(maxsize=65536)
    def count(part: str) -> int:
        # What is over budget by its length alone is never tokenized: that keeps a 50 MB line cheap.
        by_length = len(part) // _LETTERS_PER_TOKEN
        return by_length if len(part) >= longest else max(count_tokens(part), by_length)

    text = document.text
    spans = [span for span in _sections(document) if text[span.start : span.end].strip()]
    if not spans and text.strip():
        spans = [_Span(0, len(text), ())]
    chunks = []
    for span in _merge_tiny(text, spans, count, chunk_size):
        found = _blocks(document, span)
        for start, end in _split(text, found, count, chunk_size, chunk_overlap):
            chunks.append(_chunk(document, start, end, [*span.path, *_columns(found, start)]))
    return chunks


def _blocks(document: Document, span: _Span) -> list[Block]:
    """Return the blocks of a section: source code is one, Markdown and what was made of tables may hold many."""
    if document.media_type.startswith("text/x-") and document.media_type not in _PROSE_TYPES:
        language = str(document.meta.get("language") or document.media_type.removeprefix("text/x-"))
        return [Block(span.start, span.end, "code", language.lower())]
    return [
        replace(block, start=span.start + block.start, end=span.start + block.end)
        for block in blocks(document.text[span.start : span.end])
    ]


def _columns(found: Sequence[Block], start: int) -> list[str]:
    """Return the header row of the table that a chunk continues: its own text begins further down."""
    block = found[bisect_right(found, start, key=lambda block: block.start) - 1]
    if block.kind != "table" or start <= block.start + len(block.header):
        return []
    cells = [cell.strip() for cell in block.header[:_HEADER_READ].strip("|").split("|")]
    return [" | ".join(cell for cell in cells if cell)[:_MAX_HEADER]]


def _chunk(document: Document, start: int, end: int, path: Sequence[str]) -> Chunk:
    starts = document.meta.get("page_starts") or ()
    return Chunk(
        id=content_id(document.id, str(start), str(end)),
        document_id=document.id,
        text=document.text[start:end],
        start=start,
        end=end,
        heading=" > ".join([document.title, *path] if document.title else path),
        page=bisect_right(starts, start) or None,
    )


def heading_lines(document: Document) -> list[tuple[int, int, int]]:
    """Return (start, end, level) of every heading line, in order; a loader's own list comes first."""
    if document.meta.get("headings"):
        return sorted((int(start), int(end), int(level)) for start, end, level in document.meta["headings"])
    if document.meta.get("markup") == "markdown" or document.media_type in {"text/markdown", "text/html"}:
        return list(_markdown_headings(document.text))
    return []


def _markdown_headings(text: str) -> Iterator[tuple[int, int, int]]:
    if len(text) > _MAX_MARKDOWN:
        for block in blocks(text):
            if block.kind == "prose":
                for found in _ATX.finditer(text, block.start, block.end):
                    yield found.start(), found.end(), len(found[1])
        return
    from markdown_it import MarkdownIt

    front = _FRONT_MATTER.match(text)
    skipped = front.end() if front else 0
    offsets = [skipped]
    for line in text[skipped:].split("\n"):
        offsets.append(offsets[-1] + len(line) + 1)
    for token in MarkdownIt("commonmark").disable("inline").parse(text[skipped:]):
        if token.type == "heading_open" and token.level == 0 and token.map:
            yield offsets[token.map[0]], min(offsets[token.map[1]], len(text)), int(token.tag[1:])


def _sections(document: Document) -> Iterator[_Span]:
    """Yield the text between headings, each with the headings it stands under."""
    text, title = document.text, " ".join(document.title.split())
    path: list[tuple[int, str]] = []
    position = 0
    for start, end, level in heading_lines(document):
        yield _Span(position, start, tuple(name for _, name in path))
        name = heading_name(text[start:end])
        while path and path[-1][0] >= level:
            path.pop()
        if name and name != title:
            path.append((level, name))
        position = end
    yield _Span(position, len(text), tuple(name for _, name in path))


def _merge_tiny(text: str, spans: Iterable[_Span], count: CountTokens, chunk_size: int) -> list[_Span]:
    """Join a section with the next one where either is tiny and both fit; their common path stays."""
    merged: list[_Span] = []
    for span in spans:
        previous = merged[-1] if merged else None
        if previous and _fits(text, previous, span, count, chunk_size):
            merged[-1] = _Span(previous.start, span.end, _common(previous.path, span.path))
        else:
            merged.append(span)
    return merged


def _fits(text: str, first: _Span, second: _Span, count: CountTokens, chunk_size: int) -> bool:
    if second.end - first.start > _LETTERS_PER_TOKEN * chunk_size:
        return False
    if min(count(text[span.start : span.end]) for span in (first, second)) > chunk_size * _TINY_SHARE:
        return False
    return count(text[first.start : second.end]) <= chunk_size


def _common(first: Sequence[str], second: Sequence[str]) -> tuple[str, ...]:
    common = []
    for one, other in zip(first, second, strict=False):
        if one != other:
            break
        common.append(one)
    return tuple(common)


def _split(
    text: str, found: Sequence[Block], count: CountTokens, chunk_size: int, chunk_overlap: int
) -> list[tuple[int, int]]:
    """Return (start, end) of the chunks of one section, visible characters at both ends."""
    budget = chunk_size - chunk_overlap
    whole = (found[0].start, found[-1].end)
    if count(text[whole[0] : whole[1]]) <= budget:
        pieces = [whole]
    else:
        edges = [whole[0], *(end for block in found for end in cut(text, block, count, budget))]
        pieces = _join_small(text, list(pairwise(edges)), count, budget)
    trimmed = []
    for number, (start, end) in enumerate(pieces):
        body = text[start:end]
        if not body.strip():
            continue
        if number and chunk_overlap:
            start = _overlap_start(text, pieces[number - 1], count, chunk_overlap)  # noqa: PLW2901
        left = start + len(text[start:end]) - len(text[start:end].lstrip())
        trimmed.append((left, end - (len(body) - len(body.rstrip()))))
    return trimmed


def _join_small(text: str, pieces: list[tuple[int, int]], count: CountTokens, budget: int) -> list[tuple[int, int]]:
    """Join neighbouring pieces that fit together: blocks are cut one by one, and leave short tails."""
    joined: list[tuple[int, int]] = []
    for start, end in pieces:
        if joined and count(text[joined[-1][0] : end]) <= budget:
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((start, end))
    return joined


def _overlap_start(text: str, previous: tuple[int, int], count: CountTokens, chunk_overlap: int) -> int:
    """Return where the overlap begins: the earliest sentence, else word, within the token budget."""
    start, end = previous
    body = text[start:end]
    for pattern in (SENTENCE_END, r"\s"):
        cuts = [found.end() for found in re.finditer(pattern, body) if found.end() < len(body.rstrip())]
        fitting = [cut for cut in cuts if count(body[cut:]) <= chunk_overlap]
        if fitting:
            return start + fitting[0]
    return end
