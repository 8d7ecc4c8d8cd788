"""The state of pairs before each review, so that a review can be undone."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    key = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.create_table(
        "pair_reviews",
        sa.Column("key", key, autoincrement=True, nullable=False),
        sa.Column("review_id", sa.String(), nullable=False),
        sa.Column("pair_id", sa.String(), sa.ForeignKey("pairs.id", ondelete="CASCADE"), nullable=False),
        sa.Column("before", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_pair_reviews_pair", "pair_reviews", ["pair_id", "key"])
    op.create_index("ix_pair_reviews_review_id", "pair_reviews", ["review_id"])
