"""API keys, and what was done with them. Only hashes are kept: a key of 256 random bits needs no slow hash."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass, field

import sqlalchemy as sa

from data.access import Scope
from data.errors import NotFound
from data.store.database import Database
from data.store.schema import api_keys, audit

AUDIT_ROWS = 100_000
"""The audit log keeps so many of its newest entries: about 20 MB."""


@dataclass(frozen=True, slots=True)
class KeyGrant:
    """What a key may do. No ``collections``: all; a limit that is None: none; times in Unix seconds."""

    scopes: tuple[Scope, ...] = ("admin",)
    collections: tuple[str, ...] = ()
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class KeyRow:
    """An API key without its secret; ``revoked_at`` is None while it is not revoked."""

    id: str
    name: str
    created_at: float
    revoked_at: float | None
    grant: KeyGrant = field(default_factory=KeyGrant)

    @property
    def ended_at(self) -> float | None:
        """When it was revoked or ran out, whichever came first; None while it is valid."""
        ran_out = self.grant.expires_at
        ends = [at for at in (self.revoked_at, ran_out) if at is not None and at <= time.time()]
        return min(ends, default=None)

    @property
    def valid(self) -> bool:
        """Whether it opens anything now."""
        return self.ended_at is None


@dataclass(frozen=True, slots=True)
class AuditRow:
    """Something that was done: by whom, when, and the HTTP status it ended with."""

    key_id: str | None
    name: str
    action: str
    status: int
    created_at: float


def _digest(plaintext: str) -> str:
    return hashlib.sha256(plaintext.encode("utf-8", "surrogatepass")).hexdigest()


def _row(row: sa.Row[tuple[object, ...]]) -> KeyRow:
    found = row._mapping
    grant = KeyGrant(
        tuple(found["scopes"]),
        tuple(found["collections"]),
        found["requests_per_minute"],
        found["tokens_per_minute"],
        found["expires_at"],
    )
    return KeyRow(found["id"], found["name"], found["created_at"], found["revoked_at"], grant)


_BY_DIGEST = sa.select(api_keys).where(api_keys.c.sha256 == sa.bindparam("sha256"))
_ANY = sa.select(sa.exists(sa.select(api_keys.c.id)))
"""Made once: every request runs one of them."""


class Keys:
    """The API keys of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, name: str, grant: KeyGrant | None = None) -> tuple[str, str]:
        """Create a key (by default one that may do all) and return (id, plaintext), which cannot be had again."""
        key_id, plaintext = secrets.token_hex(8), f"rt_{secrets.token_urlsafe(32)}"
        given = grant or KeyGrant()
        values = {
            "scopes": list(given.scopes),
            "collections": list(given.collections),
            "requests_per_minute": given.requests_per_minute,
            "tokens_per_minute": given.tokens_per_minute,
            "expires_at": given.expires_at,
        }
        with self._database.write() as connection:
            connection.execute(
                sa.insert(api_keys).values(
                    id=key_id, name=name, sha256=_digest(plaintext), created_at=time.time(), **values
                )
            )
        return key_id, plaintext

    @property
    def waits(self) -> bool:
        """Whether ``find`` and ``exist`` may have to wait, so that an event loop asks them in a thread."""
        return self._database.waits

    def find(self, plaintext: str) -> KeyRow | None:
        """Return the key if it is valid now: neither unknown, revoked nor expired."""
        digest = _digest(plaintext)
        with self._database.read() as connection:
            found = connection.execute(_BY_DIGEST, {"sha256": digest}).first()
        if found is None or not hmac.compare_digest(found.sha256, digest):
            return None
        row = _row(found)
        return row if row.valid else None

    def exist(self) -> bool:
        """Tell whether any key was ever made, revoked and expired ones included."""
        with self._database.read() as connection:
            return bool(connection.execute(_ANY).scalar_one())

    def list(self) -> list[KeyRow]:
        """Return every key, revoked and expired ones too, oldest first."""
        with self._database.read() as connection:
            return [_row(row) for row in connection.execute(sa.select(api_keys).order_by(api_keys.c.created_at))]

    def revoke(self, key_id: str) -> None:
        """Make a key invalid from now on; revoking it again changes nothing.

        Raises:
            NotFound: there is none.
        """
        with self._database.write() as connection:
            revoked_at = sa.func.coalesce(api_keys.c.revoked_at, time.time())
            update = sa.update(api_keys).where(api_keys.c.id == key_id).values(revoked_at=revoked_at)
            if not connection.execute(update).rowcount:
                raise NotFound("No such API key.", got=key_id, hint="ragtune keys list shows them.")


class Audit:
    """What was changed over HTTP and by whom: entries are added, never altered."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def add(self, key_id: str | None, name: str, action: str, status: int) -> None:
        """Add an entry; beyond ``AUDIT_ROWS`` the oldest goes."""
        with self._database.write(alone=False) as connection:
            values = {"key_id": key_id, "name": name, "action": action, "status": status, "created_at": time.time()}
            added = connection.execute(sa.insert(audit).values(**values)).inserted_primary_key
            if added is not None:
                connection.execute(sa.delete(audit).where(audit.c.key <= added[0] - AUDIT_ROWS))

    def list(self, limit: int = 100) -> list[AuditRow]:
        """Return the newest entries, newest first."""
        columns = (audit.c.key_id, audit.c.name, audit.c.action, audit.c.status, audit.c.created_at)
        with self._database.read() as connection:
            rows = connection.execute(sa.select(*columns).order_by(audit.c.key.desc()).limit(limit))
            return [AuditRow(*row) for row in rows]
