"""``/v1/collections``: which there are, and each one's own instructions and sampling defaults."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from pydantic import Field, model_validator

from data.access import require_collection
from data.state import check_name
from data.store import MAX_INSTRUCTIONS
from service import api_models as models
from service.access import wants
from service.deps import ActorDep, WorkspaceDep
from service.houses import collection_view, house_view
from service.schemas import Body

router = APIRouter(prefix="/collections", tags=["documents"])
_READERS = wants("query", "ingest", "train")


class SamplingDefaults(Body):
    """What a question takes that does not say; left out: what every collection has."""

    temperature: float | None = Field(None, ge=0, le=2, description="0 (greedy) for every collection")
    max_tokens: int | None = Field(None, ge=1, le=8192, description="256 for every collection")
    top_k: int | None = Field(None, ge=1, le=50, description="passages; 4 for every collection")


class HouseBody(Body):
    """``PUT /v1/collections/{name}``: what holds from now on, whole; or ``version``, to go back to what held then."""

    instructions: str = Field("", max_length=MAX_INSTRUCTIONS)
    sampling: SamplingDefaults = Field(default_factory=lambda: SamplingDefaults.model_validate({}))
    version: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _one_of_both(self) -> HouseBody:
        if self.version is not None and self.model_fields_set - {"version"}:
            raise ValueError("version stands alone: it brings its instructions and sampling with it")
        return self


@router.get("", dependencies=[_READERS], responses={200: {"model": models.CollectionList}})
def list_collections(workspace: WorkspaceDep) -> dict[str, Any]:
    """Return every collection with its documents, index generation in use (or null), settings and live adapter."""
    return {"collections": [collection_view(workspace, name) for name in workspace.store.collections.names()]}


@router.get("/{name}", dependencies=[_READERS], responses={200: {"model": models.CollectionDetails}})
def get_collection(name: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """Return one of them, with every version of its settings, the newest first."""
    view = collection_view(workspace, name)
    return {**view, "versions": [house_view(each) for each in workspace.store.houses.history(name)]}


@router.put("/{name}", dependencies=[wants("train")], responses={200: {"model": models.CollectionDetails}})
def put_collection(name: str, body: HouseBody, workspace: WorkspaceDep, actor: ActorDep) -> dict[str, Any]:
    """Set a collection's instructions and sampling defaults, as a new version; a new collection is created.

    Adapters that were trained under other instructions are stale from then on, and calibrations no longer fit.
    """
    require_collection(check_name(name, "collection name"))
    store = workspace.store
    text, sampling = body.instructions, body.sampling.model_dump()
    if body.version is not None:
        wanted = store.houses.get(name, body.version)
        text, sampling = wanted.instructions, dict(wanted.sampling)
    store.collections.ensure(name)
    store.houses.put(name, text, sampling, actor)
    return get_collection(name, workspace)
