"""Vectors in the order in which they came, found by digests in a tree for each age."""

import hashlib

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_BATCH = 1000
_OLDEST = 2


def upgrade() -> None:
    kind = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
    op.rename_table("embeddings", "old_embeddings")
    if op.get_bind().dialect.name == "postgresql":
        op.execute("ALTER TABLE old_embeddings RENAME CONSTRAINT embeddings_pkey TO old_embeddings_pkey")
    embeddings = op.create_table(
        "embeddings",
        sa.Column("key", kind, autoincrement=True, nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("text_hash", sa.Text(), nullable=False),
        sa.Column("vector", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("key"),
    )
    places = op.create_table(
        "embedding_places",
        sa.Column("age", sa.SmallInteger(), autoincrement=False, nullable=False),
        sa.Column("digest", sa.LargeBinary(), nullable=False),
        sa.Column("key", kind, nullable=False),
        sa.PrimaryKeyConstraint("age", "digest"),
        sqlite_with_rowid=False,
    )
    _carry_over(op.get_bind(), embeddings, places)
    op.drop_table("old_embeddings")


def _carry_over(connection: sa.Connection, embeddings: sa.Table, places: sa.Table) -> None:
    names = ("fingerprint", "text_hash", "vector")
    old = sa.table("old_embeddings", *map(sa.column, names)).c
    last, key, found = ("", ""), 0, list[tuple[bytes, int]]()
    while True:
        after = sa.tuple_(old.fingerprint, old.text_hash) > sa.tuple_(*map(sa.literal, last))
        query = sa.select(old.fingerprint, old.text_hash, old.vector).where(after)
        rows = connection.execute(query.order_by(old.fingerprint, old.text_hash).limit(_BATCH)).all()
        if not rows:
            break
        new = [{"key": key + n, **dict(zip(names, row, strict=True))} for n, row in enumerate(rows, 1)]
        connection.execute(sa.insert(embeddings), new)
        for row in new:
            text = f"{row['fingerprint']}\0{row['text_hash']}".encode()
            found.append((hashlib.sha256(text).digest()[:16], row["key"]))
        last, key = tuple(rows[-1][:2]), key + len(rows)
    found.sort()
    for start in range(0, len(found), _BATCH):
        part = [{"age": _OLDEST, "digest": name, "key": at} for name, at in found[start : start + _BATCH]]
        connection.execute(sa.insert(places), part)
