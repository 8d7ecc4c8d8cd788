"""API keys. Only their hashes are kept: a key of 256 random bits needs no slow hash."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from dataclasses import dataclass

import sqlalchemy as sa

from data.errors import NotFound
from data.store.database import Database
from data.store.schema import api_keys


@dataclass(frozen=True, slots=True)
class KeyRow:
    """An API key without its secret; ``revoked_at`` is None while it is valid."""

    id: str
    name: str
    created_at: float
    revoked_at: float | None


def _digest(plaintext: str) -> str:
    return hashlib.sha256(plaintext.encode("utf-8", "surrogatepass")).hexdigest()


class Keys:
    """The API keys of a store."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def create(self, name: str) -> tuple[str, str]:
        """Create a key and return (id, plaintext); the plaintext cannot be had again."""
        key_id, plaintext = secrets.token_hex(8), f"rt_{secrets.token_urlsafe(32)}"
        with self._database.write() as connection:
            connection.execute(
                sa.insert(api_keys).values(id=key_id, name=name, sha256=_digest(plaintext), created_at=time.time())
            )
        return key_id, plaintext

    def verify(self, plaintext: str) -> bool:
        """Tell whether a key is valid now."""
        digest = _digest(plaintext)
        query = sa.select(api_keys.c.sha256).where(api_keys.c.sha256 == digest, api_keys.c.revoked_at.is_(None))
        with self._database.read() as connection:
            found = connection.execute(query).scalar()
        return hmac.compare_digest(found or "", digest)

    def list(self) -> list[KeyRow]:
        """Return every key, revoked ones too, oldest first."""
        table = api_keys.c
        query = sa.select(table.id, table.name, table.created_at, table.revoked_at).order_by(table.created_at)
        with self._database.read() as connection:
            return [KeyRow(*row) for row in connection.execute(query)]

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
