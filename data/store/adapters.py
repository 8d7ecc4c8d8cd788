"""Adapters: their versions, which one is live for a base model, and what was live before it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from data.access import current
from data.errors import Conflict, IllegalTransition, NoLiveAdapter, UnknownAdapter
from data.records import Adapter, AdapterStage, StageNote
from data.state import check_name
from data.store.database import Database
from data.store.links import TrainedRow, link_adapter
from data.store.schema import adapter_events, adapters, promotions
from data.store.stages import NOBODY, check_transition, log_stage

_FIELDS = (
    "name",
    "version",
    "base_model",
    "base_sha256",
    "recipe",
    "rows_sha256",
    "attention",
    "files",
    "metrics",
    "stage",
    "lineage",
)
_COLUMNS = tuple(adapters.c[field] for field in _FIELDS)
# Made once: every answer runs some of them, and making a statement takes longer than running it.
_ONE = sa.select(*_COLUMNS).where(
    adapters.c.name == sa.bindparam("name"), adapters.c.version == sa.bindparam("version")
)
_NAMED = sa.select(*_COLUMNS).where(adapters.c.name == sa.bindparam("name")).limit(1)
_NEWEST = _NAMED.order_by(adapters.c.version.desc())
_LIVE_OR_NEWEST = _NAMED.order_by((adapters.c.stage == "live").desc(), adapters.c.version.desc())
_IN_STAGE = sa.select(*_COLUMNS).where(
    adapters.c.base_sha256 == sa.bindparam("base_sha256"), adapters.c.stage == sa.bindparam("stage")
)


def _at(name: str, version: int) -> sa.ColumnElement[bool]:
    return sa.and_(adapters.c.name == name, adapters.c.version == version)


class Adapters:
    """The adapters of a store. At most one is live for each base model and scope.

    An adapter's scope is the collection it was trained in, or every collection where its lineage names none (the
    packaged ones). A collection's own live adapter answers there before one for every collection does. Promotions form
    a stack for each base model and scope: rolling back takes the top off, so twice goes back two promotions.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, adapter: Adapter, rows: Sequence[TrainedRow] = ()) -> None:
        """Add a new version of an adapter, as a candidate or retired (only ``promote`` makes one live).

        It is linked with ``rows``, which it was trained on, and with the documents that its lineage names.

        Raises:
            InvalidRequest: the name cannot name a folder.
            Conflict: the version exists, or the stage is live or shadow.
        """
        check_name(adapter.name, "adapter name")
        if adapter.stage in ("live", "shadow"):
            raise Conflict("An adapter becomes live by promotion only.", got=f"{adapter.name} {adapter.version}")
        values: dict[str, Any] = {field: getattr(adapter, field) for field in _FIELDS}
        for field in ("recipe", "files", "metrics", "lineage"):
            values[field] = dict(values[field])
        with self._database.write() as connection:
            known = sa.select(adapters.c.version).where(_at(adapter.name, adapter.version))
            if connection.execute(known).one_or_none() is not None:
                raise Conflict(
                    "This version of the adapter exists.",
                    got=f"{adapter.name} {adapter.version}",
                    wanted="the next version",
                )
            connection.execute(sa.insert(adapters).values(values | {"created_at": time.time()}))
            link_adapter(connection, adapter, rows)
            _log(connection, adapter.name, adapter.version, "added")

    def get(self, name: str, version: int | None = None) -> Adapter:
        """Return one version of an adapter; without a version the live one, else the newest.

        Raises:
            UnknownAdapter: there is none.
        """
        with self._database.read() as connection:
            return _get(connection, name, version)

    def update(
        self,
        name: str,
        version: int,
        *,
        files: Mapping[str, str] | None = None,
        metrics: Mapping[str, Any] | None = None,
        lineage: Mapping[str, Any] | None = None,
    ) -> Adapter:
        """Replace what is learnt after training (an exported file, a parity result) and return the adapter.

        Raises:
            UnknownAdapter: there is none.
        """
        given = {"files": files, "metrics": metrics, "lineage": lineage}
        values = {field: dict(value) for field, value in given.items() if value is not None}
        with self._database.write() as connection:
            if values:
                connection.execute(sa.update(adapters).where(_at(name, version)).values(values))
            return _get(connection, name, version)

    def next_version(self, name: str) -> int:
        """Return the number for the next version: 1 at first, and never that of a deleted one."""
        query = sa.select(sa.func.max(adapter_events.c.version)).where(adapter_events.c.name == name)
        with self._database.read() as connection:
            return int(connection.execute(query).scalar() or 0) + 1

    def promote(self, name: str, version: int | None = None, note: StageNote = NOBODY) -> Adapter:
        """Make an adapter the live one of its base model and scope; the one before it is retired.

        ``note`` tells the log who did it and why.

        Raises:
            UnknownAdapter: there is none.
        """
        with self._database.write() as connection:
            chosen = _get(connection, name, version) if version is not None else _newest(connection, name)
            if chosen.stage == "live":
                return chosen
            self._retire_live(connection, chosen.base_sha256, scope_of(chosen), "retired", note)
            connection.execute(
                sa.insert(promotions).values(
                    base_sha256=chosen.base_sha256,
                    name=chosen.name,
                    version=chosen.version,
                    created_at=time.time(),
                )
            )
            _stage(connection, chosen, "live", "promoted", note)
            return _get(connection, chosen.name, chosen.version)

    def rollback(self, base_sha256: str, collection: str = "default", note: StageNote = NOBODY) -> Adapter:
        """Make the adapter live again that answered in a collection before the present one.

        Behind the first adapter of its own stands the one for every collection, if there is one.

        Raises:
            NoLiveAdapter: none is live, or none was live before.
        """
        with self._database.write() as connection:
            own = _in_stage(connection, base_sha256, "live", collection)
            everywhere = _in_stage(connection, base_sha256, "live", None)
            scope = None if own is None else collection
            stack = _stack(connection, base_sha256, scope)
            if not stack or (own is None and everywhere is None):
                raise NoLiveAdapter("No adapter is live.", hint="Promote one: ragtune adapters promote NAME")
            top, *rest = stack
            before = next((row for row in rest if (row.name, row.version) != (top.name, top.version)), None)
            if before is None and (own is None or everywhere is None):
                raise NoLiveAdapter(
                    "No adapter was live before this one.",
                    got=f"{top.name} {top.version}",
                    hint=f"To answer without an adapter: ragtune adapters retire {top.name}@{top.version}",
                )
            self._retire_live(connection, base_sha256, scope, "rolled back", note)
            undone = [row.key for row in stack if before is None or row.key > before.key]
            connection.execute(sa.delete(promotions).where(promotions.c.key.in_(undone)))
            if before is None:
                return everywhere  # type: ignore[return-value]  # asked above
            _stage(connection, _get(connection, before.name, before.version), "live", "restored", note)
            return _get(connection, before.name, before.version)

    def shadow(self, name: str, version: int, note: StageNote = NOBODY) -> Adapter:
        """Let an adapter answer in the shadow; one that did so for its base model and scope is a candidate again.

        Raises:
            UnknownAdapter: there is none.
            IllegalTransition: it is live.
        """
        with self._database.write() as connection:
            chosen = _get(connection, name, version)
            if chosen.stage == "shadow":
                return chosen
            before = _in_stage(connection, chosen.base_sha256, "shadow", scope_of(chosen))
            if before is not None:
                _stage(connection, before, "candidate", "left the shadow", note)
            _stage(connection, chosen, "shadow", "shadowed", note)
            return _get(connection, name, version)

    def leave(self, name: str, version: int, stage: AdapterStage, note: StageNote = NOBODY) -> Adapter:
        """Take an adapter back to ``candidate`` or ``retired``; if it was live, none is live afterwards.

        Raises:
            UnknownAdapter: there is none.
            IllegalTransition: the stage cannot follow its present one, or is reached by ``promote`` or ``shadow``.
        """
        with self._database.write() as connection:
            chosen = _get(connection, name, version)
            if stage in ("live", "shadow"):
                raise IllegalTransition(f"An adapter does not become {stage} by leaving its stage.", got=stage)
            if chosen.stage == "live":  # a rollback must not bring back what was taken away on purpose
                undone = [row.key for row in _stack(connection, chosen.base_sha256, scope_of(chosen))]
                connection.execute(sa.delete(promotions).where(promotions.c.key.in_(undone)))
            _stage(connection, chosen, stage, "retired" if stage == "retired" else "left the shadow", note)
            return _get(connection, name, version)

    def shadowing(self, base_sha256: str, collection: str | None = "default") -> Adapter | None:
        """Return the adapter that answers in the shadow in a collection, as ``live`` does."""
        with self._database.read() as connection:
            return _serving(connection, base_sha256, "shadow", collection)

    def live(self, base_sha256: str, collection: str | None = "default") -> Adapter | None:
        """Return the adapter that is live in a collection, its own before the one for every collection.

        ``collection`` None asks for the latter. None is returned where there is none.
        """
        with self._database.read() as connection:
            return _serving(connection, base_sha256, "live", collection)

    def delete(self, name: str, version: int | None = None, note: StageNote = NOBODY) -> None:
        """Forget an adapter (or one version of it); if it was live, none is live afterwards.

        Raises:
            UnknownAdapter: there is none.
        """
        where = adapters.c.name == name if version is None else _at(name, version)
        with self._database.write() as connection:
            found = [Adapter(*row) for row in connection.execute(sa.select(*_COLUMNS).where(where))]
            gone = [(adapter.version, adapter.stage) for adapter in found if _seen(adapter)]
            if not gone:
                raise _unknown(name, version)
            for number, stage in gone:
                _log(connection, name, number, "deleted")
                if stage in ("live", "shadow"):
                    log_stage(connection, "adapter", f"{name}@{number}", "deleted", between=(stage, ""), note=note)
            versions = [number for number, _ in gone]
            connection.execute(sa.delete(adapters).where((adapters.c.name == name) & adapters.c.version.in_(versions)))

    def history(self, name: str) -> list[dict[str, Any]]:
        """Return ``{"version", "event", "at"}`` of all that happened to an adapter, oldest first.

        Events: added, shadowed, left the shadow, promoted, retired, rolled back, restored, deleted. ``at`` is Unix
        seconds.
        """
        query = sa.select(adapter_events).where(adapter_events.c.name == name).order_by(adapter_events.c.key)
        with self._database.read() as connection:
            rows = connection.execute(query).all()
        return [{"version": row.version, "event": row.event, "at": row.created_at} for row in rows]

    @staticmethod
    def _retire_live(
        connection: sa.Connection, base_sha256: str, scope: str | None, event: str, note: StageNote
    ) -> None:
        found = _in_stage(connection, base_sha256, "live", scope)
        if found is not None:
            _stage(connection, found, "retired", event, note)

    def list(self, name: str | None = None) -> list[Adapter]:
        """Return every version of every adapter (or of one), by name and version."""
        query = sa.select(*_COLUMNS).order_by(adapters.c.name, adapters.c.version)
        if name is not None:
            query = query.where(adapters.c.name == name)
        with self._database.read() as connection:
            found = [Adapter(*row) for row in connection.execute(query)]
        return [adapter for adapter in found if _seen(adapter)]


