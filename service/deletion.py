"""Deletes a document with all that holds its text, and names the adapters that learnt from it.

Knows nothing of HTTP or of the command line.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from service.lineage import adapters_trained_on
from service.pair_exports import forget_exports
from service.uploads import forget_upload

if TYPE_CHECKING:
    from service.workspace import Workspace


def delete_document(workspace: Workspace, document_id: str) -> dict[str, Any]:
    """Delete a document: chunks, its place in the index, uploaded bytes, exports and kept answers that quote it.

    Returns:
        ``{"deleted": [{"id", "source"}], "adapters": [{"adapter", "stage", "role"}]}``, the latter as
        ``adapters_trained_on``: no deletion takes out of an adapter what it has learnt.

    Raises:
        UnknownDocument: there is none.
    """
    row, began = workspace.store.documents.row(document_id), time.time()
    adapters = adapters_trained_on(workspace.store, document_id)
    workspace.ingestor.delete(document_id)
    forget_upload(workspace.state, workspace.store, row.sha256, row.source, before=began)
    forget_exports(workspace.state, row.collection)
    return {"deleted": [{"id": row.id, "source": row.source}], "adapters": adapters}
