"""``/v1/collections``: which there are."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from service.access import wants
from service.deps import WorkspaceDep

router = APIRouter(prefix="/collections", tags=["documents"], dependencies=[wants("query", "ingest", "train")])


@router.get("")
def list_collections(workspace: WorkspaceDep) -> dict[str, Any]:
    """Return every collection with its number of documents and its index generation in use (or null)."""
    store = workspace.store
    found = [
        {
            "name": name,
            "documents": store.documents.count(name),
            "index_generation": store.collections.current_generation(name),
        }
        for name in store.collections.names()
    ]
    return {"collections": found}
