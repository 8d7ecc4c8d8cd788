"""Copy a whole database into an empty one of another kind: every table, in one transaction, compared afterwards.

Keys stay as they are, so that index generations in the state directory go on fitting. Knows the tables by
the schema alone.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from data.errors import Conflict, RagtuneError, StorageCorrupt
from data.protocols import Report
from data.records import Progress
from data.store.database import Database, Row, dump_json
from data.store.schema import collections, metadata

_PAGE_ROWS = 200
_LARGE_ROWS = {"documents", "retired_documents"}
"""Tables whose rows hold a whole text, of up to 100 MB each: these go one at a time."""
_FRESH = [("default", None, 0)]
"""The collections of a database in which nothing happened yet: name, current generation, last generation."""


@dataclass(frozen=True, slots=True)
class TableCopy:
    """One copied table: how many rows, and a hash of all their values whatever the order."""

    table: str
    rows: int
    sha256: str


class _Sum:
    """A hash of a set of rows: the sum of theirs, since two databases sort text differently."""

    def __init__(self) -> None:
        self.rows, self._total = 0, 0

    def add(self, row: Row) -> None:
        """Count one row in."""
        values = {name: value.hex() if isinstance(value, bytes) else value for name, value in row._mapping.items()}
        self._total += int.from_bytes(hashlib.sha256(dump_json(values).encode()).digest())
        self.rows += 1

    @property
    def sha256(self) -> str:
        """Return the hash, 64 hex digits."""
        return f"{self._total % 2**256:064x}"


def copy_database(source: Database, target: Database, report: Report) -> list[TableCopy]:
    """Copy every table of ``source``, which others may go on reading, into ``target``; return what was copied.

    All or nothing: ``target`` has no row of it until everything was written, read again and found equal.

    Raises:
        Conflict: ``target`` holds something already.
        StorageCorrupt: what was read back is not what was written.
        InvalidRequest: a value that ``target`` cannot hold; the message names the table.
        JobCancelled: ``report`` said so.
    """
    tables = metadata.sorted_tables
    with source.read() as reading, target.write() as writing:
        _require_empty(writing, tables)
        writing.execute(sa.delete(collections))
        totals = [reading.execute(sa.select(sa.func.count()).select_from(table)).scalar_one() for table in tables]
        step = _counter(sum(totals) * 2, report)
        copied = []
        for table in tables:
            try:
                copied.append(_copy(table, reading, writing, step))
            except RagtuneError as error:
                error.detail = f"The table {table.name} was not copied. {error.detail}"
                raise
        for table, found in zip(tables, copied, strict=True):
            _compare(table, found, writing, step)
            _continue_keys(table, reading, writing)
    return copied


def _counter(total: int, report: Report) -> Callable[[int], None]:
    """Return what to tell how many more rows were written or compared."""
    started, done = time.monotonic(), 0

    def step(rows: int) -> None:
        nonlocal done
        done += rows
        eta_s = (time.monotonic() - started) / done * (total - done) if done else None
        report(Progress(done, total, "rows", eta_s, "copy"))

    return step


def _require_empty(writing: sa.Connection, tables: Sequence[sa.Table]) -> None:
    filled = [
        table.name
        for table in tables
        if table is not collections and writing.execute(sa.select(sa.literal(1)).select_from(table).limit(1)).first()
    ]
    known = writing.execute(
        sa.select(collections.c.name, collections.c.current_generation, collections.c.last_generation)
    ).all()
    if filled or [tuple(row) for row in known] not in ([], _FRESH):
        raise Conflict(
            "The database to copy into is not empty.",
            got=f"rows in {', '.join(filled or ['collections'])}",
            wanted="a new database",
            hint="Create another one on the server, and give its name.",
        )


def _pages(table: sa.Table, connection: sa.Connection) -> Iterator[Sequence[Row]]:
    """Yield all rows, some at a time, in the order of the primary key."""
    query = sa.select(table).order_by(*table.primary_key.columns)
    rows = 1 if table.name in _LARGE_ROWS else _PAGE_ROWS
    yield from connection.execute(query, execution_options={"yield_per": rows}).partitions()


def _copy(table: sa.Table, reading: sa.Connection, writing: sa.Connection, step: Callable[[int], None]) -> TableCopy:
    total = _Sum()
    for page in _pages(table, reading):
        for row in page:
            total.add(row)
        writing.execute(sa.insert(table), [dict(row._mapping) for row in page])
        step(len(page))
    return TableCopy(table.name, total.rows, total.sha256)


def _compare(table: sa.Table, wanted: TableCopy, writing: sa.Connection, step: Callable[[int], None]) -> None:
    total = _Sum()
    for page in _pages(table, writing):
        for row in page:
            total.add(row)
        step(len(page))
    if (total.rows, total.sha256) != (wanted.rows, wanted.sha256):
        raise StorageCorrupt(
            f"The table {table.name} was read back otherwise than it was written; nothing was kept.",
            got=f"{total.rows} rows, {total.sha256[:12]}",
            wanted=f"{wanted.rows} rows, {wanted.sha256[:12]}",
            hint="Check the database's encoding: CREATE DATABASE ... ENCODING 'UTF8'.",
        )


def _continue_keys(table: sa.Table, reading: sa.Connection, writing: sa.Connection) -> None:
    """Let new rows go on after the largest key that the source ever gave out, deleted ones included."""
    column = table.autoincrement_column
    if column is None or not table.dialect_options["sqlite"]["autoincrement"]:
        return
    query = sa.text("SELECT seq FROM sqlite_sequence WHERE name = :table")
    given = reading.execute(query, {"table": table.name}).scalar()
    if given:
        place = sa.func.pg_get_serial_sequence(table.name, column.name)
        writing.execute(sa.select(sa.func.setval(sa.cast(place, sa.Text), int(given))))
