"""The links between what was made and what it was made from, and the tables that hold them.

A link names both ends by id and outlives either: what a deleted document was used for can still be
told, by its id and source; of its text a link holds nothing. Knows nothing of how links are read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

import sqlalchemy as sa

from data.records import Adapter, Answer
from data.store.schema import metadata

GOLD, SHOWN = "gold", "shown"
"""What a chunk was to an adapter: a pair rests on it, or it was only among the passages of a row."""


def _of_adapter() -> tuple[sa.Column[str], sa.Column[int], sa.ForeignKeyConstraint]:
    return (
        sa.Column("name", sa.String, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.ForeignKeyConstraint(["name", "version"], ["adapters.name", "adapters.version"], ondelete="CASCADE"),
    )


adapter_documents = sa.Table(
    "adapter_documents",
    metadata,
    *_of_adapter(),
    sa.Column("document_id", sa.String, primary_key=True, index=True),
    sa.Column("source", sa.Text, nullable=False),
    sa.Column("role", sa.String, nullable=False),
)

adapter_chunks = sa.Table(
    "adapter_chunks",
    metadata,
    *_of_adapter(),
    sa.Column("chunk_id", sa.String, primary_key=True, index=True),
    sa.Column("document_id", sa.String, nullable=False, index=True),
    sa.Column("role", sa.String, nullable=False),
)

adapter_rows = sa.Table(
    "adapter_rows",
    metadata,
    *_of_adapter(),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("sha256", sa.String, nullable=False, index=True),
    sa.Column("pair_id", sa.String, nullable=False, index=True),
    sa.Column("chunk_ids", sa.JSON, nullable=False),
)

answer_chunks = sa.Table(
    "answer_chunks",
    metadata,
    sa.Column("answer_id", sa.String, sa.ForeignKey("answers.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("chunk_id", sa.String, primary_key=True, index=True),
    sa.Column("document_id", sa.String, nullable=False, index=True),
    sa.Column("cited", sa.Boolean, nullable=False),
)

answer_adapters = sa.Table(
    "answer_adapters",
    metadata,
    sa.Column("answer_id", sa.String, sa.ForeignKey("answers.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    sa.Index("ix_answer_adapters_adapter", "name", "version"),
)


@dataclass(frozen=True, slots=True)
class ChunkLink:
    """A chunk that a training row held, with its document's id and source."""

    chunk_id: str
    document_id: str
    source: str
    role: str = SHOWN


@dataclass(frozen=True, slots=True)
class TrainedRow:
    """One row that an adapter was trained on.

    ``sha256`` names the row's content (``content_id``), ``pair_id`` the pair it asks; ``chunks`` are those the pair
    rests on and those of the passages shown.
    """

    sha256: str
    pair_id: str
    chunks: tuple[ChunkLink, ...]


def link_adapter(connection: sa.Connection, adapter: Adapter, rows: Sequence[TrainedRow]) -> None:
    """Write the links of an adapter that is being added: of ``rows``, and of the documents its lineage names."""
    own = {"name": adapter.name, "version": adapter.version}
    chunks: dict[str, ChunkLink] = {}
    for link in (link for row in rows for link in row.chunks):
        if link.role == GOLD or link.chunk_id not in chunks:
            chunks[link.chunk_id] = link
    documents = {str(identity): ("", GOLD) for identity in adapter.lineage.get("documents", ())}
    for link in chunks.values():
        gold = link.role == GOLD or documents.get(link.document_id, ("", SHOWN))[1] == GOLD
        documents[link.document_id] = (link.source, GOLD if gold else SHOWN)
    _insert(
        connection,
        adapter_documents,
        ({**own, "document_id": key, "source": source, "role": role} for key, (source, role) in documents.items()),
    )
    _insert(
        connection,
        adapter_chunks,
        (
            {**own, "chunk_id": link.chunk_id, "document_id": link.document_id, "role": link.role}
            for link in chunks.values()
        ),
    )
    _insert(
        connection,
        adapter_rows,
        (
            {**own, "position": i, "sha256": row.sha256, "pair_id": row.pair_id, "chunk_ids": _ids(row)}
            for i, row in enumerate(rows)
        ),
    )


def link_answer(connection: sa.Connection, answer: Answer) -> None:
    """Write the links of an answer that is being added: the chunks it was shown and the adapters it used."""
    cited = {citation.n for citation in answer.citations}
    shown = {
        passage.chunk.id: {
            "answer_id": answer.id,
            "chunk_id": passage.chunk.id,
            "document_id": passage.chunk.document_id,
            "cited": number in cited,
        }
        for number, passage in enumerate(answer.passages, 1)
    }
    _insert(connection, answer_chunks, shown.values())
    labels = dict.fromkeys([*answer.adapters, *filter(None, [answer.adapter])])
    used = [(name, int(version)) for name, _, version in (label.partition("@") for label in labels) if version]
    _insert(
        connection,
        answer_adapters,
        ({"answer_id": answer.id, "name": name, "version": version} for name, version in used),
    )


def _ids(row: TrainedRow) -> list[str]:
    return list(dict.fromkeys(link.chunk_id for link in row.chunks))


def _insert(connection: sa.Connection, table: sa.Table, rows: Iterable[dict[str, object]]) -> None:
    if found := list(rows):
        connection.execute(_insert_into(table), found)


@cache  # making a statement takes longer than running it
def _insert_into(table: sa.Table) -> sa.Insert:
    return sa.insert(table)
