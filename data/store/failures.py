"""What a failure of the database means: the error of our tree for it, and what to do next. Knows no table."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from data.errors import (
    Conflict,
    InsufficientStorage,
    InvalidRequest,
    RagtuneError,
    StateError,
    StateLocked,
    StateNotWritable,
    StorageCorrupt,
)
from data.store.server import map_server_error, of_server

BUSY_TIMEOUT_S = 30.0
"""How long a writer waits for another one before it gives up."""

_LOG_INDEX_BYTES = 32768
"""The least that SQLite's index of its log takes (sqlite.org/walformat.html, 2.1)."""
_DAMAGED = "Restore a backup: ragtune restore FILE; or ingest again into a new directory."


def _map_database_error(error: DBAPIError, file: str | None = None) -> RagtuneError:
    """Return the error of our tree for a failure of SQLite with ``file``."""
    name = str(getattr(error.orig, "sqlite_errorname", ""))
    detail = f"The database failed: {error.orig}."
    if name.startswith("SQLITE_FULL") or (name.startswith("SQLITE_IOERR") and _is_full(file)):
        return InsufficientStorage(detail, hint="Free some disk space, then try again.")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")) or "Could not decode to UTF-8" in detail:
        return StorageCorrupt(detail, hint=_DAMAGED)
    if name.startswith(("SQLITE_READONLY", "SQLITE_CANTOPEN", "SQLITE_PERM")):
        return StateNotWritable(detail, hint="Make the state directory writable for this user.")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return StateLocked(detail, hint=f"Another process kept the database for over {BUSY_TIMEOUT_S:.0f} s.")
    if name.startswith("SQLITE_CONSTRAINT") or type(error).__name__ == "IntegrityError":
        return Conflict(f"The database refused a row: {error.orig}.")
    return StateError(detail, hint="Check the disk.")


def _is_full(file: str | None) -> bool:
    """Say whether the disk lacks room for the index of a log, which SQLite needs to open what nobody has open."""
    try:
        return file is not None and shutil.disk_usage(Path(file).parent).free < _LOG_INDEX_BYTES
    except OSError:
        return False


@contextmanager
def mapped(engine: sa.Engine) -> Iterator[None]:
    """Raise the errors of our tree where a block's work on the database fails."""
    try:
        yield
    except DBAPIError as error:
        if of_server(error):
            raise map_server_error(error) from error
        raise _map_database_error(error, engine.url.database) from error
    except PoolTimeout as error:
        raise StateLocked("Every connection to the database is in use.", hint="Try again in a moment.") from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        # A row, or the schema's own text in SQLite's message.
        raise StorageCorrupt("The database holds bytes that are no text.", got=str(error), hint=_DAMAGED) from error
    except OverflowError as error:
        raise InvalidRequest("A number is too large to be stored.", wanted="a 64-bit integer") from error
    except UnicodeEncodeError as error:
        raise InvalidRequest(
            "Text holds half of a surrogate pair, which is no character.", got=repr(error.object[error.start])
        ) from error
