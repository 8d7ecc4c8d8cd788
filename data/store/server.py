"""What a database server (PostgreSQL) needs beside SQLite: addresses, connections, and the names of its failures.

Knows no table. Nothing here, and no error made here, holds a password.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from data.errors import (
    Conflict,
    DatabaseUnavailable,
    InsufficientStorage,
    InvalidRequest,
    RagtuneError,
    StateError,
    StateLocked,
    StateNotWritable,
    StorageCorrupt,
)

DRIVER = "postgresql+psycopg"
CONNECT_TIMEOUT_S = 5
"""A server that does not take a connection within this counts as down."""
SILENCE_S = 15
"""A connection on which the server acknowledges nothing for so long is given up (a host that vanished)."""

WRITE_LOCK = "SELECT set_config('lock_timeout', :timeout, true), pg_advisory_xact_lock(7246853, :which)"
"""Waits for the lock that ends with the transaction; parameters work behind a pooler of connections too."""
MIGRATING, WRITING = 1, 2

_CLASSES: dict[str, type[RagtuneError]] = {
    "08": DatabaseUnavailable,  # connection failures
    "22": InvalidRequest,  # data that does not fit its column
    "23": Conflict,  # constraints
    "28": DatabaseUnavailable,  # credentials
    "53": DatabaseUnavailable,  # connections or memory used up
    "57": DatabaseUnavailable,  # shut down, starting, or ended by its operator
    "XX": StorageCorrupt,
}
_CODES: dict[str, type[RagtuneError]] = {
    "25006": DatabaseUnavailable,  # a standby answered, which takes no writes
    "3D000": DatabaseUnavailable,  # no such database
    "40001": StateLocked,
    "40P01": StateLocked,  # deadlock
    "42501": StateNotWritable,
    "53100": InsufficientStorage,
    "55P03": StateLocked,  # lock_timeout
    "XX000": StateError,
}
_HINTS: dict[type[RagtuneError], str] = {
    DatabaseUnavailable: "Check that the server of RAGTUNE_DATABASE_URL runs and lets this user in; it is tried again.",
    InsufficientStorage: "Free some space on the database server, then try again.",
    StateLocked: "Another process kept the database busy; try again.",
    StateNotWritable: "Give the user of RAGTUNE_DATABASE_URL the right to create and write tables.",
    StorageCorrupt: "Restore the database from a backup.",
    StateError: "Look into the log of the database server.",
}


def is_server(url: sa.URL) -> bool:
    """Tell whether an address is that of a server, by whatever name it is commonly called."""
    return url.get_backend_name() in ("postgresql", "postgres")


def of_server(error: DBAPIError) -> bool:
    """Tell whether an error is the driver's of a server, not SQLite's."""
    return type(error.orig).__module__.startswith("psycopg")


def connect_to(url: sa.URL, serialize: Any) -> sa.Engine:
    """Return an engine for ``url``; nothing is connected yet.

    Raises:
        NoSuchModuleError, ModuleNotFoundError: its driver is not installed.
    """
    target = url if "+" in url.drivername else url.set(drivername=DRIVER)
    return sa.create_engine(
        target,
        json_serializer=serialize,
        isolation_level="READ COMMITTED",
        pool_pre_ping=True,  # after a restart of the server the pool's connections are dead
        pool_size=8,
        max_overflow=8,
        pool_timeout=CONNECT_TIMEOUT_S,
        hide_parameters=True,
        connect_args={
            "connect_timeout": CONNECT_TIMEOUT_S,
            "tcp_user_timeout": SILENCE_S * 1000,
            "keepalives_idle": SILENCE_S,
            "application_name": "ragtune",
        },
    )


def map_server_error(error: DBAPIError) -> RagtuneError:
    """Return the error of our tree for a failure of the driver or of the server."""
    code = str(getattr(error.orig, "sqlstate", None) or "")
    said = str(error.orig).strip().splitlines()
    detail = f"The database failed: {said[0] if said else type(error.orig).__name__}."
    kind = _CODES.get(code) or _CLASSES.get(code[:2])
    if code == "22003":
        return InvalidRequest("A number is too large to be stored.", wanted="a 64-bit integer")
    if kind is None:
        # Without a code it never reached the server (no connection), or the driver refused a value.
        by_name = {"DataError": InvalidRequest, "OperationalError": DatabaseUnavailable}
        kind = StateError if code else by_name.get(type(error).__name__, StateError)
        kind = DatabaseUnavailable if error.connection_invalidated else kind
    return kind(detail, hint=_HINTS.get(kind, ""))
