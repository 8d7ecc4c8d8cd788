"""Spreadsheets and delimited text as Markdown tables. The only importer of python-calamine."""

from __future__ import annotations

import csv
import datetime
import io
from collections.abc import Iterable, Iterator
from typing import Any

from data.errors import DamagedDocument, EncryptedDocument
from retrieval.parsers.archive import check_container
from retrieval.parsers.markup import markdown_table
from retrieval.parsers.parsed import BLANK, Budget, Parsed, join_within
from retrieval.text import decode

_DELIMITERS = ",;\t|"
_SNIFFED_LINES = 20
_LONGEST_FIELD = 2**24


def parse_workbook(raw: bytes, budget: Budget) -> Parsed:
    """Return every sheet with cells as a section named after it, its first filled row the table's header.

    Raises:
        EncryptedDocument: it needs a password.
        DamagedDocument: no workbook can be read from it.
        DecompressionBomb: it unpacks beyond the limits.
    """
    import python_calamine

    if raw.startswith(b"PK"):
        check_container(raw, budget)
    try:
        with python_calamine.CalamineWorkbook.from_filelike(io.BytesIO(raw)) as book:
            return Parsed(join_within(_sheets(book), budget))
    except python_calamine.PasswordError as error:
        raise EncryptedDocument("The workbook needs a password.", hint="Remove the password first.") from error
    except (python_calamine.CalamineError, OSError, ValueError) as error:
        detail = f"The workbook cannot be read: {error}."
        raise DamagedDocument(detail, hint="Open it in its own program and save it as .xlsx.") from error


def _sheets(book: Any) -> Iterator[str]:
    for name in book.sheet_names:
        rows = _trim([[_cell(value) for value in row] for row in book.get_sheet_by_name(name).iter_rows()])
        if rows:
            yield f"## {name}{BLANK}{markdown_table(rows)}"


def _trim(rows: list[list[str]]) -> list[list[str]]:
    """Return ``rows`` without empty rows, and without columns that are empty throughout."""
    rows = [row for row in rows if any(row)]
    width = max((len(row) for row in rows), default=0)
    used = [column for column in range(width) if any(column < len(row) and row[column] for row in rows)]
    return [[row[column] if column < len(row) else "" for column in used] for row in rows]


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)
    if isinstance(value, datetime.datetime):
        return value.isoformat(sep=" ")
    return str(value).strip()


def parse_delimited(raw: bytes, budget: Budget, *, delimiter: str = "") -> Parsed:
    """Return delimited text as one table; rows of unequal length are filled up."""
    csv.field_size_limit(_LONGEST_FIELD)
    text = decode(raw)
    found = delimiter or guess_delimiter(text.split("\n", _SNIFFED_LINES)[:_SNIFFED_LINES])
    try:
        rows = _trim([[cell.strip() for cell in row] for row in csv.reader(io.StringIO(text), delimiter=found)])
    except csv.Error as error:
        raise DamagedDocument(f"The table cannot be read: {error}.", hint="Check its quotation marks.") from error
    return Parsed(join_within([markdown_table(rows)], budget))


def guess_delimiter(lines: Iterable[str]) -> str:
    """Return the delimiter that cuts most lines into the same number of cells, more than one."""
    filled = [line for line in lines if line.strip()]

    def agreement(delimiter: str) -> tuple[int, int]:
        widths = [len(row) for row in csv.reader(filled, delimiter=delimiter)]
        many = [width for width in widths if width > 1]
        common = max(set(many), key=many.count) if many else 0
        return many.count(common) if common else 0, common

    return max(_DELIMITERS, key=agreement)
