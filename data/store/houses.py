"""The houses: each collection's own instructions and sampling defaults, every version that was ever set."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from data.access import current
from data.errors import InvalidRequest, NotFound
from data.records import House
from data.store.collections import require_collection
from data.store.database import Database
from data.store.schema import metadata

MAX_INSTRUCTIONS = 4000
"""Characters: they stand in every prompt, of which passages need the most."""
SAMPLING: Mapping[str, tuple[type, float, float]] = {
    "temperature": (float, 0.0, 2.0),
    "max_tokens": (int, 1, 8192),
    "top_k": (int, 1, 50),
}
"""Type, least and most of each, as ``POST /v1/answers`` takes them."""

houses = sa.Table(
    "houses",
    metadata,
    sa.Column("collection", sa.String, sa.ForeignKey("collections.name"), primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("instructions", sa.Text, nullable=False),
    sa.Column("sampling", sa.JSON, nullable=False),
    sa.Column("actor", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)
_FIELDS = [houses.c[name] for name in House.__dataclass_fields__]
_NEWEST = (
    sa.select(*_FIELDS)
    .where(houses.c.collection == sa.bindparam("collection"))
    .order_by(houses.c.version.desc())
    .limit(1)
)
_VERSION = _NEWEST.where(houses.c.version == sa.bindparam("version"))
"""Made once: every answer runs the former."""


class Houses:
    """The houses of a store. Versions are never changed; going back writes a new one."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def current(self, collection: str) -> House:
        """Return what holds now; version 0, without instructions, where nothing was ever set or seen."""
        return self._find(collection) or House(collection)

    def get(self, collection: str, version: int) -> House:
        """Return one version.

        Raises:
            NotFound: there is none.
        """
        found = House(collection) if version == 0 else self._find(collection, version)
        if found is None:
            hint = f"ragtune collections show {collection}"
            raise NotFound("No such version of the collection's settings.", got=f"{collection} {version}", hint=hint)
        return found

    def history(self, collection: str) -> list[House]:
        """Return every version, newest first."""
        query = sa.select(*_FIELDS).where(houses.c.collection == collection).order_by(houses.c.version.desc())
        with self._database.read() as connection:
            return [House(*row) for row in connection.execute(query)] if current().sees(collection) else []

    def put(self, collection: str, instructions: str, sampling: Mapping[str, Any], actor: str = "") -> House:
        """Set what holds from now on; what holds already makes no new version.

        Raises:
            InvalidRequest: the instructions are too long, or a sampling default is unknown or out of bounds.
            UnknownCollection: there is no such collection.
        """
        text, values = instructions.strip(), check_sampling(sampling)
        if len(text) > MAX_INSTRUCTIONS:
            raise InvalidRequest(
                "The instructions are too long",
                got=f"{len(text)} characters",
                wanted=f"at most {MAX_INSTRUCTIONS}",
                hint="What is long belongs into a document: ragtune ingest PATH",
            )
        with self._database.write() as connection:
            require_collection(connection, collection)
            newest = connection.execute(_NEWEST, {"collection": collection}).one_or_none()
            before = House(collection) if newest is None else House(*newest)
            if (before.instructions, dict(before.sampling)) == (text, values):
                return before
            made = House(collection, before.version + 1, text, values, actor, time.time())
            row = {name: getattr(made, name) for name in House.__dataclass_fields__}
            connection.execute(sa.insert(houses).values(row))
        return made

    def _find(self, collection: str, version: int | None = None) -> House | None:
        values = {"collection": collection, "version": version}
        with self._database.read() as connection:
            row = connection.execute(_NEWEST if version is None else _VERSION, values).one_or_none()
        return None if row is None or not current().sees(collection) else House(*row)


def check_sampling(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return sampling defaults without those left out (None).

    Raises:
        InvalidRequest: an unknown one, one of another type, or out of its bounds.
    """
    checked = {}
    for name, value in values.items():
        if value is None:
            continue
        if name not in SAMPLING:
            raise InvalidRequest("No such sampling default", got=name, wanted=", ".join(SAMPLING))
        kind, least, most = SAMPLING[name]
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole or (kind is float and isinstance(value, float))) or not least <= value <= most:
            raise InvalidRequest(f"{name} is out of bounds", got=value, wanted=f"{kind.__name__} {least:g} to {most:g}")
        checked[name] = kind(value)
    return dict(sorted(checked.items()))
