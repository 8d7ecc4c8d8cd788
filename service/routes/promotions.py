"""``/v1/promotions``: the append-only log of what went live, what was refused, and why."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query

from service.access import wants
from service.deps import Limit, WorkspaceDep
from service.policy import load_policy

router = APIRouter(prefix="/promotions", tags=["adapters"])


@router.get("", dependencies=[wants("train", whole=True)])
def list_promotions(
    workspace: WorkspaceDep,
    kind: Literal["adapter", "index", "retriever"] | None = None,
    subject: Annotated[str | None, Query(description="A name, or name@version; of an index its collection.")] = None,
    limit: Limit = 100,
) -> dict[str, Any]:
    """Return the newest lines: who changed a stage, from what to what, and what the policy decided."""
    return {"promotions": [asdict(row) for row in workspace.store.stages.list(kind, subject, limit)]}


@router.get("/policy", dependencies=[wants("train")])
def get_policy(workspace: WorkspaceDep) -> dict[str, Any]:
    """Return the promotion policy that applies."""
    return asdict(load_policy(workspace.settings.promotion_policy))