def _unknown(name: str, version: int | None) -> UnknownAdapter:
    got = name if version is None else f"{name} {version}"
    return UnknownAdapter("No such adapter.", got=got, hint="ragtune adapters list shows them.")


def _newest(connection: sa.Connection, name: str) -> Adapter:
    found = _first(connection, _NEWEST, name=name)
    if found is None:
        raise _unknown(name, None)
    return found


def _get(connection: sa.Connection, name: str, version: int | None) -> Adapter:
    if version is not None:
        found = _first(connection, _ONE, name=name, version=version)
    else:
        found = _first(connection, _LIVE_OR_NEWEST, name=name)
    if found is not None:
        return found
    if version is None:
        return _newest(connection, name)
    raise _unknown(name, version)


def _first(connection: sa.Connection, query: sa.Select[Any], **values: object) -> Adapter | None:
    """Return the adapter that a query finds first, None if there is none or whoever asks may not know of it."""
    row = connection.execute(query, values).first()
    found = None if row is None else Adapter(*row)
    return found if found is not None and _seen(found) else None


def scope_of(adapter: Adapter) -> str | None:
    """Return the collection an adapter can be live in, None for one that can be in every collection."""
    collection = adapter.lineage.get("collection")
    return None if collection is None else str(collection)


def _serving(connection: sa.Connection, base_sha256: str, stage: AdapterStage, scope: str | None) -> Adapter | None:
    own = None if scope is None else _in_stage(connection, base_sha256, stage, scope)
    return own or _in_stage(connection, base_sha256, stage, None)


