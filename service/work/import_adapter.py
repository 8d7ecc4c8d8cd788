"""The ``import_adapter`` job: a LoRA trained elsewhere is converted, compared and registered.

Inputs: ``name``, ``folder`` (with the files of ``service.adapters.IMPORTABLE``). Knows nothing of where
the files come from.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.protocols import Report
from service.adapters import import_adapter
from service.lineage import stale_because
from service.views import adapter_view

if TYPE_CHECKING:
    from service.workspace import Workspace


def run(workspace: Workspace, inputs: dict[str, Any], report: Report) -> dict[str, Any]:
    """Import the adapter; return it, with its parity.

    Raises:
        ParityFailed: the GGUF made from it does not answer as it does.
        Everything else ``import_adapter`` raises; nothing is registered then.
    """
    adapter = import_adapter(workspace, inputs["name"], Path(inputs["folder"]), report)
    return adapter_view(adapter, stale=stale_because(workspace.store, adapter))
