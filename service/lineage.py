"""What an answer, an adapter or a document rests on, and what rests on it.

The store keeps the links; here they are written for a training, and shown with what they name. Knows
nothing of how adapters are trained, of HTTP or of the command line.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from data.errors import NotFound, StaleAdapter, UnknownAdapter
from data.prompt import prompt_version
from data.records import Adapter, QAPair, content_id
from data.store import GOLD, KINDS, ChunkLink, Kind, Links, TrainedRow, scope_of
from service.arms import adapter_label, find_adapter

if TYPE_CHECKING:
    from data.store import Store
    from retrieval.examples import TrainingExample

STALE: Mapping[str, str] = {
    "documents": "a document it was trained on was edited or deleted since",
    "prompt": "it was trained under other instructions than the collection has now",
}
"""What each reason of ``stale_because`` means."""
SHOWN_CHARACTERS = 80
"""Length at which a question or a chunk is cut where it only tells what an id stands for."""


def stale_because(store: Store, adapter: Adapter, instructions: str | None = None) -> tuple[str, ...]:
    """Return what changed since ``adapter`` was trained; nothing if it is as good as new.

    "documents": one that its pairs rest on was edited or deleted. "prompt": it was trained under another prompt than
    that with ``instructions``; None stands for those of the collection it was trained in. One that was brought from
    elsewhere and does not say under which prompt is not held against any.
    """
    found = ("documents",) if store.lineage.is_stale(adapter.name, adapter.version) else ()
    collection = scope_of(adapter)
    if instructions is None and collection is not None:
        instructions = store.houses.current(collection).instructions
    if instructions is not None and _trained_under(adapter) not in ("", prompt_version(instructions)):
        return (*found, "prompt")
    return found


def _trained_under(adapter: Adapter) -> str:
    """Return the version of the prompt an adapter was trained under, "" where nobody knows.

    Trainings before there were houses kept none: there was one prompt only.
    """
    lineage = adapter.lineage
    if lineage.get("origin") == "import":
        return str((lineage.get("elsewhere") or {}).get("prompt", ""))
    return str(lineage.get("prompt") or prompt_version())


def is_stale(store: Store, adapter: Adapter, instructions: str | None = None) -> bool:
    """Tell whether anything changed since ``adapter`` was trained, as ``stale_because`` tells."""
    return bool(stale_because(store, adapter, instructions))


def check_fresh(store: Store, adapter: Adapter, instructions: str | None = None) -> None:
    """Refuse an adapter that is stale.

    Raises:
        StaleAdapter: a document it was trained on was edited or deleted, or the prompt changed.
    """
    because = stale_because(store, adapter, instructions)
    if because:
        raise StaleAdapter(
            f"{adapter_label(adapter)} is stale: {'; '.join(STALE[each] for each in because)}",
            got=adapter_label(adapter),
            wanted="an adapter trained on what is there now (RAGTUNE_REFUSE_STALE_ADAPTERS is set)",
            hint=f"Train it again: ragtune train --name {adapter.name}; until then ask with mode rag.",
        )


def trained_rows(
    store: Store, pairs: Sequence[QAPair], examples: Sequence[TrainingExample], rows: Sequence[Mapping[str, Any]]
) -> list[TrainedRow]:
    """Return what links an adapter to the ``rows`` it is trained on, each made of the example at its place.

    ``examples`` were made of ``pairs``.
    """
    rests_on = {pair.id: pair.chunk_ids for pair in pairs}
    chunks = store.chunks.by_ids({chunk_id for ids in rests_on.values() for chunk_id in ids})
    linked = []
    for example, row in zip(examples, rows, strict=True):
        gold = [chunks[chunk_id] for chunk_id in rests_on.get(example.pair_id, ()) if chunk_id in chunks]
        links = [ChunkLink(chunk.id, chunk.document_id, source, GOLD) for chunk, source, _title in gold]
        shown = [passage for passage in example.passages if passage.origin != "altered"]  # no document has those
        links += [ChunkLink(p.chunk.id, p.chunk.document_id, p.source) for p in shown]
        digest = content_id(json.dumps(row, ensure_ascii=False, sort_keys=True))
        linked.append(TrainedRow(digest, example.pair_id, tuple(links)))
    return linked


def adapters_trained_on(store: Store, document_id: str) -> list[dict[str, Any]]:
    """Return ``{"adapter", "stage", "role"}`` of each adapter whose training used a document.

    ``role`` is "gold" where a pair rests on the document (the adapter is stale once it is gone), and "shown" where
    its text was only among the passages of a row.
    """
    stages = {adapter_label(adapter): adapter.stage for adapter in store.adapters.list()}
    found = [(f"{on.name}@{on.version}", on.role) for on in store.lineage.trained_on(document_id)]
    return [{"adapter": label, "stage": stages.get(label), "role": role} for label, role in found]


def resolve(store: Store, name: str) -> tuple[Kind, str]:
    """Return the kind and the id of what ``name`` names: an adapter, a document's source, or an id of any kind.

    Raises:
        NotFound: nothing is or was called so.
    """
    try:
        return "adapter", adapter_label(find_adapter(store, name))
    except UnknownAdapter as error:
        closest = error.hint
    kinds = store.lineage.kinds_of(name)
    if kinds:
        return kinds[0], name
    at = store.lineage.documents_at(name)
    if at:
        return "document", at[0]
    hint = closest if closest.startswith("Did you mean") else "ragtune adapters list, pairs list and search show ids."
    wanted = f"a document's source, an adapter, or the id of a {', '.join(KINDS)}"
    raise NotFound("Nothing is or was called so", got=name, wanted=wanted, hint=hint)


def trace(store: Store, kind: Kind, identity: str, limit: int = 100) -> dict[str, Any]:
    """Return what something was made from and what was made from it, each thing by its hash and whether it is there.

    Args:
        store: where the links are.
        kind: one of ``data.store.KINDS``.
        identity: its id; of an adapter its name (the newest version) or ``name@version``.
        limit: most things shown of each kind; ``totals`` counts all.

    Returns:
        ``{"kind", "id", "present", …what it is…, "made_from": {kind: [thing]}, "used_by": {kind: [thing]}, "totals"}``;
        a document has ``versions`` too, the ids that its source has had.

    Raises:
        InvalidRequest: an unknown kind, or a bad limit.
        NotFound: nothing has or had this id.
    """
    if kind == "adapter" and "@" not in identity:
        identity = adapter_label(find_adapter(store, identity))
    found = store.lineage.trace(kind, identity, limit)
    (thing,) = _things(store, kind, (identity,))
    if kind == "document" and thing.get("source"):
        thing["versions"] = [other for other in store.lineage.documents_at(thing["source"]) if other != identity]
    return {
        "kind": kind,
        **thing,
        "made_from": {other: _things(store, other, links.ids) for other, links in found.made_from.items()},
        "used_by": {other: _things(store, other, links.ids) for other, links in found.used_by.items()},
        "totals": _totals(found.made_from) | _totals(found.used_by),
    }


def _totals(links: Mapping[Kind, Links]) -> dict[Kind, int]:
    return {kind: found.total for kind, found in links.items()}


def _things(store: Store, kind: Kind, ids: tuple[str, ...]) -> list[dict[str, Any]]:
    present = store.lineage.present(kind, ids)
    describe = _DESCRIBED[kind]
    return [
        {"id": identity, "present": identity in present, **(describe(store, identity) if identity in present else {})}
        for identity in ids
    ]


def _document(store: Store, identity: str) -> dict[str, Any]:
    row = store.documents.row(identity)
    return {"source": row.source, "sha256": row.sha256, "collection": row.collection}


def _chunk(store: Store, identity: str) -> dict[str, Any]:
    chunk = store.chunks.get(identity)
    shown = {"document_id": chunk.document_id, "start": chunk.start, "end": chunk.end, "text": _cut(chunk.text)}
    return {**shown, "sha256": content_id(chunk.text)}


def _pair(store: Store, identity: str) -> dict[str, Any]:
    pair = store.pairs.get(identity)
    digest = content_id(pair.question, pair.answer)
    return {"question": _cut(pair.question), "status": pair.status, "stale": pair.stale, "sha256": digest}


def _row(_store: Store, identity: str) -> dict[str, Any]:
    return {"sha256": identity}


def _adapter(store: Store, identity: str) -> dict[str, Any]:
    adapter = find_adapter(store, identity)
    return {
        "stage": adapter.stage,
        "stale": is_stale(store, adapter),
        "base_model": adapter.base_model,
        "base_sha256": adapter.base_sha256,
        "rows_sha256": adapter.rows_sha256,
        "sha256": adapter.lineage.get("weights_sha256"),
    }


def _answer(store: Store, identity: str) -> dict[str, Any]:
    row = store.answers.get(identity)
    return {
        "question": _cut(row.question),
        "index_generation": row.answer.index_generation,
        "adapter_stale": row.answer.adapter_stale,
        "sha256": content_id(row.question, row.answer.text),
    }


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= SHOWN_CHARACTERS else f"{flat[:SHOWN_CHARACTERS]}…"


_DESCRIBED: dict[Kind, Callable[[Store, str], dict[str, Any]]] = {
    "document": _document,
    "chunk": _chunk,
    "pair": _pair,
    "row": _row,
    "adapter": _adapter,
    "answer": _answer,
}
