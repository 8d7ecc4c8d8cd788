"""``/v1/adapters``: train, list, promote, roll back, import and delete adapters."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import PurePath
from typing import Annotated, Any, BinaryIO

from fastapi import APIRouter, File, Form, UploadFile
from fastapi.responses import JSONResponse

from data.access import MACHINE, acting, current, require_whole
from data.errors import Forbidden, InvalidModel, NoAcceptedPairs, RagtuneError, RecipeInvalid
from data.records import Adapter
from data.state import check_name
from data.store import scope_of
from finetune.recipe import Recipe, preset_values
from service import api_models as models
from service import promotion
from service.access import wants
from service.adapters import IMPORTABLE, delete_adapter, read_importable, unpacked
from service.answerer import check_collection
from service.arms import adapter_label, find_adapter
from service.deps import ActorDep, IdempotencyKey, RunnerDep, WorkspaceDep, accepted
from service.evidence import shadow_summary
from service.lineage import stale_because
from service.policy import load_policy
from service.schemas import PromoteBody, StageBody, TrainBody
from service.serving import require_weights
from service.uploads import UPLOAD, discard_upload, keep_for_job
from service.views import adapter_view
from service.workspace import Workspace

router = APIRouter(prefix="/adapters", tags=["adapters"])

LARGEST_BYTES = 1 << 30
"""An adapter file over one gibibyte is no LoRA of a model this server would serve."""


@router.post(
    "", status_code=202, response_model=None, dependencies=[wants("train")], responses={202: {"model": models.Accepted}}
)
def train_adapter(
    body: TrainBody, workspace: WorkspaceDep, runner: RunnerDep, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Train an adapter on the collection's accepted pairs, as a job."""
    return accepted(workspace, runner, "train", _training(body, workspace), idempotency_key)


@router.post("/estimate", status_code=202, response_model=None, dependencies=[wants("train")])
def estimate_training(
    body: TrainBody, workspace: WorkspaceDep, runner: RunnerDep, idempotency_key: IdempotencyKey = None
) -> JSONResponse:
    """Measure how long that training would take and how much memory it would need, as a job; train nothing."""
    return accepted(workspace, runner, "estimate", _training(body, workspace), idempotency_key)


def _training(body: TrainBody, workspace: Workspace) -> dict[str, Any]:
    """Return the inputs of the job, the recipe as its fields.

    Raises:
        Forbidden: a key bound to collections would take the name of an adapter that is not its own.
        RecipeInvalid: as ``checked_recipe``, or there is no packaged recipe of that name.
        NoAcceptedPairs: there is nothing to train on.
        UnknownCollection: there is none of that name.
    """
    check_collection(workspace.store, body.collection)
    _check_name(workspace, body.name)
    values = checked_recipe(workspace, preset_values(body.recipe) if isinstance(body.recipe, str) else body.recipe)
    if not workspace.store.pairs.list(body.collection, "accepted", limit=1)[0]:
        raise no_accepted_pairs(body.collection)
    return {**body.model_dump(), "recipe": values}


def _check_name(workspace: Workspace, name: str) -> None:
    """Keep a bound key from adding a version to an adapter of others, which they would then promote.

    Raises:
        Forbidden: the name is in use elsewhere.
    """
    own = {adapter.version for adapter in workspace.store.adapters.list(name) if "collection" in adapter.lineage}
    with acting(MACHINE):
        known = {adapter.version for adapter in workspace.store.adapters.list(name)}
    if current().collections and known - own:
        raise Forbidden("This key may not train under that name", got=name, wanted="a name of its own")


