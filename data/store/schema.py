"""Every table. Changing one needs a new migration; a test compares the two.

``key`` columns are integers in insertion order, never used twice but for those of cached vectors: they serve as vector
ids and as page cursors. Times are Unix seconds.
"""

from __future__ import annotations

import sqlalchemy as sa

metadata = sa.MetaData()

BIG_KEY = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _key() -> sa.Column[int]:
    return sa.Column("key", BIG_KEY, primary_key=True, autoincrement=True)


def _collection() -> sa.Column[str]:
    return sa.Column("collection", sa.String, sa.ForeignKey("collections.name"), nullable=False)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=False)


def _json(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.JSON, nullable=False)


def _time(name: str, nullable: bool = False) -> sa.Column[float]:
    return sa.Column(name, sa.Double, nullable=nullable)


collections = sa.Table(
    "collections",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("current_generation", sa.Integer),
    sa.Column("last_generation", sa.Integer, nullable=False),
    _time("created_at"),
)

documents = sa.Table(
    "documents",
    metadata,
    _key(),
    sa.Column("id", sa.String, nullable=False, unique=True),
    _collection(),
    _text("source"),
    _text("title"),
    _text("media_type"),
    _text("sha256"),
    sa.Column("size", sa.BigInteger, nullable=False),
    sa.Column("chunks", sa.Integer, nullable=False),
    _text("settings_fingerprint"),
    _time("created_at"),
    _json("meta"),
    sa.Column("tags", sa.JSON, nullable=False, server_default="[]"),
    sa.Column("modified_at", sa.Double, nullable=False, server_default="0"),
    # Of its chunks, NULL without any: mostly they are all keys between, and a filter need not read the chunks.
    sa.Column("first_key", BIG_KEY),
    sa.Column("last_key", BIG_KEY),
    # Last, so that listing documents does not read the pages that hold the text.
    sa.Column("text", sa.Text, nullable=False, server_default=""),
    sa.UniqueConstraint("collection", "source", name="uq_documents_source"),
    sa.Index("ix_documents_filter", "collection", "modified_at", "media_type", "first_key", "last_key", "chunks", "id"),
    sqlite_autoincrement=True,
)

retired_documents = sa.Table(
    "retired_documents",
    metadata,
    _key(),
    sa.Column("id", sa.String, nullable=False, index=True),
    _collection(),
    # The newest generation that may still hold its chunks.
    sa.Column("needed_until", sa.Integer, nullable=False),
    _text("source"),
    _text("title"),
    _text("media_type"),
    _json("meta"),
    _json("tags"),
    _time("modified_at"),
    # NULL where the document itself is still there with the same text, chunked otherwise.
    sa.Column("text", sa.Text),
    sa.Index("ix_retired_documents_source", "collection", "source"),
    sqlite_autoincrement=True,
)

retired_chunks = sa.Table(
    "retired_chunks",
    metadata,
    sa.Column("key", BIG_KEY, primary_key=True, autoincrement=False),
    sa.Column(
        "retired_key", BIG_KEY, sa.ForeignKey("retired_documents.key", ondelete="CASCADE"), nullable=False, index=True
    ),
    sa.Column("id", sa.String, nullable=False, index=True),
    sa.Column("document_id", sa.String, nullable=False),
    sa.Column("start", sa.Integer, nullable=False),
    sa.Column("end", sa.Integer, nullable=False),
    sa.Column("page", sa.Integer),
    _text("heading"),
    _text("text"),
)

chunks = sa.Table(
    "chunks",
    metadata,
    _key(),
    sa.Column("id", sa.String, nullable=False, unique=True),
    sa.Column("document_id", sa.String, sa.ForeignKey("documents.id", ondelete="CASCADE"), nullable=False),
    _collection(),
    sa.Column("start", sa.Integer, nullable=False),
    sa.Column("end", sa.Integer, nullable=False),
    sa.Column("page", sa.Integer),
    _text("heading"),
    _text("text"),
    sa.Index("ix_chunks_collection", "collection", "key"),
    sa.Index("ix_chunks_document", "document_id", "start"),
    sqlite_autoincrement=True,
)

