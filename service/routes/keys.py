"""``/v1/keys`` and ``/v1/audit``: who may do what, and what was done."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from data.access import MACHINE, SCOPES, current
from data.errors import Conflict
from data.store import KeyRow
from service.access import wants
from service.deps import Limit, WorkspaceDep
from service.schemas import KeyBody

router = APIRouter(tags=["access"])
mine = APIRouter(dependencies=[wants(*SCOPES)])
keys = APIRouter(dependencies=[wants("admin", whole=True)])


@keys.post("/keys", status_code=201)
def create_key(body: KeyBody, workspace: WorkspaceDep) -> dict[str, Any]:
    """Make an API key. ``key`` is shown this once; only its hash is kept."""
    grant = body.grant()
    whole = "admin" in grant.scopes and not grant.collections and grant.expires_at is None
    if not whole and current() is MACHINE and not any(key.valid for key in workspace.store.keys.list()):
        raise Conflict(
            "The first key must be an administrator's: from then on every request needs a key",
            got=", ".join(grant.scopes),
            wanted='{"scopes": ["admin"]}, for all collections and without an end',
            hint="Make that one first, keep it, and make this one with it.",
        )
    key_id, plaintext = workspace.store.keys.create(body.name, grant)
    return {"id": key_id, "name": body.name, **asdict(grant), "key": plaintext}


@keys.get("/keys")
def list_keys(workspace: WorkspaceDep) -> dict[str, Any]:
    """Return every key without its secret, revoked and expired ones too."""
    return {"keys": [key_view(key) for key in workspace.store.keys.list()]}


@keys.delete("/keys/{key_id}")
def revoke_key(key_id: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """Make a key useless, at once."""
    workspace.store.keys.revoke(key_id)
    return {"id": key_id, "revoked": True}


@keys.get("/audit")
def list_audit(workspace: WorkspaceDep, limit: Limit = 100) -> dict[str, Any]:
    """Return the newest changes that were asked for over HTTP, newest first, with the status each ended with."""
    return {"entries": [asdict(entry) for entry in workspace.store.audit.list(limit)]}


@mine.get("/me")
def who_am_i() -> dict[str, Any]:
    """Return what the key of this request may do."""
    access = current()
    return {"name": access.name, "scopes": sorted(access.scopes), "collections": sorted(access.collections)}


router.include_router(mine)
router.include_router(keys)


def key_view(key: KeyRow) -> dict[str, Any]:
    """Return a key as clients see it."""
    return {
        "id": key.id,
        "name": key.name,
        "created_at": key.created_at,
        "revoked_at": key.revoked_at,
        **asdict(key.grant),
        "valid": key.valid,
    }
