"""Whether what an adapter was made from is still what the documents say.

Knows nothing of how adapters are trained.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.records import Adapter

if TYPE_CHECKING:
    from data.store import Store


def is_stale(store: Store, adapter: Adapter) -> bool:
    """Tell whether a document that ``adapter`` was trained on has changed or gone since."""
    trained_on = {str(document_id) for document_id in adapter.lineage.get("documents", ())}
    if not trained_on:
        return False
    present = {row.id for row in store.documents.by_source(str(adapter.lineage.get("collection", "default"))).values()}
    return not trained_on <= present
