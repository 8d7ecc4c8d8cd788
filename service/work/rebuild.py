"""The ``rebuild`` job: a new index generation from the stored documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from data.protocols import Report
from service.answerer import nothing_indexed

if TYPE_CHECKING:
    from service.workspace import Workspace


def run(workspace: Workspace, inputs: dict[str, Any], report: Report) -> dict[str, Any]:
    """Rebuild the index of ``collection``; return its state afterwards.

    Raises:
        NothingIndexed: no document was ever ingested.
    """
    collection = inputs.get("collection", "default")
    generation = workspace.ingestor.rebuild(collection, report)
    if generation is None:
        raise nothing_indexed(collection)
    return {"collection": collection, "index_generation": generation}
