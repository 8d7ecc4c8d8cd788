"""The ``compact`` job: the space of what nothing needs any more is given back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from data.protocols import Report

if TYPE_CHECKING:
    from service.workspace import Workspace


def run(workspace: Workspace, inputs: dict[str, Any], report: Report) -> dict[str, Any]:
    """Compact the index of ``collection`` and the store; return what was dropped."""
    return workspace.ingestor.compact(inputs.get("collection", "default"), report)
