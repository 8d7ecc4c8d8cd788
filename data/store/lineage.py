"""Follows the links between documents, chunks, pairs, rows, adapters and answers, both ways.

Knows which ids belong together and whether what they name is still there; not what any of it says.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import sqlalchemy as sa

from data.errors import InvalidRequest, NotFound
from data.numbers import whole_number
from data.store.database import Database, check_limit
from data.store.links import GOLD, adapter_chunks, adapter_documents, adapter_rows, answer_adapters, answer_chunks
from data.store.schema import adapters, answers, chunks, documents, pair_chunks, pairs

Kind = Literal["document", "chunk", "pair", "row", "adapter", "answer"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""What is linked, in the order in which each is made from those before it."""

_GONE = (
    sa.select(adapter_documents.c.document_id)
    .outerjoin(documents, documents.c.id == adapter_documents.c.document_id)
    .where(adapter_documents.c.name == sa.bindparam("name"), adapter_documents.c.version == sa.bindparam("version"))
    .where(adapter_documents.c.role == GOLD, documents.c.id.is_(None))
    .limit(1)
)
"""Made once: every answer of an adapter runs it."""

Ids = sa.Select[Any]
"""A query for the ids of one kind; an adapter's are ``name@version``."""


@dataclass(frozen=True, slots=True)
class Links:
    """``ids`` of one kind, at most as many as were asked for, of ``total``."""

    total: int
    ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Trace:
    """What ``id`` of ``kind`` was made from and what was made from it; a kind without links is left out."""

    kind: Kind
    id: str
    made_from: Mapping[Kind, Links] = field(default_factory=dict)
    used_by: Mapping[Kind, Links] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TrainedOn:
    """An adapter that a document was used for: a pair rests on it ("gold"), or a row only showed it ("shown")."""

    name: str
    version: int
    role: str


class Lineage:
    """The links of a store. They are written with what they belong to (``Adapters.add``, ``Answers.add``)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def trained_pairs(self, name: str, version: int) -> list[str]:
        """Return the ids of the pairs that an adapter's rows ask, each once; they may be gone."""
        table = adapter_rows.c
        query = sa.select(table.pair_id).where(table.name == name, table.version == version)
        with self._database.read() as connection:
            return list(dict.fromkeys(connection.execute(query.order_by(table.position)).scalars()))

    def trace(self, kind: Kind, identity: str, limit: int = 100) -> Trace:
        """Return what ``identity`` is linked with.

        Args:
            kind: one of ``KINDS``.
            identity: an id; of an adapter ``name@version``. It need not be there any more.
            limit: most ids for each kind, 1 to 1000.

        Raises:
            InvalidRequest: an unknown kind, or a bad limit.
            NotFound: nothing here has or had this id.
        """
        if kind not in KINDS:
            raise InvalidRequest("Unknown kind of thing", got=kind, wanted=", ".join(KINDS))
        check_limit(limit)
        with self._database.read() as connection:
            if not _known(connection, kind, identity):
                raise NotFound(f"No such {kind}, now or before.", got=identity)
            edges = _edges(connection, kind, identity)
            found = {other: _links(connection, query, limit) for other, query in edges.items()}
        place = KINDS.index(kind)
        linked = {other: links for other, links in found.items() if links.total}
        return Trace(
            kind,
            identity,
            {other: linked[other] for other in KINDS[:place] if other in linked},
            {other: linked[other] for other in KINDS[place + 1 :] if other in linked},
        )

    def kinds_of(self, identity: str) -> list[Kind]:
        """Return the kinds of which something has or had this id."""
        with self._database.read() as connection:
            return [kind for kind in KINDS if _known(connection, kind, identity)]

    def documents_at(self, source: str) -> list[str]:
        """Return the ids of the documents that have this source, or had it when an adapter was trained on them."""
        now = sa.select(documents.c.id).where(documents.c.source == source)
        before = sa.select(adapter_documents.c.document_id).where(adapter_documents.c.source == source)
        with self._database.read() as connection:
            return list(dict.fromkeys([*connection.execute(now).scalars(), *connection.execute(before).scalars()]))

    def is_stale(self, name: str, version: int) -> bool:
        """Tell whether a document that the adapter's pairs rest on was edited or deleted since."""
        with self._database.read() as connection:
            return connection.execute(_GONE, {"name": name, "version": version}).first() is not None

    def trained_on(self, document_id: str) -> list[TrainedOn]:
        """Return the adapters whose training used a document, by name and version."""
        table = adapter_documents.c
        query = sa.select(table.name, table.version, table.role).where(table.document_id == document_id)
        with self._database.read() as connection:
            return [TrainedOn(*row) for row in connection.execute(query.order_by(table.name, table.version))]

    def present(self, kind: Kind, ids: tuple[str, ...]) -> set[str]:
        """Return those of ``ids`` (at most 1000) that are there now; rows are kept with their adapter."""
        column: sa.ColumnElement[str] = {
            "document": documents.c.id,
            "chunk": chunks.c.id,
            "pair": pairs.c.id,
            "row": adapter_rows.c.sha256,
            "adapter": _label(adapters),
            "answer": answers.c.id,
        }[kind]
        with self._database.read() as connection:
            return set(connection.execute(sa.select(column).where(column.in_(ids))).scalars())


def _label(table: sa.Table) -> sa.ColumnElement[str]:
    return table.c.name + "@" + sa.cast(table.c.version, sa.String)


def _at(table: sa.Table, label: str) -> sa.ColumnElement[bool]:
    name, _, version = label.partition("@")
    return (table.c.name == name) & (table.c.version == (whole_number(version) or -1))


