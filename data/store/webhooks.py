"""Webhooks: who is told when a job ends, and every notice that is still to be delivered.

A notice is written in the transaction that ends its job, so none is lost with a process; who delivers it, delivers it
at least once. Knows nothing of HTTP.
"""

from __future__ import annotations

import base64
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import sqlalchemy as sa

from data.access import current
from data.errors import NotFound
from data.store.database import Database, Row, check_limit
from data.store.schema import BIG_KEY, api_keys, metadata

NoticeStatus = Literal["pending", "delivered", "given up"]
_SECRET_BYTES = 32
KEPT_S = 30 * 86_400
"""How long a notice that is over is kept, seconds: long enough to see what a receiver missed."""

HELD_S = 60.0
"""How long a server of several has for the notices that it took, before another one tries them."""

webhooks = sa.Table(
    "webhooks",
    metadata,
    sa.Column("id", sa.String, primary_key=True),
    sa.Column("url", sa.Text, nullable=False),
    # As it is: a signature needs it. Whoever reads the database can forge notices, and read every document too.
    sa.Column("secret", sa.Text, nullable=False),
    sa.Column("key_id", sa.String),
    sa.Column("collections", sa.JSON, nullable=False),
    sa.Column("kinds", sa.JSON, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
)

notices = sa.Table(
    "webhook_notices",
    metadata,
    sa.Column("key", BIG_KEY, primary_key=True, autoincrement=True),
    sa.Column("id", sa.String, nullable=False, unique=True),
    sa.Column("webhook_id", sa.String, sa.ForeignKey("webhooks.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("job_id", sa.String, nullable=False),
    sa.Column("event", sa.JSON, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("next_at", sa.Double, nullable=False),
    sa.Column("reply", sa.Text, nullable=False),
    sa.Column("created_at", sa.Double, nullable=False),
    sa.Index("ix_webhook_notices_due", "status", "next_at"),
    sqlite_autoincrement=True,
)


@dataclass(frozen=True, slots=True)
class Webhook:
    """Where notices go. No ``collections``: of all; no ``kinds``: of every kind of job."""

    id: str
    url: str
    key_id: str | None
    collections: tuple[str, ...]
    kinds: tuple[str, ...]
    created_at: float


@dataclass(frozen=True, slots=True)
class Notice:
    """One job's end for one webhook; ``next_at`` is when it is tried (again), ``reply`` what became of the last try."""

    id: str
    webhook_id: str
    job_id: str
    event: dict[str, Any]
    status: NoticeStatus
    attempts: int
    next_at: float
    reply: str
    created_at: float


@dataclass(frozen=True, slots=True)
class Due:
    """A notice to be delivered now, with where to and what signs it."""

    notice: Notice
    url: str
    secret: str


def _webhook(row: Row) -> Webhook:
    return Webhook(row.id, row.url, row.key_id, tuple(row.collections), tuple(row.kinds), row.created_at)


_NOTICE = [notices.c[name] for name in Notice.__dataclass_fields__]


def announce(connection: sa.Connection, job: Row) -> None:
    """Write the notices of a job that has just ended, within the caller's transaction."""
    collection, now = job.inputs.get("collection"), time.time()
    event = {
        "type": f"job.{job.status}",
        "timestamp": now,
        "data": {
            "job_id": job.id,
            "kind": job.kind,
            "status": job.status,
            "collection": collection,
            "error": job.error,
            "created_at": job.created_at,
            "finished_at": job.finished_at,
        },
    }
    usable = sa.select(webhooks).outerjoin(api_keys, api_keys.c.id == webhooks.c.key_id)
    usable = usable.where(api_keys.c.revoked_at.is_(None))
    usable = usable.where(api_keys.c.expires_at.is_(None) | (api_keys.c.expires_at > now))
    for row in connection.execute(usable).all():
        wanted = _webhook(row)
        if (wanted.collections and collection not in wanted.collections) or (
            wanted.kinds and job.kind not in wanted.kinds
        ):
            continue
        values = {"webhook_id": row.id, "job_id": job.id, "event": event, "status": "pending", "attempts": 0}
        values |= {"id": f"msg_{secrets.token_hex(16)}", "next_at": now, "reply": "", "created_at": now}
        connection.execute(sa.insert(notices).values(values))


class Webhooks:
    """The webhooks of a store. A key that is no administrator's sees those that it registered itself."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, url: str, collections: Sequence[str] = (), kinds: Sequence[str] = ()) -> tuple[Webhook, str]:
        """Register a webhook for whoever asks; return it with the secret that signs its notices, shown once.

        A key that is bound to collections hears of these only.
        """
        access = current()
        bound = tuple(collections) or tuple(sorted(access.collections))
        secret = "whsec_" + base64.b64encode(secrets.token_bytes(_SECRET_BYTES)).decode()
        made = Webhook(secrets.token_hex(8), url, access.key_id, bound, tuple(kinds), time.time())
        values = {name: getattr(made, name) for name in Webhook.__dataclass_fields__}
        values |= {"secret": secret, "collections": list(bound), "kinds": list(kinds)}
        with self._database.write() as connection:
            connection.execute(sa.insert(webhooks).values(values))
        return made, secret

    def list(self) -> list[Webhook]:
        """Return those that whoever asks may see, oldest first."""
        with self._database.read() as connection:
            rows = connection.execute(sa.select(webhooks).order_by(webhooks.c.created_at)).all()
        return [_webhook(row) for row in rows if _own(row)]

    def delete(self, webhook_id: str) -> None:
        """Forget a webhook and its notices.

        Raises:
            NotFound: there is none.
        """
        with self._database.write() as connection:
            _require(connection, webhook_id)
            connection.execute(sa.delete(webhooks).where(webhooks.c.id == webhook_id))

    def notices(self, webhook_id: str, limit: int = 50) -> Sequence[Notice]:
        """Return the newest notices of a webhook.

        Raises:
            NotFound: there is no such webhook.
        """
        query = sa.select(*_NOTICE).where(notices.c.webhook_id == webhook_id).order_by(notices.c.key.desc())
        with self._database.read() as connection:
            _require(connection, webhook_id)
            return [Notice(*row) for row in connection.execute(query.limit(check_limit(limit)))]

    def due(self, now: float, limit: int = 20) -> Sequence[Due]:
        """Return the notices whose time has come, the oldest first; one of several servers gets each (``HELD_S``)."""
        query = sa.select(*_NOTICE, webhooks.c.url, webhooks.c.secret).join(
            webhooks, webhooks.c.id == notices.c.webhook_id
        )
        query = query.where(notices.c.status == "pending", notices.c.next_at <= now).order_by(notices.c.next_at)
        if self._database.dialect == "sqlite":
            with self._database.read() as connection:
                return [Due(Notice(*row[:-2]), *row[-2:]) for row in connection.execute(query.limit(limit))]
        with self._database.write(alone=False) as connection:
            locked = query.limit(limit).with_for_update(of=notices, skip_locked=True)
            found = [Due(Notice(*row[:-2]), *row[-2:]) for row in connection.execute(locked)]
            mine = notices.c.id.in_([due.notice.id for due in found])
            connection.execute(sa.update(notices).where(mine).values(next_at=now + HELD_S))
            return found

    def tried(self, notice_id: str, status: NoticeStatus, reply: str, next_at: float) -> None:
        """Note a try and what is to become of the notice; those that were over long ago are forgotten."""
        values = {"status": status, "reply": reply, "next_at": next_at, "attempts": notices.c.attempts + 1}
        old = (notices.c.status != "pending") & (notices.c.created_at < time.time() - KEPT_S)
        with self._database.write() as connection:
            connection.execute(sa.update(notices).where(notices.c.id == notice_id).values(values))
            connection.execute(sa.delete(notices).where(old))


def _own(row: Row) -> bool:
    return current().may("admin") or row.key_id == current().key_id


def _require(connection: sa.Connection, webhook_id: str) -> None:
    row = connection.execute(sa.select(webhooks).where(webhooks.c.id == webhook_id)).one_or_none()
    if row is None or not _own(row):
        raise NotFound("No such webhook.", got=webhook_id, hint="ragtune webhooks list shows them.")
