"""What a parser gives back, and what it may spend."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from data.errors import DocumentTooLarge

BLANK = "\n\n"


@dataclass(slots=True)
class Parsed:
    """A document's text, in Markdown unless ``markdown`` is False, and what else is known of it.

    ``meta`` may hold ``page_starts`` and ``headings`` (``[start, end, level]``), offsets into ``text``.
    """

    text: str
    title: str = ""
    markdown: bool = True
    meta: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Budget:
    """What one file may still cost inside the child: characters, bytes unpacked, seconds, depth."""

    max_text: int
    max_unpacked: int
    max_members: int
    max_ratio: float
    max_depth: int
    ends_at: float
    ocr: bool = False

    def seconds(self) -> float:
        """Return the seconds left before the parent ends this process."""
        return self.ends_at - time.monotonic()


def join_within(parts: Iterable[str], budget: Budget, separator: str = BLANK) -> str:
    """Join ``parts``, and stop with an error as soon as they exceed the text limit.

    Raises:
        DocumentTooLarge: they do.
    """
    kept, size = [], 0
    for part in parts:
        size += len(part) + len(separator)
        check_size(size, budget)
        kept.append(part)
    return separator.join(kept)


def check_size(characters: int, budget: Budget) -> None:
    """Refuse a text over the limit.

    Raises:
        DocumentTooLarge: it is.
    """
    if characters > budget.max_text:
        raise DocumentTooLarge(
            "The file holds too much text.", wanted=f"at most {budget.max_text} characters", hint="Split the file."
        )
