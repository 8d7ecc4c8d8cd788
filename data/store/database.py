"""Connections, transactions and the translation of database failures.

One ``Database`` is shared by all aggregates and by all threads of a process; several processes may
open the same file. SQLite runs with full synchronisation: a commit that returned survives a power
cut, unless the write said that it need not (``synced=False``). Its journal is a write-ahead log, so
that searches do not wait for writers, unless the library is one of those whose log is known to lose
commits. Every write starts with ``BEGIN IMMEDIATE``, so two writers queue up instead of failing
halfway. On PostgreSQL they queue up the same way, by a lock that ends with the transaction, so that
what an aggregate reads before it writes still holds when it commits; writes that need no such order
say so (``alone=False``). Knows no table except Alembic's own.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import sqlalchemy as sa
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from data.errors import InvalidRequest, StorageCorrupt
from data.numbers import whole_number
from data.state import map_os_error
from data.store.failures import BUSY_TIMEOUT_S, mapped
from data.store.server import MIGRATING, WRITE_LOCK, WRITING, connect_to, is_server

try:
    import pysqlite3 as sqlite3
except ImportError:  # no wheel for this platform: the SQLite that Python links
    import sqlite3

HEAD = "0011"
"""Revision of the newest migration. A new SQLite file, and a database that has it, need no Alembic at all."""

SYNCED = "FULL"
"""How SQLite writes what is to survive a power cut (sqlite.org/pragma.html#pragma_synchronous)."""

JOURNAL = "WAL" if sqlite3.sqlite_version_info >= (3, 51, 3) else "DELETE"
"""SQLite 3.7.0 to 3.51.2 can lose commits when two connections reset the log (sqlite.org/changes.html, 3.51.3)."""

IN_LIMIT = 1000
"""Values per IN list: far under SQLite's 32766 bound variables, and under its parser's stack."""

_T = TypeVar("_T")

Row: TypeAlias = sa.Row[*tuple[Any, ...]]
"""A row of any columns."""


def batches(values: Iterable[_T], size: int = IN_LIMIT) -> Iterator[list[_T]]:
    """Yield ``values`` in lists of at most ``size``."""
    batch: list[_T] = []
    for value in values:
        batch.append(value)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


def _plain(value: object) -> object:
    if isinstance(value, Mapping):
        return dict(value)
    if is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    raise TypeError(f"{type(value).__name__} cannot be stored as JSON")


def dump_json(value: object) -> str:
    """Return ``value`` as compact JSON with sorted keys: equal values give equal text."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), default=_plain)


def _serialize(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, default=_plain)


def parse_cursor(cursor: str | None) -> int:
    """Return the row key that a page cursor stands for; 0 for the first page.

    Raises:
        InvalidRequest: the cursor was not handed out by a ``list`` call.
    """
    if cursor is None:
        return 0
    key = whole_number(cursor)
    if key is None:
        raise InvalidRequest("Invalid page cursor.", got=cursor, wanted="the next_cursor of the page before")
    return key


def check_limit(limit: int) -> int:
    """Return ``limit`` if a page may have that many rows (1 to 1000).

    Raises:
        InvalidRequest: it may not.
    """
    if not 1 <= limit <= 1000:
        raise InvalidRequest("Invalid page size.", got=limit, wanted="a limit from 1 to 1000")
    return limit


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None
    for pragma in (f"journal_mode={JOURNAL}", f"synchronous={SYNCED}", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}").close()


def _begin_sqlite(connection: sa.Connection) -> None:
    # The driver's own BEGIN is deferred: a writer that began as a reader can fail with SQLITE_BUSY at once.
    options = connection.get_execution_options()
    raw = connection.connection.driver_connection
    assert raw is not None
    if options.get("writes", False):
        # Without a log SQLite's NORMAL may lose the whole file with the power, not only the last commits.
        level = SYNCED if options.get("synced", True) or JOURNAL != "WAL" else "NORMAL"
        raw.execute(f"PRAGMA synchronous={level}").close()
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        return
    raw.execute("BEGIN").close()  # takes no lock yet, so nothing can go wrong that would have to be translated


def _engine(url: str | Path) -> sa.Engine:
    is_url = isinstance(url, str) and "://" in url
    target = sa.make_url(str(url)) if is_url else sa.URL.create("sqlite", database=str(url))
    if is_server(target):
        return connect_to(target, _serialize)
    engine = sa.create_engine(
        target,
        module=sqlite3,
        json_serializer=_serialize,
        connect_args={"timeout": BUSY_TIMEOUT_S, "check_same_thread": False},
        pool_size=8,
        hide_parameters=True,  # a log is not to hold what people ask
        # Waiting for a pool slot would add a second kind of "busy"; SQLite's own queue is enough.
        max_overflow=-1,
    )
    sa.event.listen(engine, "connect", _prepare_sqlite)
    sa.event.listen(engine, "begin", _begin_sqlite)
    return engine


class Database:
    """A connection pool with read and write transactions; safe to share between threads."""

    def __init__(self, url: str | Path) -> None:
        """Open ``url``, a SQLAlchemy URL or the path of a SQLite file.

        A file is migrated here; a server at first use, so that one that is down keeps nobody from starting.

        Raises:
            StorageCorrupt: the file is damaged, is no database, or is of a newer ragtune.
            StateNotWritable: it cannot be created or written.
            InvalidRequest: it is no address, or its driver is not installed.
        """
        if isinstance(url, Path):
            try:
                url.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise map_os_error(error, url.parent) from error
        try:
            self._engine = _engine(url)
        except (ArgumentError, NoSuchModuleError, ModuleNotFoundError, ValueError) as error:
            # Neither the address nor the parser's words about it: both may hold a password.
            raise InvalidRequest(
                "Invalid database address.",
                wanted="a file path, or postgresql://USER:PASSWORD@HOST:PORT/DATABASE",
                hint="PostgreSQL needs its driver: pip install 'ragtune[cluster]'",
            ) from None if isinstance(error, ArgumentError | ValueError) else error
        self._writer = self._engine.execution_options(writes=True)
        self._hasty = self._engine.execution_options(writes=True, synced=False)
        self._reader = self._engine
        self._migrated = False
        self._mutex = threading.Lock()
        self._moment = threading.local()
        if self.dialect == "sqlite":
            self._migrate()
        else:
            snapshot = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
            self._reader = self._engine.execution_options(**snapshot)

    def _migrate(self) -> None:
        with self._mutex:
            if self._migrated:
                return
            try:
                with mapped(self._engine), self._engine.connect() as connection:
                    found = _revision(connection)
                if found != HEAD:
                    self._upgrade()
            except BaseException:
                self.close()
                raise
            self._migrated = True

    def _upgrade(self) -> None:
        with mapped(self._engine), self._writer.begin() as connection:
            self._queue_up(connection, MIGRATING)
            found = _revision(connection)  # again: another process may have been first
            if found == HEAD:
                return
            if self.dialect == "sqlite" and not sa.inspect(connection).get_table_names():
                from data.store.fresh import create

                create(connection, HEAD)
                return
            from data.store.migrate import upgrade

            upgrade(connection, found)

    def _queue_up(self, connection: sa.Connection, which: int) -> None:
        """Wait for the writers before this one; SQLite has done so in ``BEGIN IMMEDIATE``."""
        if self.dialect == "postgresql":
            values = {"timeout": f"{int(BUSY_TIMEOUT_S * 1000)}", "which": which}
            connection.execute(sa.text(WRITE_LOCK), values)

    @property
    def dialect(self) -> str:
        """Return "sqlite" or "postgresql"."""
        return self._engine.dialect.name

    @property
    def waits(self) -> bool:
        """Whether a short read may have to wait: for a server, or for a writer under a rollback journal."""
        return self.dialect != "sqlite" or JOURNAL != "WAL"

    @contextmanager
    def read(self) -> Iterator[sa.Connection]:
        """Open a consistent snapshot for a short read; under a rollback journal no writer can commit meanwhile."""
        held: sa.Connection | None = getattr(self._moment, "connection", None)
        if held is not None:
            with mapped(self._engine):
                yield held
            return
        if not self._migrated:
            self._migrate()
        with mapped(self._engine), self._reader.connect() as connection:
            yield connection

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Let all reads of this thread see one moment, over one connection, until the block ends. No writes within."""
        before = getattr(self._moment, "connection", None)
        with self.read() as connection:
            self._moment.connection = connection
            try:
                yield
            finally:
                self._moment.connection = before

    @contextmanager
    def write(self, *, alone: bool = True, synced: bool = True) -> Iterator[sa.Connection]:
        """Open a write transaction: committed at the end, undone if an exception leaves it.

        Args:
            alone: no other such transaction runs meanwhile. False on a server lets others run: for writes that
                only add, or that lock the rows they read.
            synced: the commit is on the disk when this returns. False leaves that to the next one that is, in a file
                with a log: it survives the process, and a power cut may undo it, whole, with those like it since.
        """
        if not self._migrated:
            self._migrate()
        writer = self._writer if synced else self._hasty
        with mapped(self._engine), writer.begin() as connection:
            if alone:
                self._queue_up(connection, WRITING)
            yield connection

    def now(self, connection: sa.Connection) -> float:
        """Return the time in Unix seconds; a server's own, which all who share it agree on."""
        if self.dialect == "sqlite":
            return time.time()
        found = connection.execute(sa.text("SELECT CAST(extract(epoch FROM clock_timestamp()) AS double precision)"))
        return float(found.scalar_one())

    def insert_new(self, connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, Any]]) -> int:
        """Insert rows, leaving out those whose key exists already; return how many are new."""
        if not rows:
            return 0
        statement: Any = sqlite.insert(table)
        if self.dialect == "postgresql":
            from sqlalchemy.dialects import postgresql  # here: a file needs neither its memory nor its time

            statement = postgresql.insert(table)
        return connection.execute(statement.on_conflict_do_nothing(), list(rows)).rowcount

    def check(self) -> None:
        """Read the whole database for damage (SQLite only); takes seconds per gigabyte.

        Raises:
            StorageCorrupt: damage was found.
        """
        if self.dialect != "sqlite":
            return
        with self.read() as connection:
            found = connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar_one()
        if found != "ok":
            raise StorageCorrupt("The database is damaged.", got=found, hint="Restore ragtune.db from a backup.")

    def vacuum(self) -> None:
        """Give the space of what was deleted back to the disk; for that time nobody else can write.

        Raises:
            InsufficientStorage: there is no room for the copy that this takes.
        """
        with mapped(self._engine), self._engine.connect() as connection:
            raw = connection.connection.driver_connection
            if self.dialect == "sqlite" and raw is not None:
                try:
                    raw.execute("VACUUM")
                    raw.execute("PRAGMA wal_checkpoint(TRUNCATE)").close()  # else the space stays in the log
                except sqlite3.Error as error:
                    raise DBAPIError.instance("VACUUM", None, error, sqlite3.Error) from error

    def snapshot(self, path: Path) -> None:
        """Write the database, as it is at one moment, into the new file ``path`` (SQLite only).

        Raises:
            InvalidRequest: it is on a server, which has tools of its own for that.
            InsufficientStorage: the disk is full.
        """
        if self.dialect != "sqlite":
            raise InvalidRequest("The database is on a server", got=self.dialect, hint="Back it up with pg_dump.")
        with mapped(self._engine), self._engine.connect() as connection:
            raw = connection.connection.driver_connection
            assert raw is not None
            try:
                raw.execute("VACUUM INTO ?", (str(path),))
            except sqlite3.Error as error:
                raise DBAPIError.instance("VACUUM INTO", None, error, sqlite3.Error) from error

    def close(self) -> None:
        """Close every pooled connection."""
        self._engine.dispose()


def _revision(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table("alembic_version"):
        return None
    found = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return None if found is None else str(found)
