"""Runs the Alembic migrations that lie beside this module, wherever the package is installed.

Knows nothing of the tables: each migration spells its own out, so that an old one never changes.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory

from data.errors import StorageCorrupt

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
        StorageCorrupt: the database was written by a newer ragtune.
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
    command.upgrade(run, "head")
