"""``/v1/index``: the state of a collection's index, its generations, rebuild, verify, compact and rollback."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from data.records import StageNote
from service.access import wants
from service.answerer import check_collection
from service.deps import ActorDep, IdempotencyKey, RunnerDep, WorkspaceDep, accepted
from service.schemas import CollectionBody, VerifyBody

router = APIRouter(prefix="/index", tags=["retrieval"])


@router.get("", dependencies=[wants("query", "ingest", "train")])
def index_status(workspace: WorkspaceDep, collection: str = "default") -> dict[str, Any]:
    """Return what is indexed and with what."""
    check_collection(workspace.store, collection)
    return workspace.ingestor.status(collection)


@router.post("/rebuild", status_code=202, response_model=None, dependencies=[wants("ingest")])
def rebuild_index(
    body: CollectionBody, workspace: WorkspaceDep, runner: RunnerDep, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Build a new generation from the stored documents, as a job."""
    check_collection(workspace.store, body.collection)
    return accepted(workspace, runner, "rebuild", {"collection": body.collection}, idempotency_key)


@router.post("/verify", status_code=202, response_model=None, dependencies=[wants("ingest")])
def verify_index(
    body: VerifyBody, workspace: WorkspaceDep, runner: RunnerDep, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Check every invariant of the index against the store, as a job; repair what can be if wished."""
    check_collection(workspace.store, body.collection)
    inputs = {"collection": body.collection, "repair": body.repair}
    return accepted(workspace, runner, "verify", inputs, idempotency_key)


@router.post("/compact", status_code=202, response_model=None, dependencies=[wants("ingest")])
def compact_index(
    body: CollectionBody, workspace: WorkspaceDep, runner: RunnerDep, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Give back the space of what nothing needs any more, as a job."""
    check_collection(workspace.store, body.collection)
    return accepted(workspace, runner, "compact", {"collection": body.collection}, idempotency_key)


@router.get("/generations", dependencies=[wants("query", "ingest", "train")])
def list_generations(workspace: WorkspaceDep, collection: str = "default") -> dict[str, Any]:
    """Return the generations, oldest first, and which one is in use."""
    check_collection(workspace.store, collection)
    return {
        "collection": collection,
        "current": workspace.store.collections.current_generation(collection),
        "generations": [asdict(row) for row in workspace.store.generations.list(collection)],
    }


@router.post("/rollback", dependencies=[wants("ingest")])
def rollback_index(body: CollectionBody, workspace: WorkspaceDep, actor: ActorDep) -> dict[str, Any]:
    """Use the generation before the current one."""
    check_collection(workspace.store, body.collection)
    workspace.ingestor.rollback(body.collection, StageNote(actor))
    return {
        "collection": body.collection,
        "index_generation": workspace.store.collections.current_generation(body.collection),
    }