def _in_stage(connection: sa.Connection, base_sha256: str, stage: AdapterStage, scope: str | None) -> Adapter | None:
    values = {"base_sha256": base_sha256, "stage": stage}
    rows = (Adapter(*row) for row in connection.execute(_IN_STAGE, values))
    return next((found for found in rows if scope_of(found) == scope and _seen(found)), None)


def _stack(connection: sa.Connection, base_sha256: str, scope: str | None) -> list[sa.Row[Any]]:
    """Return the promotions of a base model in a scope, newest first."""
    same = (adapters.c.name == promotions.c.name) & (adapters.c.version == promotions.c.version)
    query = sa.select(promotions, adapters.c.lineage).join(adapters, same)
    query = query.where(promotions.c.base_sha256 == base_sha256).order_by(promotions.c.key.desc())
    return [row for row in connection.execute(query) if row.lineage.get("collection") == scope]


def _seen(adapter: Adapter) -> bool:
    """Tell whether whoever asks may know of an adapter: it may have learnt its collection's texts by heart."""
    collection = scope_of(adapter)
    return collection is None or current().sees(collection)


def _stage(connection: sa.Connection, adapter: Adapter, stage: AdapterStage, event: str, note: StageNote) -> None:
    """Change a stage and log it; the caller's transaction does both or neither."""
    subject = f"{adapter.name}@{adapter.version}"
    check_transition(subject, adapter.stage, stage)
    connection.execute(sa.update(adapters).where(_at(adapter.name, adapter.version)).values(stage=stage))
    _log(connection, adapter.name, adapter.version, event)
    log_stage(connection, "adapter", subject, event, between=(adapter.stage, stage), note=note)


def _log(connection: sa.Connection, name: str, version: int, event: str) -> None:
    connection.execute(
        sa.insert(adapter_events).values(name=name, version=version, event=event, created_at=time.time())
    )
