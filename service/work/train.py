"""The ``train`` job: accepted pairs become an adapter that is exported, compared and registered.

Inputs: ``name``, ``collection``, ``recipe`` (fields of ``finetune.recipe.Recipe``), ``top_k``,
``promote``. The work happens in one folder for each adapter name, so that a job that was stopped goes
on there; the folder becomes the adapter's version when everything is in it.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import ForgettingExceeded, ParityFailed, PromotionRefused, StaleAdapter
from data.prompt import prompt_version
from data.protocols import Report
from data.records import Adapter, Progress, content_id
from data.state import check_name, map_os_error, sha256_file, sync_tree, write_atomic
from service.adapter_files import ADAPTER_CONFIG, ADAPTER_GGUF, ADAPTER_WEIGHTS, GGUF_SHA256
from service.forgetting import measure_forgetting
from service.lineage import stale_because, trained_rows
from service.parity import measure_parity
from service.policy import load_policy
from service.promotion import Gate, promote
from service.serving import require_weights
from service.training_set import training_set
from service.views import adapter_view

if TYPE_CHECKING:
    from data.store import TrainedRow
    from finetune.rows import RowSet
    from finetune.train import TrainResult
    from service.training_set import TrainingSet
    from service.workspace import Workspace

_FILES = (
    ADAPTER_WEIGHTS,
    ADAPTER_CONFIG,
    ADAPTER_GGUF,
    "recipe.toml",
    "train_log.jsonl",
    "train.jsonl",
    "eval.jsonl",
    "manifest.json",
)


def run(workspace: Workspace, inputs: dict[str, Any], report: Report) -> dict[str, Any]:
    """Train on the collection's accepted pairs; return the adapter, its metrics and its parity.

    Raises:
        RecipeInvalid: the recipe has an unknown field or an impossible value.
        NoAcceptedPairs: there is nothing to train on.
        ParityFailed: the GGUF does not answer like what was trained.
    """
    from finetune.weights import check_four_bits, training_device

    name, collection = check_name(inputs["name"], "adapter name"), inputs.get("collection", "default")
    if (inputs.get("recipe") or {}).get("qlora"):
        # Before the rows are made, which takes a search for every pair.
        check_four_bits(require_weights(workspace.model).weights, training_device())
    prepared = training_set(workspace, inputs, report)
    recipe, rows, pairs = prepared.recipe, prepared.rows, prepared.pairs
    folder = workspace.state.adapters(name) / "training"
    prepared.write(folder)
    # Before training: a document that is edited meanwhile makes the adapter stale.
    rests_on, links = _lineage(workspace, prepared, collection), _links(workspace, prepared)
    trained = _train(workspace, prepared, folder, report)
    measured: dict[str, Any] = {}
    if not recipe.use_dora:  # which llama.cpp serves merged only, and which is compared when it is
        measured["parity"] = measure_parity(workspace, folder, prepared.examples, report, recipe.attention)
        measured["forgetting"] = measure_forgetting(workspace, folder, recipe.attention, report)
    lineage = {
        **rests_on,
        "weights_sha256": sha256_file(folder / ADAPTER_WEIGHTS),
        **({} if recipe.use_dora else {GGUF_SHA256: sha256_file(folder / ADAPTER_GGUF)}),
        "init_adapter": prepared.started_from,
        "examples": len(prepared.examples),
        "sorts": prepared.sorts,
        "held_out_pairs": len(prepared.held_out_pairs),
        "refused": dict(prepared.refused),
    }
    shown = {**recipe.to_mapping(), "init_adapter": prepared.started_from}
    adapter = _adapter(
        workspace, name, recipe=shown, rows=rows, metrics={**trained.metrics, **measured}, lineage=lineage
    )
    target = workspace.state.adapters(name, adapter.version)
    _register(workspace, adapter, folder, target, links)
    counts = {"rows": len(rows.rows), "branches": rows.branches, "pairs": len(pairs), "sorts": prepared.sorts}
    if not inputs.get("promote", False):
        return {**adapter_view(adapter), **counts}
    return {**_promoted(workspace, adapter, inputs.get("actor", "train job")), **counts}


def _promoted(workspace: Workspace, adapter: Adapter, actor: str) -> dict[str, Any]:
    """Promote the adapter if it passes the gate; else it stays a candidate, and ``not_promoted`` says why."""
    settings = workspace.settings
    gate = Gate(load_policy(settings.promotion_policy), refuse_stale=settings.refuse_stale_adapters, actor=actor)
    try:
        done = promote(workspace.store, workspace.model, adapter.name, adapter.version, gate=gate)
    except (ForgettingExceeded, ParityFailed, PromotionRefused, StaleAdapter) as error:
        stale = stale_because(workspace.store, adapter)
        return {**adapter_view(adapter, stale=stale), "not_promoted": {"type": error.type, "detail": error.detail}}
    return adapter_view(done.live)


def _adapter(
    workspace: Workspace,
    name: str,
    *,
    recipe: dict[str, Any],
    rows: RowSet,
    metrics: dict[str, Any],
    lineage: dict[str, Any],
) -> Adapter:
    """Return the record of the adapter's next version, a candidate."""
    version = workspace.store.adapters.next_version(name)
    target = workspace.state.adapters(name, version)
    missing = {"eval.jsonl": not lineage["held_out_pairs"], ADAPTER_GGUF: recipe["use_dora"]}
    files = [file for file in _FILES if not missing.get(file)]
    return Adapter(
        name=name,
        version=version,
        base_model=workspace.model.name,
        base_sha256=workspace.model.sha256,
        recipe=recipe,
        rows_sha256=rows.sha256,
        attention=recipe["attention"],
        files={file: str((target / file).relative_to(workspace.state.root)) for file in files},
        metrics=metrics,
        stage="candidate",
        lineage=lineage,
    )


