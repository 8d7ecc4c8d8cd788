"""Links between documents, chunks, pairs, rows, adapters and answers, browsable both ways."""

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

BATCH = 500


def upgrade() -> None:
    _create_adapter_links()
    _create_answer_links()
    _link_adapters()
    _link_answers()


def _of_adapter() -> tuple[sa.Column[str], sa.Column[int]]:
    return (
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
    )


def _to_adapters() -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(["name", "version"], ["adapters.name", "adapters.version"], ondelete="CASCADE")


def _create_adapter_links() -> None:
    op.create_table(
        "adapter_documents",
        *_of_adapter(),
        sa.Column("document_id", sa.String(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        _to_adapters(),
        sa.PrimaryKeyConstraint("name", "version", "document_id"),
    )
    op.create_index("ix_adapter_documents_document_id", "adapter_documents", ["document_id"])
    op.create_table(
        "adapter_chunks",
        *_of_adapter(),
        sa.Column("chunk_id", sa.String(), nullable=False),
        sa.Column("document_id", sa.String(), nullable=False),
        sa.Column("role", sa.String(), nullable=False),
        _to_adapters(),
        sa.PrimaryKeyConstraint("name", "version", "chunk_id"),
    )
    op.create_index("ix_adapter_chunks_chunk_id", "adapter_chunks", ["chunk_id"])
    op.create_index("ix_adapter_chunks_document_id", "adapter_chunks", ["document_id"])
    op.create_table(
        "adapter_rows",
        *_of_adapter(),
        sa.Column("position", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("pair_id", sa.String(), nullable=False),
        sa.Column("chunk_ids", sa.JSON(), nullable=False),
        _to_adapters(),
        sa.PrimaryKeyConstraint("name", "version", "position"),
    )
    op.create_index("ix_adapter_rows_sha256", "adapter_rows", ["sha256"])
    op.create_index("ix_adapter_rows_pair_id", "adapter_rows", ["pair_id"])


def _create_answer_links() -> None:
    op.create_table(
        "answer_chunks",
        sa.Column("answer_id", sa.String(), sa.ForeignKey("answers.id", ondelete="CASCADE"), nullable=False),
        sa.Column("chunk_id", sa.String(), nullable=False),
        sa.Column("document_id", sa.String(), nullable=False),
        sa.Column("cited", sa.Boolean(), nullable=False),
        sa.PrimaryKeyConstraint("answer_id", "chunk_id"),
    )
    op.create_index("ix_answer_chunks_chunk_id", "answer_chunks", ["chunk_id"])
    op.create_index("ix_answer_chunks_document_id", "answer_chunks", ["document_id"])
    op.create_table(
        "answer_adapters",
        sa.Column("answer_id", sa.String(), sa.ForeignKey("answers.id", ondelete="CASCADE"), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), autoincrement=False, nullable=False),
        sa.PrimaryKeyConstraint("answer_id", "name", "version"),
    )
    op.create_index("ix_answer_adapters_adapter", "answer_adapters", ["name", "version"])


def _link_adapters() -> None:
    """Older adapters name the documents their pairs rest on; rows and chunks were not kept."""
    bind = op.get_bind()
    target = sa.table("adapter_documents", *map(sa.column, ("name", "version", "document_id", "source", "role")))
    for name, version, lineage in bind.execute(sa.text("SELECT name, version, lineage FROM adapters")).all():
        found = json.loads(lineage) if isinstance(lineage, str) else lineage
        ids = dict.fromkeys(str(identity) for identity in found.get("documents", ()))
        own = {"name": name, "version": version, "source": "", "role": "gold"}
        if ids:
            bind.execute(sa.insert(target), [{**own, "document_id": identity} for identity in ids])
    bind.execute(
        sa.text(
            "UPDATE adapter_documents SET source = (SELECT documents.source FROM documents"
            " WHERE documents.id = adapter_documents.document_id)"
            " WHERE document_id IN (SELECT id FROM documents)"
        )
    )


def _link_answers() -> None:
    bind = op.get_bind()
    chunks = sa.table("answer_chunks", *map(sa.column, ("answer_id", "chunk_id", "document_id", "cited")))
    adapters = sa.table("answer_adapters", *map(sa.column, ("answer_id", "name", "version")))
    page = sa.text("SELECT key, id, answer FROM answers WHERE key > :after ORDER BY key LIMIT :most")
    after = 0
    while rows := bind.execute(page, {"after": after, "most": BATCH}).all():
        after = rows[-1].key
        shown: list[dict[str, Any]] = []
        used: list[dict[str, Any]] = []
        for row in rows:
            answer = json.loads(row.answer) if isinstance(row.answer, str) else row.answer
            shown += _shown(row.id, answer)
            labels = dict.fromkeys([*answer.get("adapters", ()), *filter(None, [answer.get("adapter")])])
            named = [label.partition("@") for label in labels]
            used += [{"answer_id": row.id, "name": n, "version": int(v)} for n, _, v in named if v]
        if shown:
            bind.execute(sa.insert(chunks), shown)
        if used:
            bind.execute(sa.insert(adapters), used)


def _shown(answer_id: str, answer: dict[str, Any]) -> list[dict[str, Any]]:
    cited = {citation["n"] for citation in answer.get("citations", ())}
    found = {}
    for number, passage in enumerate(answer.get("passages", ()), 1):
        chunk = passage["chunk"]
        found[chunk["id"]] = {
            "answer_id": answer_id,
            "chunk_id": chunk["id"],
            "document_id": chunk["document_id"],
            "cited": number in cited,
        }
    return list(found.values())
