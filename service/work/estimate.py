"""The ``estimate`` job: how long a training would take, and how much memory it would need.

Inputs: those of ``train``. A few steps of it are measured in a process of their own; nothing is trained or kept.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from data.protocols import Report
from data.records import Progress
from service.training_set import training_set

if TYPE_CHECKING:
    from service.workspace import Workspace


def run(workspace: Workspace, inputs: dict[str, Any], report: Report) -> dict[str, Any]:
    """Return what ``finetune.estimate.Estimate`` says, and ``fits``.

    Raises:
        RecipeInvalid: the recipe has an unknown field or an impossible value.
        NoAcceptedPairs: there is nothing to train on.
        InsufficientMemory: not even the longest row fits.
    """
    from finetune.estimate import estimate

    prepared = training_set(workspace, inputs, report)
    report(Progress(stage="estimate"))
    found = estimate(prepared.recipe, prepared.rows, workspace.model, prepared.held_out)
    return {**asdict(found), "fits": found.fits}
