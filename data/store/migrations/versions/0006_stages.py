"""Who changed a stage and why, and what an adapter in the shadow answered."""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_ADAPTER = ["adapters.name", "adapters.version"]


def _key() -> "sa.Column[int]":
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    return sa.Column("key", kind, autoincrement=True, nullable=False)


def upgrade() -> None:
    texts = [sa.Column(name, sa.Text(), nullable=False) for name in ("event", "before", "after", "actor", "reason")]
    op.create_table(
        "stage_log",
        _key(),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("subject", sa.String(), nullable=False),
        *texts,
        sa.Column("decision", sa.JSON(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_stage_log_subject", "stage_log", ["subject"])
    if op.get_bind().dialect.name == "sqlite":
        for change in ("UPDATE", "DELETE"):
            op.execute(
                f"CREATE TRIGGER stage_log_no_{change.lower()} BEFORE {change} ON stage_log "
                "BEGIN SELECT RAISE(ABORT, 'stage_log is append-only'); END"
            )
    op.create_table(
        "shadow_answers",
        _key(),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("answer_id", sa.String(), nullable=False),
        sa.Column("against", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("agrees", sa.Boolean(), nullable=False),
        sa.Column("f1", sa.Double(), nullable=False),
        sa.Column("abstained", sa.Boolean(), nullable=False),
        sa.Column("live_abstained", sa.Boolean(), nullable=False),
        sa.Column("latency_ms", sa.Double(), nullable=False),
        sa.Column("live_latency_ms", sa.Double(), nullable=False),
        sa.Column("error", sa.Text(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
        sa.ForeignKeyConstraint(["name", "version"], _ADAPTER, ondelete="CASCADE"),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_shadow_answers_adapter", "shadow_answers", ["name", "version", "key"])
    op.create_table(
        "shadow_drops",
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("version", sa.Integer(), nullable=False),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("count", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("name", "version", "reason"),
        sa.ForeignKeyConstraint(["name", "version"], _ADAPTER, ondelete="CASCADE"),
    )
