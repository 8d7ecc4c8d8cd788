"""Reads whole numbers that somebody else wrote: in a header, a cursor, a name with a version, a cell of a table.

``str.isdigit`` is true of "²", which ``int`` refuses; it refuses more than 4,300 digits too, a database 64 bits.
"""

from __future__ import annotations

MOST_DIGITS = 18
"""Each number of so many digits fits into 64 bits with a sign."""


def whole_number(text: str) -> int | None:
    """Return the number that 1 to 18 ASCII digits write, None for anything else."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS else None
