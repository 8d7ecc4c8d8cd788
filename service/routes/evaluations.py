"""``/v1/evaluations``: the arms over held-out questions."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from fastapi.responses import HTMLResponse, JSONResponse

from data.errors import InvalidRequest, NoQuestions, UnknownEvaluation, UnknownJob
from service import api_models as models
from service.access import wants
from service.answerer import check_collection
from service.compare.evaluation import calibrated, questions_for_arms, varied
from service.compare.run import check_questions, choose_arms
from service.compare.style import check_examples
from service.deps import IdempotencyKey, RunnerDep, WorkspaceDep, accepted
from service.measuring_schemas import EvaluationBody
from service.questions import check_askable
from service.work.evaluate import question_from, request_from
from service.workspace import Workspace

router = APIRouter(prefix="/evaluations", tags=["evaluations"], dependencies=[wants("train")])


@router.post("", status_code=202, response_model=None, responses={202: {"model": models.Accepted}})
def create_evaluation(
    body: EvaluationBody, workspace: WorkspaceDep, runner: RunnerDep, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Compare the arms over the questions, as a job; its id also names the evaluation."""
    check_collection(workspace.store, body.collection)
    check_examples(body.style)
    inputs = body.model_dump(exclude={"origins"}) | {"judge": _judge(workspace) if body.judge else ""}
    arms = choose_arms(workspace.store, workspace.model, body.arms, body.adapter, body.collection)
    arms = varied(workspace, arms, request_from(inputs))
    stored = questions_for_arms(workspace, inputs, body.origins) if body.origins else []
    inputs["questions"] = [*inputs["questions"], *map(asdict, stored)]
    if not inputs["questions"]:
        raise NoQuestions("There are no questions to evaluate on", hint='Send "questions", or "origins".')
    questions = [question_from(question) for question in inputs["questions"]]
    check_questions(questions)
    check_askable(questions, workspace.settings.max_question_chars)
    if body.max_false_answer_rate is not None:
        calibrated(workspace, arms, request_from(inputs))
    return accepted(workspace, runner, "evaluate", inputs, idempotency_key)


def _judge(workspace: Workspace) -> str:
    """Return the operator's judge: a URL from a request would make this server call any address."""
    if not workspace.settings.judge_url:
        raise InvalidRequest(
            "No judge is configured here",
            wanted="an OpenAI-compatible server with another model",
            hint="The operator names one with RAGTUNE_JUDGE_URL (and RAGTUNE_JUDGE_MODEL, RAGTUNE_JUDGE_API_KEY).",
        )
    return workspace.settings.judge_url


@router.get("", responses={200: {"model": models.EvaluationList}})
def list_evaluations(workspace: WorkspaceDep) -> dict[str, Any]:
    """Return the newest evaluations."""
    return {"evaluations": workspace.store.evaluations.list()}


@router.get("/{evaluation_id}")
def get_evaluation(evaluation_id: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """Return a result; while its job runs, the job's status and progress."""
    return _evaluation(workspace, evaluation_id)


@router.get("/{evaluation_id}/report", response_class=HTMLResponse)
def get_report(evaluation_id: str, workspace: WorkspaceDep) -> HTMLResponse:
    """Return the self-contained page of a finished evaluation."""
    found = _evaluation(workspace, evaluation_id)
    page = Path(found.get("folder", "")) / "index.html"
    if "folder" not in found or not page.is_file():
        raise UnknownEvaluation("This evaluation has no report (yet)", got=evaluation_id)
    return HTMLResponse(page.read_text(encoding="utf-8"))


def _evaluation(workspace: Workspace, evaluation_id: str) -> dict[str, Any]:
    try:
        return workspace.store.evaluations.get(evaluation_id)
    except UnknownEvaluation as error:
        try:
            job = workspace.store.jobs.get(evaluation_id)
        except UnknownJob:
            raise error from None
    if job.kind != "evaluate":
        raise UnknownEvaluation("This job is no evaluation", got=evaluation_id)
    if job.status == "succeeded":
        return workspace.store.evaluations.get(str(job.outputs["evaluation_id"]))
    return {"id": job.id, "status": job.status, "progress": job.progress, "error": job.error}
