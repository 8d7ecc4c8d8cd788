"""``/v1/settings``, ``/v1/doctor``: how this server is set up, and whether that works."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter

from service.access import wants
from service.deps import WorkspaceDep
from service.doctor import examine

router = APIRouter(tags=["system"], dependencies=[wants("admin", whole=True)])

_SHOWN = (
    *("model", "embedder", "rerank", "n_ctx", "n_threads", "sequences", "queue_size", "engine_timeout_s"),
    *("chunk_size", "chunk_overlap", "max_document_bytes", "max_body_bytes", "max_question_chars"),
    "refuse_stale_adapters",
)
"""Limits and choices that concern a client; keys, addresses and folders are not among them."""


@router.get("/settings")
def get_settings(workspace: WorkspaceDep) -> dict[str, Any]:
    """Return the settings that a client may want to know; they are set where the server is started."""
    values = workspace.settings.model_dump(include=set(_SHOWN), mode="json")
    return {"settings": {name: values[name] for name in _SHOWN}}


@router.get("/doctor")
def get_findings(workspace: WorkspaceDep) -> dict[str, Any]:
    """Run the quick checks of ``ragtune doctor``: each says what it found, and what to do where that is not ok."""
    return {"findings": [asdict(finding) for finding in examine(workspace, engine=False)]}
