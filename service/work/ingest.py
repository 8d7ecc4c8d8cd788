"""The ``ingest`` job: files become documents, chunks and a new index generation.

Inputs: ``paths``, ``collection``, ``sync`` (documents whose file is gone are deleted or moved), ``tags``
(put on every document), ``strict`` (a job none of whose files became a document has failed).
Knows nothing of where files come from.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.protocols import Report
from service.work.failures import WorkFailed, error_of_all_failed

if TYPE_CHECKING:
    from service.workspace import Workspace


def run(workspace: Workspace, inputs: dict[str, Any], report: Report) -> dict[str, Any]:
    """Ingest ``paths``; return what was indexed, unchanged, moved, deleted and failed.

    Raises:
        WorkFailed: ``strict``, and every file failed.
    """
    done = workspace.ingestor.ingest(
        inputs.get("collection", "default"),
        [Path(path) for path in inputs["paths"]],
        sync=inputs.get("sync", False),
        tags=inputs.get("tags"),
        report=report,
    )
    outputs = asdict(done)
    error = error_of_all_failed(outputs)
    if error is not None and inputs.get("strict", False):
        raise WorkFailed(error, outputs)
    return outputs
