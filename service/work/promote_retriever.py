"""The ``promote_retriever`` job: a collection is indexed anew with a tuned embedder, then searched with it.

Inputs: ``name`` (``base`` is the configured embedder), ``collection``, ``force`` (no gate), ``actor`` and ``reason``
(for the log). The old generation is searched until the new one takes over, embedder and all; ``index rollback`` goes
back.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from data.errors import GainUnproven, UnknownRetriever
from data.protocols import Report
from data.records import StageNote
from service.answerer import check_collection, nothing_indexed
from service.retrievers import BASE, check_gain, gain_of

if TYPE_CHECKING:
    from retrieval.tuned import TunedEmbedder
    from service.workspace import Workspace


def run(workspace: Workspace, inputs: dict[str, Any], report: Report) -> dict[str, Any]:
    """Promote; return the retriever's label, the collection and its generation.

    Raises:
        UnknownRetriever: there is none.
        GainUnproven: it was not measured to find more than the one in use.
        NothingIndexed: no document was ever ingested.
    """
    one = None if inputs["name"] == BASE else workspace.tuned.get(inputs["name"])
    collection = inputs.get("collection") or (one.collection if one else "default")
    check_collection(workspace.store, collection)
    live = workspace.embedders.indexed_with(collection) or workspace.embedder.fingerprint
    wanted = one.fingerprint if one else workspace.embedder.fingerprint
    if one is not None and live != wanted:
        _check(workspace, inputs, one, collection, live)
    embedder = workspace.embedders.named(wanted)
    if embedder is None:
        raise UnknownRetriever("The retriever is gone.", got=inputs["name"])
    generation = workspace.store.collections.current_generation(collection)
    if live != wanted or generation is None:  # else a run before this one was stopped after the swap
        generation = workspace.ingestor.rebuild(collection, report, embedder=embedder)
    if generation is None:
        raise nothing_indexed(collection)
    if one is not None and all(each["generation"] != generation for each in one.promoted):
        workspace.tuned.note_promotion(one, collection, generation)
    label = one.label if one else BASE
    if live != wanted:
        _log(workspace, inputs, label, "promoted", between=(live, wanted), gain=gain_of(one) if one else {})
    return {"retriever": label, "collection": collection, "index_generation": generation}


def _check(workspace: Workspace, inputs: dict[str, Any], one: TunedEmbedder, collection: str, live: str) -> None:
    """Refuse what was not measured to find more, unless it is forced; a refusal is logged."""
    if inputs.get("force", False):
        return
    try:
        check_gain(one, collection, live)
    except GainUnproven as error:
        refused = {**inputs, "reason": str(error)}
        _log(workspace, refused, one.label, "refused", between=(live, live), gain=gain_of(one))
        raise


def _log(
    workspace: Workspace,
    inputs: dict[str, Any],
    label: str,
    event: str,
    *,
    between: tuple[str, str],
    gain: dict[str, Any],
) -> None:
    forced = f"forced: {inputs.get('reason') or 'no reason given'}" if inputs.get("force") else ""
    reason = forced or inputs.get("reason") or "it was measured to find more"
    note = StageNote(inputs.get("actor", "promote_retriever job"), reason, gain)
    workspace.store.stages.add("retriever", label, event, between=between, note=note)
