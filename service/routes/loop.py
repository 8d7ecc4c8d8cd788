"""``/v1/loop``: start a round of the loop, and the rounds there were."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse
from pydantic import Field

from data.access import require
from data.errors import NotFound
from service.access import wants
from service.answerer import check_collection
from service.compare.run import check_questions
from service.compare.style import check_examples
from service.deps import ActorDep, IdempotencyKey, RunnerDep, WorkspaceDep, accepted
from service.loop import PROPOSALS
from service.measuring_schemas import EvaluationQuestions
from service.routes.adapters import checked_recipe
from service.schemas import Body
from service.work.evaluate import question_from

router = APIRouter(prefix="/loop", tags=["adapters"])
_ROUNDS = 50


class LoopBody(Body):
    """``POST /v1/loop``. The folders are those of RAGTUNE_LOOP_FOLDERS: a client names no paths."""

    collection: str = "default"
    name: str = Field("house", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    questions: EvaluationQuestions = Field(default_factory=list)
    style: list[str] = Field(default_factory=list, max_length=1000)
    recipe: dict[str, Any] = Field(default_factory=dict)
    proposals: int = Field(PROPOSALS, ge=0, le=100_000)
    top_k: int = Field(4, ge=1, le=50)
    seed: int = 0


@router.post("", status_code=202, response_model=None, dependencies=[wants("train", whole=True)])
def start_round(
    body: LoopBody,
    workspace: WorkspaceDep,
    runner: RunnerDep,
    actor: ActorDep,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Ingest, regenerate, train, evaluate, and promote if the policy lets it, as one job."""
    require("ingest")  # a round ingests, and removes what is gone from its folders
    check_collection(workspace.store, body.collection)
    check_examples(body.style)
    if body.questions:
        check_questions([question_from(question.model_dump()) for question in body.questions])
    recipe = checked_recipe(workspace, body.recipe)
    paths = [str(path.resolve()) for path in workspace.settings.loop_folders]
    inputs = body.model_dump() | {"recipe": recipe, "paths": paths, "actor": actor}
    return accepted(workspace, runner, "loop", inputs, idempotency_key)


@router.get("", dependencies=[wants("train", whole=True)])
def list_rounds(workspace: WorkspaceDep) -> dict[str, Any]:
    """Return the newest rounds: each job, with the record of its round once it is over."""
    return {"rounds": [asdict(job) for job in workspace.store.jobs.list(limit=_ROUNDS, kinds=("loop",))]}


@router.get("/{job_id}", dependencies=[wants("train", whole=True)])
def get_round(job_id: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """Return one round."""
    job = workspace.store.jobs.get(job_id)
    if job.kind != "loop":
        raise NotFound("This job is no round of the loop", got=job_id)
    return asdict(job)
