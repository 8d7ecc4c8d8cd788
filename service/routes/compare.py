"""``POST /v1/compare``: one question through several arms, side by side."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from fastapi import APIRouter, Request

from data.errors import ClientLeft, RagtuneError
from service.access import wants
from service.answerer import check_collection, check_question
from service.arms import find_adapter, resolve_arm
from service.deps import WorkspaceDep
from service.hangup import Hangup
from service.houses import with_defaults
from service.problems import problem
from service.schemas import CompareBody
from service.sse import until_left
from service.views import answer_view
from service.workspace import Workspace

router = APIRouter(tags=["answers"], dependencies=[wants("query")])


@router.post("/compare")
async def compare_answers(body: CompareBody, request: Request, workspace: WorkspaceDep) -> dict[str, Any]:
    """Answer through every arm named (by default all that can run) and each adapter, by arm.

    An adapter's bare name is its newest version, as in an evaluation; each answer says which it was.
    An arm that fails has an ``error`` in place of its answer; the others are answered all the same.
    """
    hangup: Hangup = request.app.state.hangups.new()
    return await until_left(request, hangup, lambda: _compare(body, workspace, hangup))


def _compare(body: CompareBody, workspace: Workspace, hangup: Hangup) -> dict[str, Any]:
    store, model = workspace.store, workspace.model
    check_question(body.question, workspace.settings.max_question_chars)
    check_collection(store, body.collection)
    live = store.adapters.live(model.sha256, body.collection) is not None
    names = body.arms if body.arms is not None else ["base", "rag", *(["tuned", "combined"] if live else [])]
    wanted = [*names, *body.adapters]
    arms = {name: resolve_arm(name, store, model, body.collection, named=find_adapter) for name in wanted}
    ask = with_defaults(store, body.ask(), body.model_fields_set)
    answers: dict[str, Any] = {}
    for name, arm in arms.items():
        try:
            answers[name] = answer_view(workspace.answerer.answer(replace(ask, arm=arm), hangup))
        except ClientLeft:
            raise
        except RagtuneError as error:
            answers[name] = {"error": problem(error)}
    return {"question": body.question, "collection": body.collection, "arms": answers}
