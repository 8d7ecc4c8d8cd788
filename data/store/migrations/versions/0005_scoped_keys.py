"""Scopes, collections, limits and an end for API keys; the audit log. Keys made before stay whole."""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("scopes", sa.JSON(), nullable=False, server_default='["admin"]'))
    op.add_column("api_keys", sa.Column("collections", sa.JSON(), nullable=False, server_default="[]"))
    op.add_column("api_keys", sa.Column("requests_per_minute", sa.Integer()))
    op.add_column("api_keys", sa.Column("tokens_per_minute", sa.Integer()))
    op.add_column("api_keys", sa.Column("expires_at", sa.Double()))
    key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "audit",
        sa.Column("key", key, autoincrement=True, nullable=False),
        sa.Column("key_id", sa.String()),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("action", sa.Text(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
        sqlite_autoincrement=True,
    )
