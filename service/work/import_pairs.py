"""The ``import_pairs`` job: a file of rows or questions becomes pairs.

Inputs: ``path``, ``collection``, ``style`` (the answers are examples of a house style), ``strict`` (a job none of
whose rows became a pair has failed). Knows nothing of where the file comes from.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import InvalidRequest
from data.protocols import Report
from data.state import check_name
from service.work.failures import WorkFailed

if TYPE_CHECKING:
    from service.workspace import Workspace


def run(workspace: Workspace, inputs: dict[str, Any], report: Report) -> dict[str, Any]:
    """Import the pairs; return how many are new, how many were known, and each row that failed.

    Raises:
        InvalidRequest: the file cannot be read, or holds no row.
        WorkFailed: ``strict``, and every row failed.
    """
    from retrieval.rowfiles import import_pairs

    collection = check_name(inputs.get("collection", "default"), "collection name")
    known = workspace.store.collections
    indexed = collection in known.names() and known.current_generation(collection) is not None
    retriever = workspace.retriever if indexed else None
    path, style = Path(inputs["path"]), inputs.get("style", False)
    done = import_pairs(workspace.store, collection, path, retriever=retriever, style=style, report=report)
    outputs = asdict(done)
    if inputs.get("strict", False) and not done.imported and not done.known:
        first, more = done.failed[0], done.failed_count - 1
        detail = first["detail"] + (f" ({more} more rows failed)" if more else "")
        raise WorkFailed(InvalidRequest(detail, hint=first["hint"]), outputs)
    return outputs
