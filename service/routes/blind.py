"""``/v1/blind``: two arms answer as A and B; the vote, then what stood behind the letters; and what votes say."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from service.access import wants
from service.answerer import check_collection
from service.compare.blind import standings, start_trial, trial_view
from service.deps import WorkspaceDep
from service.hangup import Hangup
from service.houses import with_defaults
from service.measuring_schemas import BlindBody, VoteBody
from service.sse import until_left
from service.workspace import Workspace

router = APIRouter(prefix="/blind", tags=["answers"], dependencies=[wants("query")])


@router.post("", status_code=201)
async def start_blind(body: BlindBody, request: Request, workspace: WorkspaceDep) -> dict[str, Any]:
    """Let two arms answer a question as A and B; nothing in the reply says which is which."""
    hangup: Hangup = request.app.state.hangups.new()
    return await until_left(request, hangup, lambda: _start(body, workspace, hangup))


def _start(body: BlindBody, workspace: Workspace, hangup: Hangup) -> dict[str, Any]:
    check_collection(workspace.store, body.collection)
    ask = with_defaults(workspace.store, body.ask(), body.model_fields_set)
    return trial_view(start_trial(workspace, ask, body.arms, hangup))


@router.get("")
def get_standings(workspace: WorkspaceDep, collection: str = "default") -> dict[str, Any]:
    """Return what the votes of a collection say of every two arms: win rate, its interval, the sign test."""
    return standings(workspace, collection)


@router.get("/{trial_id}")
def get_blind(trial_id: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """Return a blind comparison; what stood behind the letters once its vote is in."""
    return trial_view(workspace.store.blind.get(trial_id))


@router.post("/{trial_id}/vote")
def vote(trial_id: str, body: VoteBody, workspace: WorkspaceDep) -> dict[str, Any]:
    """Say which answer is better, once; the reply tells what stood behind the letters."""
    return trial_view(workspace.store.blind.vote(trial_id, body.vote))
