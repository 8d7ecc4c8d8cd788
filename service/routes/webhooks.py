"""``/v1/webhooks``: who is told when a job ends."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from pydantic import Field, field_validator

from data.access import require_collection
from data.state import check_name
from service.access import wants
from service.addresses import check_url, resolve
from service.deps import Limit, WorkspaceDep
from service.jobs import WORK
from service.schemas import Body
from service.webhooks import webhook_view

router = APIRouter(prefix="/webhooks", tags=["jobs"], dependencies=[wants("ingest", "train")])


class WebhookBody(Body):
    """``POST /v1/webhooks``: no ``collections``: of all that the key may know; no ``kinds``: of every kind of job."""

    url: str
    collections: list[str] = Field(default_factory=list, max_length=1000)
    kinds: list[str] = Field(default_factory=list, max_length=len(WORK))

    @field_validator("kinds")
    @classmethod
    def _known(cls, value: list[str]) -> list[str]:
        unknown = [kind for kind in value if kind not in WORK]
        if unknown:
            raise ValueError(f"no such kind of job: {', '.join(unknown)}; there are {', '.join(WORK)}")
        return value


@router.post("", status_code=201)
def add_webhook(body: WebhookBody, workspace: WorkspaceDep) -> dict[str, Any]:
    """Register a URL to which the end of every job is posted; ``secret``, which signs it, is shown this once.

    Notices are as in the Standard Webhooks specification. A URL with a private address is refused unless
    ``RAGTUNE_WEBHOOK_NETWORKS`` allows it.
    """
    for name in body.collections:
        require_collection(check_name(name, "collection name"))
    host, port = check_url(body.url)
    resolve(host, port, workspace.settings.webhook_networks)
    made, secret = workspace.store.webhooks.add(body.url, body.collections, body.kinds)
    return {**webhook_view(made), "secret": secret}


@router.get("")
def list_webhooks(workspace: WorkspaceDep) -> dict[str, Any]:
    """Return the webhooks that this key registered; an administrator sees all."""
    return {"webhooks": [webhook_view(each) for each in workspace.store.webhooks.list()]}


@router.delete("/{webhook_id}")
def delete_webhook(webhook_id: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """Forget a webhook and what was still to be delivered to it."""
    workspace.store.webhooks.delete(webhook_id)
    return {"id": webhook_id, "deleted": True}


@router.get("/{webhook_id}/notices")
def list_notices(webhook_id: str, workspace: WorkspaceDep, limit: Limit = 50) -> dict[str, Any]:
    """Return the newest notices: pending, delivered or given up, and what became of the last try."""
    return {"notices": [asdict(each) for each in workspace.store.webhooks.notices(webhook_id, limit)]}
