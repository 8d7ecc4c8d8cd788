"""Tags and dates of documents; replaced documents stay searchable until no index generation needs them."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    _add_columns()
    key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "retired_documents",
        sa.Column("key", key, autoincrement=True, nullable=False),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("collection", sa.String(), sa.ForeignKey("collections.name"), nullable=False),
        sa.Column("needed_until", sa.Integer(), nullable=False),
        sa.Column("source", sa.Text(), nullable=False),
        sa.Column("title", sa.Text(), nullable=False),
        sa.Column("media_type", sa.Text(), nullable=False),
        sa.Column("meta", sa.JSON(), nullable=False),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("modified_at", sa.Double(), nullable=False),
        sa.Column("text", sa.Text()),
        sa.PrimaryKeyConstraint("key"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_retired_documents_id", "retired_documents", ["id"])
    op.create_index("ix_retired_documents_source", "retired_documents", ["collection", "source"])
    op.create_table(
        "retired_chunks",
        sa.Column("key", key, autoincrement=False, nullable=False),
        sa.Column(
            "retired_key", key, sa.ForeignKey("retired_documents.key", ondelete="CASCADE"), nullable=False
        ),
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("document_id", sa.String(), nullable=False),
        sa.Column("start", sa.Integer(), nullable=False),
        sa.Column("end", sa.Integer(), nullable=False),
        sa.Column("page", sa.Integer()),
        sa.Column("heading", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    op.create_index("ix_retired_chunks_id", "retired_chunks", ["id"])
    op.create_index("ix_retired_chunks_retired_key", "retired_chunks", ["retired_key"])


def _add_columns() -> None:
    """Add the columns before the text, which stays last: what comes after it costs reading it."""
    op.execute("ALTER TABLE documents RENAME COLUMN text TO old_text")
    op.add_column("documents", sa.Column("tags", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("documents", sa.Column("modified_at", sa.Double(), nullable=False, server_default="0"))
    key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.add_column("documents", sa.Column("first_key", key))
    op.add_column("documents", sa.Column("last_key", key))
    op.add_column("documents", sa.Column("text", sa.Text(), nullable=False, server_default=""))
    ends = ", ".join(
        f"{column} = (SELECT {end}(chunks.key) FROM chunks WHERE chunks.document_id = documents.id)"
        for column, end in (("first_key", "min"), ("last_key", "max"))
    )
    op.execute(f"UPDATE documents SET text = old_text, {ends}")
    op.execute("ALTER TABLE documents DROP COLUMN old_text")
    columns = ["collection", "modified_at", "media_type", "first_key", "last_key", "chunks", "id"]
    op.create_index("ix_documents_filter", "documents", columns)
