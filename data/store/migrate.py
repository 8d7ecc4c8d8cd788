"""Runs the Alembic migrations that lie beside this module, wherever the package is installed.

Knows nothing of the tables: each migration spells its own out, so that an old one never changes.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy.exc import DBAPIError

from data.errors import StorageCorrupt

_UNFIT = frozenset(("42P01", "42P07", "42701", "42703", "42704", "42710"))
"""PostgreSQL's codes (Appendix A) for a table, column or other object that is not there, or is there already."""
MIGRATIONS = Path(__file__).parent / "migrations"


def config() -> Config:
    """Return an Alembic configuration that needs no ini file."""
    made = Config()
    made.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    made.set_main_option("path_separator", "os")
    return made


def head() -> str:
    """Return the newest revision among the migrations."""
    return str(ScriptDirectory.from_config(config()).get_current_head())


def upgrade(connection: sa.Connection, found: str | None) -> None:
    """Bring the database up to the newest revision inside the caller's transaction.

    Args:
        connection: inside a write transaction.
        found: the database's present revision, None if it is new.

    Raises:
        StorageCorrupt: the database was written by a newer ragtune, or has not the tables of its revision.
    """
    known = {script.revision for script in ScriptDirectory.from_config(config()).walk_revisions()}
    if found is not None and found not in known:
        raise StorageCorrupt(
            "The database was written by a newer ragtune.",
            got=f"revision {found}",
            wanted=f"one of {', '.join(sorted(known))}",
            hint="Install that version again, or use another state directory.",
        )
    run = config()
    run.attributes["connection"] = connection
    try:
        command.upgrade(run, "head")
    except DBAPIError as error:
        if not _other_tables(error):
            raise
        if found is None:
            raise StorageCorrupt(
                "The database holds tables that ragtune did not make.",
                got=str(error.orig).strip().splitlines()[0],
                wanted="an empty database, or one of ragtune's; nothing was changed now",
                hint="Name another one.",
            ) from error
        raise StorageCorrupt(
            "The database's tables are not those of its revision: something stopped half-way, or changed them.",
            got=f"revision {found}: {str(error.orig).strip().splitlines()[0]}",
            wanted=f"the tables of revision {found}; nothing was changed now",
            hint="Restore a backup: ragtune restore, or pg_restore for a server.",
        ) from error


def _other_tables(error: DBAPIError) -> bool:
    """Tell whether a statement of a migration met tables or columns that should not be there, or missed some."""
    code = str(getattr(error.orig, "sqlstate", None) or "")
    return code in _UNFIT or getattr(error.orig, "sqlite_errorname", "") == "SQLITE_ERROR"
