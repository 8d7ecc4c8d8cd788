"""Where somebody stands and what comes next: what there is of each thing, and the next commands with why.

Reads the store alone: no model is loaded, no engine started.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import StarterMissing
from data.model_files import STARTER, STARTER_INSTALL, starter_gguf
from data.state import StateDirectory
from data.store import PairFilter, Store
from service.arms import adapter_label
from service.places import open_store

if TYPE_CHECKING:
    from collections.abc import Sequence

    from data.records import Adapter, Job, PairStatus
    from service.settings import Settings


@dataclass(frozen=True, slots=True)
class CollectionState:
    """What a collection holds; ``generation`` of its index is None before the first."""

    name: str
    documents: int
    chunks: int
    generation: int | None
    accepted_pairs: int
    candidate_pairs: int


@dataclass(frozen=True, slots=True)
class NextStep:
    """A command that makes sense now, and why."""

    command: str
    why: str


@dataclass(frozen=True, slots=True)
class Overview:
    """The state of an installation: ``model`` is what would answer, ``serving_at`` is None where nothing serves."""

    state_dir: str
    model: str
    serving_at: str | None
    collections: tuple[CollectionState, ...] = ()
    adapters: tuple[str, ...] = ()
    live: str | None = None
    jobs: dict[str, int] = field(default_factory=dict)
    next: tuple[NextStep, ...] = ()


def overview(settings: Settings) -> Overview:
    """Return what there is under the state directory, which need not exist and is not made."""
    state = StateDirectory(settings.state_dir)
    if settings.database_url is None and not state.db.is_file():
        first = (
            NextStep("ragtune ingest FOLDER", "your own documents, to ask questions about"),
            NextStep("ragtune demo", "the whole loop on the sample documents, in about ten minutes"),
        )
        model, missing = _model(settings, None)
        return Overview(str(state.root), model, None, next=(*missing, *first))
    holder = state.holder()
    with open_store(settings, state) as store:
        found = tuple(_collection(store, name) for name in store.collections.names())
        adapters = store.adapters.list()
        jobs = {status: store.jobs.list(status, 1000) for status in ("queued", "running", "failed", "interrupted")}
        live = next((adapter_label(adapter) for adapter in adapters if adapter.stage == "live"), None)
        serving_at = str(holder["url"]) if holder is not None and holder["url"] else None
        model, missing = _model(settings, store)
        return Overview(
            str(state.root),
            model,
            serving_at,
            found,
            tuple(f"{adapter_label(adapter)} ({adapter.stage})" for adapter in adapters),
            live,
            {status: len(rows) for status, rows in jobs.items() if rows},
            (*missing, *_next_steps(found, adapters, jobs["interrupted"] + jobs["failed"], serving_at)),
        )


def _model(settings: Settings, store: Store | None) -> tuple[str, tuple[NextStep, ...]]:
    """Return what would answer, as ``Workspace.model`` chooses it, and what has to be installed first."""
    name = settings.model
    if "model" not in settings.model_fields_set:
        if settings.engine_url:
            return "of the server at RAGTUNE_ENGINE_URL", ()
        default = store.models.default() if store else None
        name = default.name if default else name
    prepared = any(model.name == name and Path(model.gguf).exists() for model in (store.models.list() if store else ()))
    if name != STARTER or prepared:
        return name, ()
    try:
        starter_gguf()
    except StarterMissing:
        return f"{name} (not installed)", (NextStep(STARTER_INSTALL, "the packaged model, which answers"),)
    return name, ()


def _collection(store: Store, name: str) -> CollectionState:
    def pairs(status: PairStatus) -> int:
        return store.reviews.count(name, PairFilter(status=status))

    return CollectionState(
        name,
        store.documents.count(name),
        store.chunks.count(name),
        store.collections.current_generation(name),
        pairs("accepted"),
        pairs("candidate"),
    )


def _next_steps(
    collections: Sequence[CollectionState], adapters: Sequence[Adapter], stopped: Sequence[Job], url: str | None
) -> list[NextStep]:
    if not any(collection.documents for collection in collections):
        return [NextStep("ragtune ingest FOLDER", "there are no documents yet")]
    steps = [NextStep(f"ragtune jobs show {job.id}", f"a job to {job.kind} is {job.status}") for job in stopped[:1]]
    filled = [collection for collection in collections if collection.documents]
    if not any(collection.accepted_pairs or collection.candidate_pairs for collection in filled):
        option = "" if filled[0].name == "default" else f" --collection {filled[0].name}"
        steps.append(NextStep(f"ragtune ask QUESTION{option}", "the documents are searched and answered from"))
    if url is None:
        steps.append(NextStep("ragtune serve", "answer over HTTP and in a browser"))
    for collection in collections:
        option = "" if collection.name == "default" else f" --collection {collection.name}"
        if collection.candidate_pairs:
            why = f"{collection.candidate_pairs} pairs of {collection.name} wait for a decision"
            steps.append(NextStep(f"ragtune pairs list --status candidate{option}", why))
        elif collection.documents and not collection.accepted_pairs:
            steps.append(NextStep(f"ragtune pairs generate{option}", f"pairs of {collection.name} to train on"))
    own = [adapter for adapter in adapters if "collection" in adapter.lineage]
    trainable = [collection for collection in collections if collection.accepted_pairs]
    if trainable and not own:
        option = "" if trainable[0].name == "default" else f" --collection {trainable[0].name}"
        steps.append(NextStep(f"ragtune train --name house{option}", f"{trainable[0].accepted_pairs} accepted pairs"))
    waiting = [adapter for adapter in own if adapter.stage == "candidate"]
    if waiting:
        name = adapter_label(waiting[-1])
        steps.append(NextStep(f"ragtune compare --questions FILE --adapter {name}", "is it better on your questions?"))
        steps.append(NextStep(f"ragtune adapters promote {name}", "then answers come from it"))
    return steps
