"""The ``loop`` job: one round of ingest, pairs, training, evaluation and promotion by the policy.

Inputs: the fields of ``service.loop.LoopInputs``, ``questions`` in their JSON form. A stopped round goes on where it
was.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from data.protocols import Report
from service.loop import LoopInputs, Round, RoundFailed
from service.work.evaluate import question_from
from service.work.failures import WorkFailed

if TYPE_CHECKING:
    from service.workspace import Workspace


def run(workspace: Workspace, inputs: dict[str, Any], report: Report) -> dict[str, Any]:
    """Run a round; return its record.

    Raises:
        WorkFailed: a step failed; what is live is what was live, and the record is kept with the job.
    """
    given = {name: value for name, value in inputs.items() if name in LoopInputs.__dataclass_fields__}
    lists = {name: tuple(given.get(name, ())) for name in ("paths", "style")}
    questions = tuple(question_from(row) for row in given.get("questions", ()))
    try:
        return Round(workspace, LoopInputs(**{**given, **lists, "questions": questions}), report).run()
    except RoundFailed as failed:
        raise WorkFailed(failed.error, failed.record) from failed
