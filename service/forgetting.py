"""Measures what an adapter, as the engine serves it, made its base model forget.

Knows nothing of jobs, HTTP or the command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.protocols import Report
from service.adapter_files import ADAPTER_GGUF

if TYPE_CHECKING:
    from finetune.recipe import Attention
    from service.workspace import Workspace

_KEY = "forgetting-probe"


def measure_forgetting(workspace: Workspace, folder: Path, attention: Attention, report: Report) -> dict[str, Any]:
    """Ask the committed general questions without and with ``adapter.gguf`` in ``folder``.

    Returns:
        As ``finetune.probe.forgetting``. It raises nothing for an adapter that forgot: promotion refuses it.

    Raises:
        InvalidModel: the model is a server's, and its weights are not here.
        EngineUnavailable: the generator is no engine that loads adapters.
    """
    from finetune.probe import forgetting, load_items, probe

    items = load_items()
    with workspace.scoring_engine() as engine:
        engine.add_adapter(_KEY, str(folder / ADAPTER_GGUF), workspace.model.sha256, attention)
        try:
            before = probe(items, engine.score, report=report)
            after = probe(items, lambda messages, completion: engine.score(messages, completion, _KEY), report=report)
        finally:
            engine.remove_adapter(_KEY)
    return forgetting(items, before, after)
