"""``/v1/retrievers``: tune, list, promote and delete embedders."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from service.access import wants
from service.answerer import check_collection
from service.deps import ActorDep, IdempotencyKey, RunnerDep, WorkspaceDep, accepted
from service.retrievers import BASE, check_gain, check_new_name, retriever_view
from service.routes.adapters import no_accepted_pairs
from service.schemas import PromoteRetrieverBody, TuneRetrieverBody

router = APIRouter(prefix="/retrievers", tags=["retrieval"])


@router.post("", status_code=202, response_model=None, dependencies=[wants("train")])
def tune_retriever(
    body: TuneRetrieverBody, workspace: WorkspaceDep, runner: RunnerDep, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Tune the embedder on the collection's accepted pairs, as a job."""
    check_new_name(body.name)
    check_collection(workspace.store, body.collection)
    if not workspace.store.pairs.list(body.collection, "accepted", limit=1)[0]:
        raise no_accepted_pairs(body.collection)
    return accepted(workspace, runner, "tune_retriever", body.model_dump(), idempotency_key)


@router.get("", dependencies=[wants("train")])
def list_retrievers(workspace: WorkspaceDep) -> dict[str, Any]:
    """Return every version of every tuned embedder."""
    return {"retrievers": [retriever_view(workspace.tuned, one) for one in workspace.tuned.all()]}


@router.get("/{name}", dependencies=[wants("train")])
def get_retriever(name: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """Return ``name`` (its newest version) or ``name@version``."""
    return retriever_view(workspace.tuned, workspace.tuned.get(name))


@router.post("/{name}/promote", status_code=202, response_model=None, dependencies=[wants("train")])
def promote_retriever(
    *,
    name: str,
    workspace: WorkspaceDep,
    runner: RunnerDep,
    actor: ActorDep,
    body: PromoteRetrieverBody | None = None,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Index the collection anew with a tuned embedder (``base``: the configured one), as a job; refused at once."""
    body = body or PromoteRetrieverBody(reason="")
    inputs: dict[str, Any] = {"name": name, **body.model_dump(), "actor": actor}
    if name == BASE:
        check_collection(workspace.store, body.collection or "default")
    else:
        one = workspace.tuned.get(name)
        inputs |= {"name": one.label, "collection": body.collection or one.collection}
        check_collection(workspace.store, inputs["collection"])
        live = workspace.embedders.of(inputs["collection"]).fingerprint
        if not body.force and live != one.fingerprint:
            check_gain(one, inputs["collection"], live)
    return accepted(workspace, runner, "promote_retriever", inputs, idempotency_key)


@router.delete("/{name}", dependencies=[wants("train")])
def delete_retriever(name: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """Delete every version of a tuned embedder, or ``name@version``; a live one stays."""
    return {"deleted": [one.label for one in workspace.tuned.delete(name)]}