def _lineage(workspace: Workspace, prepared: TrainingSet, collection: str) -> dict[str, Any]:
    """Return what the adapter rests on: pairs, the documents they are about, model, index and prompt."""
    pairs = prepared.pairs
    chunks = workspace.store.chunks.by_ids({chunk_id for pair in pairs for chunk_id in pair.chunk_ids})
    return {
        "collection": collection,
        "pairs": len(pairs),
        "pairs_sha256": content_id(*sorted(pair.id for pair in pairs)),
        "documents": sorted({chunk.document_id for chunk, _source, _title in chunks.values()}),
        "model_sha256": workspace.model.sha256,
        "index_generation": workspace.store.collections.current_generation(collection),
        "prompt": prompt_version(prepared.house.instructions),
        "house_version": prepared.house.version,
    }


def _links(workspace: Workspace, prepared: TrainingSet) -> list[TrainedRow]:
    from retrieval.rowfiles import row_of

    found = prepared.found
    return trained_rows(workspace.store, prepared.pairs, found, [row_of(example) for example in found])


def _train(workspace: Workspace, prepared: TrainingSet, folder: Path, report: Report) -> TrainResult:
    from finetune.export import lora_to_gguf
    from finetune.train import train

    trained = train(prepared.recipe, prepared.rows, workspace.model, folder, report, held_out=prepared.held_out)
    if not prepared.recipe.use_dora:
        report(Progress(stage="export"))
        lora_to_gguf(folder, workspace.model.gguf, folder / ADAPTER_GGUF)
    return trained


def _register(workspace: Workspace, adapter: Adapter, folder: Path, target: Path, links: list[TrainedRow]) -> None:
    """Move the finished folder to its version, write its manifest last, and register it; all of it is on the disk then.

    Raises:
        InsufficientStorage: the disk is full.
    """
    try:
        if target.exists():
            # Left by a stop between the move and the registration.
            shutil.rmtree(target)
        folder.rename(target)
        sync_tree(target, workspace.state.root)
    except OSError as error:
        raise map_os_error(error, target) from error
    hashes = {file: sha256_file(target / file) for file in _FILES if (target / file).exists()}
    manifest = {**adapter_view(adapter), "sha256": hashes}
    write_atomic(target / "manifest.json", json.dumps(manifest, ensure_ascii=False, indent=2).encode() + b"\n")
    workspace.store.adapters.add(adapter, links)