def checked_recipe(workspace: Workspace, values: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a recipe, its ``init_adapter`` as ``name@version``: refused now is what would fail later.

    Raises:
        RecipeInvalid: an unknown field, an impossible value, or a path as ``init_adapter``.
        UnknownAdapter: there is no adapter of that name that the key may know.
    """
    start = Recipe.from_mapping(values).init_adapter
    if not start:
        return values
    if "/" in start or "\\" in start or start.startswith("."):
        raise RecipeInvalid("Over HTTP an adapter starts from a registered one", got=start, wanted="an adapter's name")
    return {**values, "init_adapter": adapter_label(find_adapter(workspace.store, start))}


def no_accepted_pairs(collection: str) -> NoAcceptedPairs:
    """Return the error for a collection that has no pairs to train on."""
    return NoAcceptedPairs(
        "There are no accepted pairs to train on",
        got=collection,
        hint="Make some with: ragtune pairs generate, or import them with: ragtune pairs import",
    )


@router.get("", dependencies=[wants("query", "train")], responses={200: {"model": models.AdapterList}})
def list_adapters(workspace: WorkspaceDep) -> dict[str, Any]:
    """Return every version of every adapter."""
    return {"adapters": [_view(workspace, adapter) for adapter in workspace.store.adapters.list()]}


@router.get("/{name}", dependencies=[wants("query", "train")], responses={200: {"model": models.Adapter}})
def get_adapter(name: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """Return ``name`` (its newest version) or ``name@version``, with the history of all its versions."""
    adapter = find_adapter(workspace.store, name)
    shadow = shadow_summary(workspace.store, adapter)
    return {**_view(workspace, adapter), "shadow": shadow, "history": _history(workspace, adapter.name)}


@router.get("/{name}/decision", dependencies=[wants("train", "query")])
def get_decision(name: str, workspace: WorkspaceDep) -> dict[str, Any]:
    """Return what the promotion policy says about an adapter now: every rule, its figure and its bound."""
    adapter = find_adapter(workspace.store, name)
    policy = load_policy(workspace.settings.promotion_policy)
    return promotion.decision_on(workspace.store, adapter, policy).view()


@router.post("/rollback", dependencies=[wants("train")], responses={200: {"model": models.Adapter}})
def rollback_adapter(
    workspace: WorkspaceDep, actor: ActorDep, body: StageBody | None = None, collection: str = "default"
) -> dict[str, Any]:
    """Make the adapter live again that answered in the collection before."""
    check_collection(workspace.store, collection)
    live = workspace.store.adapters.live(workspace.model.sha256, collection)
    if live is None or scope_of(live) is None:
        require_whole()  # what answers here answers elsewhere too
    reason = body.reason if body is not None else ""
    done = promotion.rollback(workspace.store, workspace.model, collection, actor=actor, reason=reason)
    return _promotion(workspace, done)


@router.post("/import", status_code=202, response_model=None, dependencies=[wants("train", whole=True)])
def import_files(
    name: Annotated[str, Form()],
    files: Annotated[
        list[UploadFile],
        File(description=f"{', '.join(IMPORTABLE)} (the last is optional), or the ZIP file of a training elsewhere."),
    ],
    workspace: WorkspaceDep,
    runner: RunnerDep,
    idempotency_key: IdempotencyKey = None,
) -> JSONResponse:
    """Keep a peft LoRA trained elsewhere, then answer 202 with the job that makes it a candidate.

    The job converts it, compares the GGUF with it and registers it; its outputs are the adapter.
    """
    check_name(name, "adapter name")
    about = f"import_adapter {name}"
    if len(files) == 1 and (files[0].filename or "").lower().endswith(".zip"):
        with unpacked(workspace.state, files[0].file) as made, ExitStack() as opened:
            found = {file: opened.enter_context((made / file).open("rb")) for file in IMPORTABLE}
            folder = keep_for_job(workspace.state, found, LARGEST_BYTES, about=about, key=idempotency_key)
    else:
        folder = keep_for_job(workspace.state, _files(files), LARGEST_BYTES, about=about, key=idempotency_key)
    inputs = {"name": name, "folder": str(folder), UPLOAD: folder.name}
    try:
        read_importable(folder, require_weights(workspace.model))
    except RagtuneError:
        discard_upload(workspace.state, inputs)
        raise
    return accepted(workspace, runner, "import_adapter", inputs, idempotency_key)


def _files(files: list[UploadFile]) -> dict[str, BinaryIO]:
    """Return an adapter's files by their names.

    Raises:
        InvalidModel: one is none of them, or came twice.
    """
    content: dict[str, BinaryIO] = {}
    for file in files:
        found = PurePath(file.filename or "").name
        if found not in IMPORTABLE or found in content:
            detail = "A file of the adapter was sent twice" if found in content else "This is no file of an adapter"
            raise InvalidModel(detail, got=file.filename, wanted=", ".join(IMPORTABLE))
        content[found] = file.file
    return content


@router.post("/{name}/promote", dependencies=[wants("train")], responses={200: {"model": models.Adapter}})
def promote_adapter(
    name: str, workspace: WorkspaceDep, actor: ActorDep, body: PromoteBody | None = None
) -> dict[str, Any]:
    """Make an adapter the live one if the policy lets it; the one before it is retired."""
    chosen, settings = body or PromoteBody(version=None, reason=""), workspace.settings
    _check_own(workspace, name, chosen.version)
    gate = promotion.Gate(
        policy=load_policy(settings.promotion_policy),
        refuse_stale=settings.refuse_stale_adapters,
        force=chosen.force,
        actor=actor,
        reason=chosen.reason,
    )
    return _promotion(workspace, promotion.promote(workspace.store, workspace.model, name, chosen.version, gate=gate))


@router.post("/{name}/shadow", dependencies=[wants("train")])
def shadow_adapter(
    name: str, workspace: WorkspaceDep, actor: ActorDep, body: StageBody | None = None
) -> dict[str, Any]:
    """Let an adapter answer a share of the real questions in the shadow; nobody sees what it says."""
    _check_own(workspace, name)
    reason = body.reason if body is not None else ""
    done = promotion.shadow(workspace.store, workspace.model, name, actor=actor, reason=reason)
    return _view(workspace, done)


@router.post("/{name}/retire", dependencies=[wants("train")])
def retire_adapter(
    name: str, workspace: WorkspaceDep, actor: ActorDep, body: StageBody | None = None
) -> dict[str, Any]:
    """Take an adapter out of service; if it was live, answers come without one afterwards."""
    _check_own(workspace, name)
    reason = body.reason if body is not None else ""
    return _view(workspace, promotion.retire(workspace.store, name, actor=actor, reason=reason))


@router.delete("/{name}", dependencies=[wants("train")])
def remove_adapter(name: str, workspace: WorkspaceDep, actor: ActorDep, version: int | None = None) -> dict[str, Any]:
    """Delete every version of an adapter, or the one named."""
    found = workspace.store.adapters.list(name)
    chosen = [adapter for adapter in found if version in (None, adapter.version)]
    if any("collection" not in adapter.lineage or adapter.stage in ("live", "shadow") for adapter in chosen):
        require_whole()  # it serves, or may serve, every collection
    gone = delete_adapter(workspace, name, version, actor=actor)
    return {"deleted": [adapter_label(adapter) for adapter in gone]}


def _check_own(workspace: Workspace, name: str, version: int | None = None) -> None:
    """Let a key that is bound to collections change the stage of their adapters only.

    Raises:
        Forbidden: the adapter serves, or may serve, every collection.
        UnknownAdapter: there is none that the key may know.
    """
    adapter = find_adapter(workspace.store, name if version is None or "@" in name else f"{name}@{version}")
    if scope_of(adapter) is None:
        require_whole()


def _history(workspace: Workspace, name: str) -> list[dict[str, Any]]:
    """Return what happened to an adapter; to a bound key only to the versions that it may know."""
    seen = {adapter.version for adapter in workspace.store.adapters.list(name)}
    history = workspace.store.adapters.history(name)
    return [event for event in history if event["version"] in seen] if current().collections else history


def _view(workspace: Workspace, adapter: Adapter) -> dict[str, Any]:
    return adapter_view(adapter, stale=stale_because(workspace.store, adapter))


def _promotion(workspace: Workspace, done: promotion.Promotion) -> dict[str, Any]:
    before = adapter_label(done.before) if done.before is not None else None
    decision = done.decision.view() if done.decision is not None else None
    return {**_view(workspace, done.live), "before": before, "decision": decision}
