"""What the line of a heading says, without its marks, in time that grows with its length alone; what is such a line.

Knows nothing of documents.
"""

from __future__ import annotations

import re

HEADING = re.compile(r"(#{1,6})\s+(\S.*)")
"""The line of a heading, its marks and its words, to those who read a document line by line."""
FENCE = re.compile(r"\s*(```|~~~)")
"""The line that opens or closes code, to those who read line by line: any such line closes what another opened."""
_LETTERS = 200
"""Of a heading, at most: its words are repeated in every chunk under it."""
_READ = 1000
"""Of a heading, letters that are looked at."""
_ATTRIBUTES = re.compile(r":?[ \t]*[#.][\w-][^{}\n]*")
"""An anchor or classes, as MkDocs, Pandoc, kramdown and Docusaurus write them in braces at the end of a heading."""
_INLINE = re.compile(r"!?\[([^\]]*)\]\([^)]*\)|[*`]+")


def heading_name(line: str) -> str:
    """Return the words of a heading's line (of two, where it is underlined) on one line, 200 letters at most.

    Without the signs that make it one, attributes in braces at its end, emphasis and the targets of links.
    """
    words = line.strip()
    above, newline, under = words.rpartition("\n")
    if newline and not under.strip("=-"):
        words = above.rstrip()
    opened = words.lstrip("#")
    if 0 < len(words) - len(opened) <= 6 and opened[:1] in {" ", "\t"}:
        words = opened.lstrip()
    words = " ".join(_unattributed(_unclosed(words)).split())[:_READ]
    return " ".join(_INLINE.sub(lambda found: found[1] or "", words).split())[:_LETTERS].rstrip()


def _unclosed(words: str) -> str:
    """Return a heading without the number signs that close it."""
    closed = words.rstrip("#")
    return closed.rstrip() if closed[-1:] in {" ", "\t"} else words


def _unattributed(words: str) -> str:
    """Return a heading without the attributes at its end."""
    start = words.rfind("{")
    if start < 0 or not words.endswith("}") or not _ATTRIBUTES.fullmatch(words, start + 1, len(words) - 1):
        return words
    return _unclosed(words[:start].rstrip())
