"""What a collection adds to a question: its instructions, and how it is answered where the question does not say.

Knows nothing of who asks.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from data.prompt import prompt_version
from data.records import House
from service.arms import adapter_label
from service.asking import AskRequest
from service.starter import suggested_adapter

if TYPE_CHECKING:
    from data.store import Store
    from service.workspace import Workspace


def instructions_of(store: Store, ask: AskRequest) -> str:
    """Return the instructions that a question is asked under."""
    return store.houses.current(ask.collection).instructions if ask.instructions is None else ask.instructions


def with_defaults(store: Store, ask: AskRequest, given: Collection[str]) -> AskRequest:
    """Return ``ask`` with the collection's sampling defaults for what is not among the names ``given``."""
    sampling = store.houses.current(ask.collection).sampling
    return replace(ask, **{name: value for name, value in sampling.items() if name not in given})


def top_k_of(store: Store, collection: str, given: int | None) -> int:
    """Return how many passages a question reads: as many as ``given``, else the collection's own, else 4."""
    return with_defaults(store, AskRequest("", collection), ()).top_k if given is None else given


def house_view(house: House) -> dict[str, Any]:
    """Return a version of a collection's settings; ``prompt_version`` is that of the prompt they make."""
    return {**asdict(house), "prompt_version": prompt_version(house.instructions)}


def collection_view(workspace: Workspace, name: str) -> dict[str, Any]:
    """Return a collection: documents, index generation in use, settings, the adapter live in it, and one to name.

    What there is none of is null.

    Raises:
        UnknownCollection: there is none.
    """
    store = workspace.store
    generation = store.collections.current_generation(name)
    live = store.adapters.live(workspace.model.sha256, name)
    return {
        "name": name,
        "documents": store.documents.count(name),
        "index_generation": generation,
        "live_adapter": adapter_label(live) if live is not None else None,
        "suggested_adapter": suggested_adapter(workspace, name),
        **house_view(store.houses.current(name)),
    }