# In the order in which they came; ``embedding_places`` finds them.
embeddings = sa.Table(
    "embeddings",
    metadata,
    _key(),
    _text("fingerprint"),
    _text("text_hash"),
    sa.Column("vector", sa.LargeBinary, nullable=False),
)

embedding_places = sa.Table(
    "embedding_places",
    metadata,
    sa.Column("age", sa.SmallInteger, primary_key=True, autoincrement=False),
    sa.Column("digest", sa.LargeBinary, primary_key=True),
    sa.Column("key", BIG_KEY, nullable=False),
    sqlite_with_rowid=False,
)

generations = sa.Table(
    "generations",
    metadata,
    sa.Column("collection", sa.String, sa.ForeignKey("collections.name"), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    _text("status"),
    _json("meta"),
    _json("manifest"),
    _text("error"),
    _time("created_at"),
    _time("committed_at", nullable=True),
)

pair_runs = sa.Table(
    "pair_runs",
    metadata,
    _key(),
    sa.Column("id", sa.String, nullable=False, unique=True),
    _collection(),
    sa.Column("requested", sa.Integer, nullable=False),
    _json("inputs"),
    _time("created_at"),
    sqlite_autoincrement=True,
)

pairs = sa.Table(
    "pairs",
    metadata,
    _key(),
    sa.Column("id", sa.String, nullable=False, unique=True),
    _collection(),
    sa.Column("run_id", sa.String, sa.ForeignKey("pair_runs.id"), index=True),
    _text("question"),
    _text("answer"),
    _text("kind"),
    _text("generated_by"),
    _text("status"),
    _text("reason"),
    _json("checks"),
    sa.Column("stale", sa.Boolean, nullable=False),
    _time("created_at"),
    sa.Index("ix_pairs_collection", "collection", "status", "key"),
    sqlite_autoincrement=True,
)

# No foreign key to chunks: a pair outlives its chunks, and is stale then.
pair_chunks = sa.Table(
    "pair_chunks",
    metadata,
    sa.Column("pair_id", sa.String, sa.ForeignKey("pairs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("chunk_id", sa.String, nullable=False, index=True),
)

# What a review changed, as it was before: the newest states of each pair are kept (``reviews.KEPT``).
pair_reviews = sa.Table(
    "pair_reviews",
    metadata,
    _key(),
    sa.Column("review_id", sa.String, nullable=False, index=True),
    sa.Column("pair_id", sa.String, sa.ForeignKey("pairs.id", ondelete="CASCADE"), nullable=False),
    _json("before"),
    _time("created_at"),
    sa.Index("ix_pair_reviews_pair", "pair_id", "key"),
    sqlite_autoincrement=True,
)

pair_losses = sa.Table(
    "pair_losses",
    metadata,
    _key(),
    sa.Column("run_id", sa.String, sa.ForeignKey("pair_runs.id"), nullable=False),
    sa.Column("item", sa.String),
    sa.Column("rejected", sa.Boolean, nullable=False),
    _text("reason"),
    _time("created_at"),
    sa.UniqueConstraint("run_id", "item", name="uq_pair_losses_item"),
    sqlite_autoincrement=True,
)

adapters = sa.Table(
    "adapters",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
    _text("base_model"),
    sa.Column("base_sha256", sa.String, nullable=False, index=True),
    _text("rows_sha256"),
    _text("attention"),
    _text("stage"),
    _json("recipe"),
    _json("files"),
    _json("metrics"),
    _json("lineage"),
    _time("created_at"),
)

adapter_events = sa.Table(
    "adapter_events",
    metadata,
    _key(),
    sa.Column("name", sa.String, nullable=False, index=True),
    sa.Column("version", sa.Integer, nullable=False),
    _text("event"),
    _time("created_at"),
    sqlite_autoincrement=True,
)

promotions = sa.Table(
    "promotions",
    metadata,
    _key(),
    sa.Column("base_sha256", sa.String, nullable=False, index=True),
    sa.Column("name", sa.String, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    _time("created_at"),
    sa.ForeignKeyConstraint(["name", "version"], ["adapters.name", "adapters.version"], ondelete="CASCADE"),
    sqlite_autoincrement=True,
)

jobs = sa.Table(
    "jobs",
    metadata,
    _key(),
    sa.Column("id", sa.String, nullable=False, unique=True),
    _text("kind"),
    _text("status"),
    _json("progress"),
    sa.Column("error", sa.JSON(none_as_null=True)),
    _json("inputs"),
    _json("outputs"),
    sa.Column("idempotency_key", sa.String, unique=True),  # a hash over it and its sender
    sa.Column("worker", sa.String),
    sa.Column("lease_s", sa.Double, nullable=False),
    _time("lease_until", nullable=True),
    sa.Column("attempt", sa.Integer, nullable=False),
    sa.Column("cancel_requested", sa.Boolean, nullable=False),
    sa.Column("last_event", sa.Integer, nullable=False),
    _time("created_at"),
    _time("started_at", nullable=True),
    _time("finished_at", nullable=True),
    sa.Index("ix_jobs_status", "status", "key"),
    sqlite_autoincrement=True,
)

job_events = sa.Table(
    "job_events",
    metadata,
    sa.Column("job_id", sa.String, sa.ForeignKey("jobs.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("seq", sa.Integer, primary_key=True, autoincrement=False),
    _json("event"),
    _time("created_at"),
)

answers = sa.Table(
    "answers",
    metadata,
    _key(),
    sa.Column("id", sa.String, nullable=False, unique=True),
    _text("collection"),
    _text("question"),
    _json("answer"),
    _time("created_at"),
    sqlite_autoincrement=True,
)

feedback = sa.Table(
    "feedback",
    metadata,
    _key(),
    sa.Column("id", sa.String, nullable=False, unique=True),
    sa.Column("answer_id", sa.String, sa.ForeignKey("answers.id"), nullable=False, index=True),
    sa.Column("rating", sa.Integer),
    _text("correction"),
    _text("comment"),
    _time("created_at"),
    sqlite_autoincrement=True,
)

evaluations = sa.Table(
    "evaluations",
    metadata,
    _key(),
    sa.Column("id", sa.String, nullable=False, unique=True),
    sa.Column("collection", sa.String, nullable=False, index=True),
    _json("result"),
    _time("created_at"),
    sqlite_autoincrement=True,
)

blind_trials = sa.Table(
    "blind_trials",
    metadata,
    _key(),
    sa.Column("id", sa.String, nullable=False, unique=True),
    sa.Column("collection", sa.String, nullable=False, index=True),
    _text("question"),
    _json("arms"),
    _json("answers"),
    sa.Column("vote", sa.String),
    _text("voter"),
    _time("created_at"),
    _time("voted_at", nullable=True),
    sqlite_autoincrement=True,
)

models = sa.Table(
    "models",
    metadata,
    sa.Column("name", sa.String, primary_key=True),
    _text("source"),
    _text("gguf"),
    _text("weights"),
    _text("sha256"),
    _text("architecture"),
    _json("meta"),
    sa.Column("is_default", sa.Boolean, nullable=False),
    _time("created_at"),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    _text("name"),
    sa.Column("sha256", sa.String, nullable=False, unique=True),
    _time("created_at"),
    _time("revoked_at", nullable=True),
    sa.Column("scopes", sa.JSON, nullable=False, server_default='["admin"]'),
    # None of them stands for all.
    sa.Column("collections", sa.JSON, nullable=False, server_default="[]"),
    sa.Column("requests_per_minute", sa.Integer),
    sa.Column("tokens_per_minute", sa.Integer),
    _time("expires_at", nullable=True),
)

audit = sa.Table(
    "audit",
    metadata,
    _key(),
    sa.Column("key_id", sa.String),
    _text("name"),
    _text("action"),
    sa.Column("status", sa.Integer, nullable=False),
    _time("created_at"),
    sqlite_autoincrement=True,
)