def _known(connection: sa.Connection, kind: Kind, identity: str) -> bool:
    """Tell whether something has this id, or a link remembers it."""
    places: dict[Kind, list[sa.ColumnElement[bool]]] = {
        "document": [t.c.document_id == identity for t in (chunks, adapter_documents, answer_chunks)]
        + [documents.c.id == identity],
        "chunk": [t.c.chunk_id == identity for t in (adapter_chunks, answer_chunks, pair_chunks)]
        + [chunks.c.id == identity],
        "pair": [pairs.c.id == identity, adapter_rows.c.pair_id == identity],
        "row": [adapter_rows.c.sha256 == identity],
        "adapter": [_at(adapters, identity), _at(answer_adapters, identity)],
        "answer": [answers.c.id == identity],
    }
    return any(connection.execute(sa.select(sa.literal(1)).where(where).limit(1)).first() for where in places[kind])


def _links(connection: sa.Connection, query: Ids, limit: int) -> Links:
    found = query.distinct().subquery()
    total = int(connection.execute(sa.select(sa.func.count()).select_from(found)).scalar_one())
    first = found.c[0]
    ids = connection.execute(sa.select(first).order_by(first).limit(limit)).scalars()
    return Links(total, tuple(str(identity) for identity in ids))


def _edges(connection: sa.Connection, kind: Kind, identity: str) -> dict[Kind, Ids]:
    if kind == "row":
        query = sa.select(adapter_rows.c.chunk_ids).where(adapter_rows.c.sha256 == identity).limit(1)
        return _of_row(identity, connection.execute(query).scalar_one())
    edges = {
        "document": _of_document,
        "chunk": _of_chunk,
        "pair": _of_pair,
        "adapter": _of_adapter,
        "answer": _of_answer,
    }
    return edges[kind](identity)


def _of_document(identity: str) -> dict[Kind, Ids]:
    held = _union(
        sa.select(chunks.c.id.label("chunk_id")).where(chunks.c.document_id == identity),
        *(sa.select(t.c.chunk_id).where(t.c.document_id == identity) for t in (adapter_chunks, answer_chunks)),
    )
    resting = sa.select(pair_chunks.c.pair_id).where(pair_chunks.c.chunk_id.in_(held))
    return {
        "chunk": held,
        "pair": resting,
        "row": sa.select(adapter_rows.c.sha256).where(adapter_rows.c.pair_id.in_(resting)),
        "adapter": sa.select(_label(adapter_documents)).where(adapter_documents.c.document_id == identity),
        "answer": sa.select(answer_chunks.c.answer_id).where(answer_chunks.c.document_id == identity),
    }


def _of_chunk(identity: str) -> dict[Kind, Ids]:
    resting = sa.select(pair_chunks.c.pair_id).where(pair_chunks.c.chunk_id == identity)
    return {
        "document": _documents_of([identity]),
        "pair": resting,
        "row": sa.select(adapter_rows.c.sha256).where(adapter_rows.c.pair_id.in_(resting)),
        "adapter": sa.select(_label(adapter_chunks)).where(adapter_chunks.c.chunk_id == identity),
        "answer": sa.select(answer_chunks.c.answer_id).where(answer_chunks.c.chunk_id == identity),
    }


def _of_pair(identity: str) -> dict[Kind, Ids]:
    rests_on = sa.select(pair_chunks.c.chunk_id).where(pair_chunks.c.pair_id == identity)
    return {
        "document": _documents_of(rests_on),
        "chunk": rests_on,
        "row": sa.select(adapter_rows.c.sha256).where(adapter_rows.c.pair_id == identity),
        "adapter": sa.select(_label(adapter_rows)).where(adapter_rows.c.pair_id == identity),
    }


def _of_row(identity: str, chunk_ids: Sequence[str]) -> dict[Kind, Ids]:
    return {
        "document": _documents_of(chunk_ids),
        "chunk": _union(*(sa.select(sa.literal(chunk_id).label("chunk_id")) for chunk_id in chunk_ids)),
        "pair": sa.select(adapter_rows.c.pair_id).where(adapter_rows.c.sha256 == identity),
        "adapter": sa.select(_label(adapter_rows)).where(adapter_rows.c.sha256 == identity),
    }


def _of_adapter(identity: str) -> dict[Kind, Ids]:
    return {
        "document": sa.select(adapter_documents.c.document_id).where(_at(adapter_documents, identity)),
        "chunk": sa.select(adapter_chunks.c.chunk_id).where(_at(adapter_chunks, identity)),
        "pair": sa.select(adapter_rows.c.pair_id).where(_at(adapter_rows, identity)),
        "row": sa.select(adapter_rows.c.sha256).where(_at(adapter_rows, identity)),
        "answer": sa.select(answer_adapters.c.answer_id).where(_at(answer_adapters, identity)),
    }


def _of_answer(identity: str) -> dict[Kind, Ids]:
    return {
        "document": sa.select(answer_chunks.c.document_id).where(answer_chunks.c.answer_id == identity),
        "chunk": sa.select(answer_chunks.c.chunk_id).where(answer_chunks.c.answer_id == identity),
        "adapter": sa.select(_label(answer_adapters)).where(answer_adapters.c.answer_id == identity),
    }


def _documents_of(chunk_ids: Ids | Sequence[str]) -> Ids:
    return _union(
        sa.select(chunks.c.document_id).where(chunks.c.id.in_(chunk_ids)),
        *(sa.select(t.c.document_id).where(t.c.chunk_id.in_(chunk_ids)) for t in (adapter_chunks, answer_chunks)),
    )


def _union(*queries: Ids) -> Ids:
    if not queries:
        return sa.select(sa.literal("")).where(sa.false())
    return sa.select(sa.union(*queries).subquery().c[0])
