"""Rate limits that several servers share; on PostgreSQL too the log of stages refuses to be altered."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rate_buckets",
        sa.Column("key_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("left", sa.Double(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("key_id", "kind"),
    )
    if op.get_bind().dialect.name == "postgresql":
        op.execute(
            "CREATE FUNCTION ragtune_append_only() RETURNS trigger LANGUAGE plpgsql AS "
            "$$ BEGIN RAISE EXCEPTION 'stage_log is append-only' USING ERRCODE = 'check_violation'; END $$"
        )
        op.execute(
            "CREATE TRIGGER stage_log_no_change BEFORE UPDATE OR DELETE OR TRUNCATE ON stage_log "
            "FOR EACH STATEMENT EXECUTE FUNCTION ragtune_append_only()"
        )
