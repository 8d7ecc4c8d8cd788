"""The ``ingest`` job: files become documents, chunks and a new index generation.

Inputs: ``paths``, ``collection``, ``sync`` (documents whose file is gone are deleted or moved), ``tags``
(put on every document), ``strict`` (a job none of whose files became a document has failed).
Knows nothing of where files come from.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.protocols import Report
from service.pair_exports import forget_exports
from service.uploads import forget_upload
from service.work.failures import WorkFailed, error_of_all_failed

if TYPE_CHECKING:
    from data.store import DocumentRow
    from retrieval.ingest import IngestReport
    from service.workspace import Workspace


def run(workspace: Workspace, inputs: dict[str, Any], report: Report) -> dict[str, Any]:
    """Ingest ``paths``; return what was indexed, unchanged, moved, deleted and failed.

    Raises:
        WorkFailed: ``strict``, and every file failed.
    """
    collection, began = inputs.get("collection", "default"), time.time()
    paths = [Path(path) for path in inputs["paths"]]
    before = _uploaded(workspace, collection, paths)
    done = workspace.ingestor.ingest(
        collection,
        paths,
        sync=inputs.get("sync", False),
        tags=inputs.get("tags"),
        report=report,
    )
    _forget_replaced(workspace, before, done, began)
    if done.deleted:
        forget_exports(workspace.state, collection)
    outputs = asdict(done)
    error = error_of_all_failed(outputs)
    if error is not None and inputs.get("strict", False):
        raise WorkFailed(error, outputs)
    return outputs


def _uploaded(workspace: Workspace, collection: str, paths: Sequence[Path]) -> dict[str, DocumentRow]:
    """Return the documents that may be replaced or deleted, and whose bytes may have been uploaded, by source."""
    documents, blobs = workspace.store.documents, workspace.state.blobs
    if all(blobs in path.parents for path in paths):  # an upload: not all of a large collection for one file
        return documents.at_sources(collection, [path.name for path in paths])
    return documents.by_source(collection) if any(blobs.iterdir()) else {}


def _forget_replaced(workspace: Workspace, before: Mapping[str, DocumentRow], done: IngestReport, began: float) -> None:
    """Remove the uploaded bytes of documents that are there no more, or in another version."""
    blobs = workspace.state.blobs
    sources = (*(row["source"] for row in done.indexed), *done.deleted)
    old = [before[each] for each in sources if each in before and (blobs / before[each].sha256).is_dir()]
    now = workspace.store.documents.at_sources(old[0].collection, [row.source for row in old]) if old else {}
    for row in old:
        if row.source not in now or now[row.source].sha256 != row.sha256:
            forget_upload(workspace.state, workspace.store, row.sha256, row.source, before=began)
