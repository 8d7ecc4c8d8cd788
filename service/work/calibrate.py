"""The ``calibrate`` job: questions of known answers say what a confidence means and when to give none.

Inputs: ``questions``, ``mode``, ``adapter``, ``collection``, ``top_k``, ``fresh``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from data.protocols import Report
from service.calibration.calibrate import CalibrationRequest, calibrate
from service.work.evaluate import question_from

if TYPE_CHECKING:
    from service.workspace import Workspace


def run(workspace: Workspace, inputs: dict[str, Any], report: Report) -> dict[str, Any]:
    """Calibrate abstention; return the calibration's figures."""
    workspace.ensure_starter_adapters()
    return calibrate(workspace, request_from(inputs), report)


def request_from(inputs: dict[str, Any]) -> CalibrationRequest:
    """Return the request that a job's inputs describe."""
    return CalibrationRequest(
        questions=tuple(question_from(row) for row in inputs["questions"]),
        mode=inputs.get("mode", "auto"),
        adapter=inputs.get("adapter"),
        collection=inputs.get("collection", "default"),
        top_k=inputs.get("top_k", 4),
        fresh=inputs.get("fresh", False),
    )
