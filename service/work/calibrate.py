"""The ``calibrate`` job: questions of known answers say what a confidence means and when to give none.

Inputs: ``questions``, ``mode``, ``adapter``, ``collection``, ``top_k`` (None: the
collection's own), ``fresh``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from data.protocols import Report
from service.calibration.calibrate import CalibrationRequest, calibrate
from service.houses import top_k_of
from service.work.evaluate import question_from

if TYPE_CHECKING:
    from service.workspace import Workspace


def run(workspace: Workspace, inputs: dict[str, Any], report: Report) -> dict[str, Any]:
    """Calibrate abstention; return the calibration's figures."""
    workspace.ensure_starter_adapters()
    return calibrate(workspace, request_from(workspace, inputs), report)


def request_from(workspace: Workspace, inputs: dict[str, Any]) -> CalibrationRequest:
    """Return the request that a job's inputs describe."""
    collection = inputs.get("collection", "default")
    return CalibrationRequest(
        questions=tuple(question_from(row) for row in inputs["questions"]),
        mode=inputs.get("mode", "auto"),
        adapter=inputs.get("adapter"),
        collection=collection,
        top_k=top_k_of(workspace.store, collection, inputs.get("top_k")),
        fresh=inputs.get("fresh", False),
    )
