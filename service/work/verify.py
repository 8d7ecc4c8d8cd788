"""The ``verify`` job: every invariant of a collection and its index checked, and repaired if wished.

Inputs: ``collection``, ``repair``. What was found is in the outputs; finding something is no failure
of the job.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from data.protocols import Report

if TYPE_CHECKING:
    from service.workspace import Workspace


def run(workspace: Workspace, inputs: dict[str, Any], report: Report) -> dict[str, Any]:
    """Check ``collection``; return what was checked and what is wrong with it."""
    collection = inputs.get("collection", "default")
    return workspace.ingestor.verify(collection, report, repair=inputs.get("repair", False))
