"""``/v1/lineage``: what something was made from, and what was made from it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query

from data.store import Kind
from service.access import wants
from service.deps import WorkspaceDep
from service.lineage import trace

router = APIRouter(prefix="/lineage", tags=["lineage"], dependencies=[wants("train", whole=True)])


@router.get("/{kind}/{identity}")
def get_lineage(
    kind: Kind,
    identity: str,
    workspace: WorkspaceDep,
    limit: Annotated[int, Query(ge=1, le=1000, description="Most things shown of each kind.")] = 100,
) -> dict[str, Any]:
    """Return what a document, chunk, pair, row, adapter or answer was made from, and what was made from it.

    Each thing has its hash, and whether it is still there: links outlive what they name.
    """
    return trace(workspace.store, kind, identity, limit)
