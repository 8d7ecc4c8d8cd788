"""Collections: named sets of documents that are indexed and searched together."""

from __future__ import annotations

import time

import sqlalchemy as sa

from data.access import current
from data.errors import UnknownCollection
from data.state import check_name
from data.store.database import Database, Row
from data.store.schema import collections

_CURRENT = sa.select(collections.c.current_generation).where(collections.c.name == sa.bindparam("name"))
"""Made once: every search runs it."""


def require_collection(connection: sa.Connection, name: str) -> Row:
    """Return the row of collection ``name``.

    Raises:
        UnknownCollection: there is none, or whoever asks may not know of it.
    """
    row = connection.execute(sa.select(collections).where(collections.c.name == name)).one_or_none()
    if row is None or not current().sees(name):
        raise _unknown(name)
    return row


def _unknown(name: str) -> UnknownCollection:
    return UnknownCollection(
        "No such collection.", got=name, hint=f"Create it with: ragtune ingest PATH --collection {name}"
    )


def ensure_collection(database: Database, connection: sa.Connection, name: str) -> None:
    """Create collection ``name`` within the caller's transaction unless it exists."""
    check_name(name, "collection name")
    row = {"name": name, "current_generation": None, "last_generation": 0, "created_at": time.time()}
    database.insert_new(connection, collections, [row])


class Collections:
    """The collections of a store; "default" always exists."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def ensure(self, name: str) -> None:
        """Create the collection unless it exists.

        Raises:
            InvalidRequest: the name cannot name a folder.
        """
        with self._database.write() as connection:
            ensure_collection(self._database, connection, name)

    def names(self) -> list[str]:
        """Return every name that whoever asks may know, sorted."""
        with self._database.read() as connection:
            found = connection.execute(sa.select(collections.c.name).order_by(collections.c.name)).scalars().all()
        return [name for name in found if current().sees(name)]

    def current_generation(self, name: str) -> int | None:
        """Return the number of the index generation in use, None before the first.

        Raises:
            UnknownCollection: there is no such collection.
        """
        with self._database.read() as connection:
            row = connection.execute(_CURRENT, {"name": name}).one_or_none()
        if row is None or not current().sees(name):
            raise _unknown(name)
        return None if row[0] is None else int(row[0])
