"""The ``evaluate`` job: the arms over held-out questions, with its reports.

Inputs: ``questions``, ``arms``, ``adapter``, ``collection``, ``top_k``, ``max_tokens`` and ``temperature`` (None: the
collection's own), ``out`` (a folder of one's own), ``fresh``, ``questions_file`` (named in the report), ``style``
(answers of the house), ``max_false_answer_rate``, ``methods`` (of search), ``quantizations`` (of the base model),
``judge`` (its URL), ``judge_model``, ``job_id`` (names the evaluation, so that a stopped job goes on with it).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.protocols import Report
from data.records import Question
from service.compare.evaluation import EvaluationRequest, evaluate

if TYPE_CHECKING:
    from service.workspace import Workspace


def run(workspace: Workspace, inputs: dict[str, Any], report: Report) -> dict[str, Any]:
    """Compare ``arms`` over ``questions``; return the evaluation's id and its result."""
    workspace.ensure_starter_adapters()
    evaluation = evaluate(workspace, request_from(inputs), report)
    return {"evaluation_id": evaluation.id, "folder": str(evaluation.folder), **evaluation.result}


def request_from(inputs: dict[str, Any]) -> EvaluationRequest:
    """Return the request that a job's inputs describe."""
    return EvaluationRequest(
        questions=tuple(question_from(row) for row in inputs["questions"]),
        arms=tuple(inputs.get("arms", ())),
        adapter=inputs.get("adapter"),
        collection=inputs.get("collection", "default"),
        top_k=inputs.get("top_k"),
        max_tokens=inputs.get("max_tokens"),
        temperature=inputs.get("temperature"),
        out=Path(inputs["out"]) if inputs.get("out") else None,
        fresh=inputs.get("fresh", False),
        questions_file=inputs.get("questions_file", ""),
        style=tuple(inputs.get("style", ())),
        max_false_answer_rate=inputs.get("max_false_answer_rate"),
        methods=tuple(inputs.get("methods", ())),
        quantizations=tuple(inputs.get("quantizations", ())),
        judge=inputs.get("judge") or "",
        judge_model=inputs.get("judge_model", ""),
        identity=inputs.get("job_id", ""),
    )


def question_from(row: dict[str, Any]) -> Question:
    """Return a question from its JSON form."""
    return Question(
        id=row["id"],
        question=row["question"],
        answers=tuple(row.get("answers", ())),
        answerable=row.get("answerable", True),
        document=row.get("document"),
        origin=row.get("origin", "file"),
    )
