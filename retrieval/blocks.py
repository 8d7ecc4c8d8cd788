"""Find what a chunk should not cut: fenced code and tables; and say where code and prose are best cut.

The importer of langchain_text_splitters. Works on offsets of the text it is given, and knows nothing of
tokens, headings or documents.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

Kind = Literal["prose", "code", "table"]

SENTENCE_END = r"[。！？!?…]+[”’」』）)\"']*|\.(?=\s)"
# Every separator stays at the end of its piece, so pieces join to the text they came from.
_PROSE = ("\n\n", "\n", SENTENCE_END, r"[；;]", r"[，、,：:]", r"\s", "")
_ROWS = ("\n", r"\|", *_PROSE[2:])
_LINES = ("\n\n", "\n", r"[;；]", r"\s", "")
_WINDOW = 65_536
"""Characters that the splitter is given at once: its time and memory grow with the pieces of one call."""
_FENCE = re.compile(r"^ {0,3}(`{3,}|~{3,})[ \t]*([\w+#.-]*)[^\n]*$", re.MULTILINE)
_ROW = re.compile(r"^[ \t]*\|[^\n]*$", re.MULTILINE)
_LANGUAGES = {
    "bash": "", "c": "c", "c++": "cpp", "cpp": "cpp", "c#": "csharp", "cs": "csharp", "csharp": "csharp",
    "elixir": "elixir", "go": "go", "haskell": "haskell", "html": "html", "java": "java", "javascript": "js",
    "js": "js", "jsx": "js", "kotlin": "kotlin", "lua": "lua", "perl": "perl", "php": "php",
    "powershell": "powershell", "proto": "proto", "py": "python", "python": "python", "r": "r", "ruby": "ruby",
    "rust": "rust", "scala": "scala", "swift": "swift", "ts": "ts", "tsx": "ts", "typescript": "ts",
}  # fmt: skip
"""What the languages are called by langchain, by what loaders and fences call them."""


@dataclass(frozen=True, slots=True)
class Block:
    """A stretch of one kind. ``language`` is of code; ``header`` is the first row of a table."""

    start: int
    end: int
    kind: Kind
    language: str = ""
    header: str = ""


def blocks(text: str) -> Iterator[Block]:
    """Yield the blocks of Markdown-like text, which join to it: fenced code, tables of ``|`` rows, prose."""
    position = 0
    while opening := _FENCE.search(text, position):
        yield from _tables(text, position, opening.start())
        closing = re.compile(rf"^ {{0,3}}{opening[1][0]}{{{len(opening[1])},}}[ \t]*$\n?", re.MULTILINE)
        closed = closing.search(text, opening.end())
        end = closed.end() if closed else len(text)
        yield Block(opening.start(), end, "code", opening[2].lower())
        position = end
    yield from _tables(text, position, len(text))


def _tables(text: str, start: int, end: int) -> Iterator[Block]:
    """Yield the tables between ``start`` and ``end``, and the prose around them."""
    position = start
    while row := _ROW.search(text, position, end):
        first, last, rows = row.start(), min(row.end() + 1, end), 1
        while following := _ROW.match(text, last, end):
            last, rows = min(following.end() + 1, end), rows + 1
        if rows < 2:
            first = last  # One line with bars is no table.
        if first > start:
            yield Block(start, first, "prose")
        if rows > 1:
            yield Block(first, last, "table", header=row[0].strip())
        start = position = last
    if start < end:
        yield Block(start, end, "prose")


def cut(text: str, block: Block, count: Callable[[str], int], budget: int) -> list[int]:
    """Return the offsets in ``text`` at which pieces of a block end, each of at most ``budget`` tokens if it can be."""
    if block.end - block.start <= _WINDOW and count(text[block.start : block.end]) <= budget:
        return [block.end]
    separators, keep = _separators(block)
    ends: list[int] = []
    position = block.start
    while position < block.end:
        window = _window(text, position, block.end)
        for piece in _split(text[position:window], separators, keep, count, budget):
            position += len(piece)
            ends.append(position)
    return ends


def _window(text: str, start: int, end: int) -> int:
    """Return where the next stretch for the splitter ends: after a line, a sentence or a word if there is one."""
    if end - start <= _WINDOW:
        return end
    limit = start + _WINDOW
    for separator in ("\n\n", "\n", "。", ". ", " "):
        found = text.rfind(separator, start + _WINDOW // 2, limit)
        if found >= 0:
            return found + len(separator)
    return limit


def _separators(block: Block) -> tuple[tuple[str, ...], Literal["start", "end"]]:
    """Return what to cut at, best first, and on which side of the cut the separator stays."""
    if block.kind == "table":
        return _ROWS, "end"
    if block.kind == "prose":
        return _PROSE, "end"
    name = _LANGUAGES.get(block.language, "")
    if not name:
        return _LINES, "end"
    from langchain_text_splitters import Language, RecursiveCharacterTextSplitter

    # A definition begins with its keyword, so these separators open the next piece.
    return tuple(RecursiveCharacterTextSplitter.get_separators_for_language(Language(name))), "start"


def _split(
    text: str, separators: tuple[str, ...], keep: Literal["start", "end"], count: Callable[[str], int], budget: int
) -> list[str]:
    from langchain_text_splitters import RecursiveCharacterTextSplitter

    splitter = RecursiveCharacterTextSplitter(
        separators=list(separators),
        is_separator_regex=True,
        keep_separator=keep,
        strip_whitespace=False,
        chunk_size=budget,
        chunk_overlap=0,
        # A piece of no tokens (white space) would be repeated: langchain drops pieces until none is left to count.
        length_function=lambda part: max(count(part), 1) if part else 0,
    )
    return splitter.split_text(text)
