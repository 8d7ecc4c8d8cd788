"""The ``export_pairs`` job: the accepted pairs as row files, kept for ``GET /v1/pairs/export``.

Inputs: ``collection``, ``eval_share``, ``seed``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from data.protocols import Report
from service.pair_exports import PairExport

if TYPE_CHECKING:
    from service.workspace import Workspace


def run(workspace: Workspace, inputs: dict[str, Any], report: Report) -> dict[str, Any]:
    """Write train and eval rows in every format; return their numbers and the files' sizes in bytes.

    Raises:
        NoAcceptedPairs: there is nothing to export.
        Conflict: the pairs or the index changed meanwhile.
    """
    export = PairExport(inputs.get("collection", "default"), inputs.get("eval_share", 0.1), inputs.get("seed", 0))
    return export.make(workspace, report)
