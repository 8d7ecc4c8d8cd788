"""The ``rebuild`` job: a new index generation from the stored documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from data.protocols import Report

if TYPE_CHECKING:
    from service.workspace import Workspace


def run(workspace: Workspace, inputs: dict[str, Any], report: Report) -> dict[str, Any]:
    """Rebuild the index of ``collection``; return its state afterwards."""
    collection = inputs.get("collection", "default")
    workspace.ingestor.rebuild(collection, report)
    return {"collection": collection, "index_generation": workspace.store.collections.current_generation(collection)}
