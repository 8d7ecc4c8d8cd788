"""The ``train`` job: accepted pairs become an adapter that is exported, compared and registered.

Inputs: ``name``, ``collection``, ``recipe`` (fields of ``finetune.recipe.Recipe``), ``top_k``,
``promote``. The work happens in one folder for each adapter name, so that a job that was stopped goes
on there; the folder becomes the adapter's version when everything is in it.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import ForgettingExceeded, NoAcceptedPairs, RecipeInvalid, StaleAdapter
from data.formats import write_rows
from data.protocols import Report
from data.records import Adapter, Progress, QAPair, content_id
from data.state import check_name, sha256_file, write_atomic
from service.arms import adapter_label, find_adapter
from service.forgetting import measure_forgetting
from service.lineage import is_stale, trained_rows
from service.parity import measure_parity
from service.promotion import promote
from service.serving import require_weights
from service.starter import READER
from service.views import adapter_view
from service.workspace import ADAPTER_CONFIG, ADAPTER_GGUF, ADAPTER_WEIGHTS

if TYPE_CHECKING:
    from data.store import TrainedRow
    from finetune.recipe import Recipe
    from finetune.rows import Example, RowSet
    from finetune.train import TrainResult
    from retrieval.examples import TrainingExample
    from service.workspace import Workspace

_FILES = (
    ADAPTER_WEIGHTS,
    ADAPTER_CONFIG,
    ADAPTER_GGUF,
    "recipe.toml",
    "train_log.jsonl",
    "train.jsonl",
    "manifest.json",
)
CONTINUED_LEARNING_RATE = 5e-5
"""For an adapter that starts from the reader and whose recipe does not say: at 2e-4, 50 generated pairs cost the
reader 4 F1 points on 72 human questions about other articles, at 5e-5 one (bench/RESULTS.md)."""


def run(workspace: Workspace, inputs: dict[str, Any], report: Report) -> dict[str, Any]:
    """Train on the collection's accepted pairs; return the adapter, its metrics and its parity.

    Raises:
        RecipeInvalid: the recipe has an unknown field or an impossible value.
        NoAcceptedPairs: there is nothing to train on.
        ParityFailed: the GGUF does not answer like what was trained.
    """
    name, collection = check_name(inputs["name"], "adapter name"), inputs.get("collection", "default")
    recipe, started_from = _recipe(workspace, inputs.get("recipe") or {})
    pairs = workspace.store.pairs.all(collection, "accepted", stale=False)
    if not pairs:
        raise NoAcceptedPairs(
            "There are no accepted pairs to train on",
            got=collection,
            hint="Make some with: ragtune pairs generate, or import them with: ragtune pairs import",
        )
    report(Progress(0, len(pairs), "pairs", stage="rows"))
    found = _examples(workspace, pairs, collection, inputs.get("top_k", 4), recipe.seed)
    folder = workspace.state.adapters(name) / "training"
    examples, rows = _rows(workspace, recipe, found, folder)
    report(Progress(len(pairs), len(pairs), "pairs", stage="rows"))
    # Before training: a document that is edited meanwhile makes the adapter stale.
    rests_on, links = _lineage(workspace, pairs, collection), _links(workspace, pairs, found)
    trained = _train(workspace, recipe, rows, folder, report)
    parity = measure_parity(workspace, folder, examples, report, recipe.attention)
    measured = {"parity": parity, "forgetting": measure_forgetting(workspace, folder, recipe.attention, report)}
    lineage = {
        **rests_on,
        "weights_sha256": sha256_file(folder / ADAPTER_WEIGHTS),
        "init_adapter": started_from,
        "examples": len(examples),
        "refused": dict(rows.refused),
    }
    shown = {**recipe.to_mapping(), "init_adapter": started_from}
    adapter = _adapter(
        workspace, name, recipe=shown, rows=rows, metrics={**trained.metrics, **measured}, lineage=lineage
    )
    target = workspace.state.adapters(name, adapter.version)
    _register(workspace, adapter, folder, target, links)
    counts = {"rows": len(rows.rows), "branches": rows.branches, "pairs": len(pairs)}
    if not inputs.get("promote", False):
        return {**adapter_view(adapter), **counts}
    return {**_promoted(workspace, adapter), **counts}


def _promoted(workspace: Workspace, adapter: Adapter) -> dict[str, Any]:
    """Promote the adapter if it passes the gate; else it stays a candidate, and ``not_promoted`` says why."""
    refuse = workspace.settings.refuse_stale_adapters
    try:
        done = promote(workspace.store, workspace.model, adapter.name, adapter.version, refuse_stale=refuse)
    except (ForgettingExceeded, StaleAdapter) as error:
        stale = is_stale(workspace.store, adapter)
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
    return Adapter(
        name=name,
        version=version,
        base_model=workspace.model.name,
        base_sha256=workspace.model.sha256,
        recipe=recipe,
        rows_sha256=rows.sha256,
        attention=recipe["attention"],
        files={file: str((target / file).relative_to(workspace.state.root)) for file in _FILES},
        metrics=metrics,
        stage="candidate",
        lineage=lineage,
    )


def _recipe(workspace: Workspace, values: dict[str, Any]) -> tuple[Recipe, str | None]:
    """Return the recipe with ``init_adapter`` as a folder, and the label of the adapter it starts from.

    Where the recipe says nothing, the packaged reader is the start if it fits; "" starts at zero. An adapter
    that starts from another reads passages as that one does, unless the recipe says otherwise.

    Raises:
        InvalidModel: the base model is a server's, and its weights are not here.
        RecipeInvalid: an impossible recipe, or one whose adapter llama.cpp could not serve.
    """
    from finetune.recipe import Recipe

    require_weights(workspace.model)
    recipe = Recipe.from_mapping({"base_model": workspace.model.name, **values})
    if recipe.use_rslora or recipe.use_dora:
        raise RecipeInvalid(
            "A GGUF adapter holds neither rsLoRA's scale nor DoRA's magnitudes",
            got="use_rslora" if recipe.use_rslora else "use_dora",
            wanted="a plain LoRA",
            hint="Leave it out of the recipe.",
        )
    if recipe.base_model != workspace.model.name:
        raise RecipeInvalid(
            "The recipe is for another base model than the one served",
            got=recipe.base_model,
            wanted=workspace.model.name,
            hint="Leave base_model out, or choose the model with RAGTUNE_MODEL or --model.",
        )
    starters = workspace.ensure_starter_adapters()
    start = recipe.init_adapter
    if "init_adapter" not in values and READER in starters:
        reader = find_adapter(workspace.store, READER).recipe
        same = all(reader[name] == recipe.to_mapping()[name] for name in ("r", "lora_alpha", "target_modules"))
        start = READER if same else None
        if same and "learning_rate" not in values:
            recipe = replace(recipe, learning_rate=CONTINUED_LEARNING_RATE)
    if not start:
        return replace(recipe, init_adapter=None), None
    if Path(start).is_dir():
        return replace(recipe, init_adapter=start), start
    adapter = find_adapter(workspace.store, start)
    folder = workspace.adapter_file(adapter, ADAPTER_WEIGHTS).parent
    attention = recipe.attention if "attention" in values else adapter.attention
    return replace(recipe, init_adapter=str(folder), attention=attention), adapter_label(adapter)


def _examples(
    workspace: Workspace, pairs: list[QAPair], collection: str, top_k: int, seed: int
) -> list[TrainingExample]:
    from retrieval.examples import examples_from_pairs

    return examples_from_pairs(
        workspace.store, workspace.retriever, pairs, top_k=top_k, seed=seed, collection=collection
    )


def _lineage(workspace: Workspace, pairs: list[QAPair], collection: str) -> dict[str, Any]:
    """Return what the adapter rests on: pairs, the documents they are about, model and index."""
    chunks = workspace.store.chunks.by_ids({chunk_id for pair in pairs for chunk_id in pair.chunk_ids})
    return {
        "collection": collection,
        "pairs": len(pairs),
        "pairs_sha256": content_id(*sorted(pair.id for pair in pairs)),
        "documents": sorted({chunk.document_id for chunk, _source, _title in chunks.values()}),
        "model_sha256": workspace.model.sha256,
        "index_generation": workspace.store.collections.current_generation(collection),
    }


def _links(workspace: Workspace, pairs: list[QAPair], found: list[TrainingExample]) -> list[TrainedRow]:
    from retrieval.rowfiles import row_of

    return trained_rows(workspace.store, pairs, found, [row_of(example) for example in found])


def _rows(
    workspace: Workspace, recipe: Recipe, found: list[TrainingExample], folder: Path
) -> tuple[list[Example], RowSet]:
    """Return the examples and their rows; what is trained on is also written as train.jsonl."""
    from finetune.rows import build_rows
    from finetune.weights import load_tokenizer
    from retrieval.rowfiles import row_of

    write_rows(folder / "train.jsonl", [row_of(example) for example in found])
    examples = [_example(example) for example in found]
    tokenizer = load_tokenizer(workspace.model.weights)
    rows = build_rows(
        examples, tokenizer, tokenizer.template, max_length=recipe.max_length, max_branches=recipe.max_branches
    )
    return examples, rows


def _example(found: TrainingExample) -> Example:
    from data.prompt import answer_messages
    from finetune.rows import Example, answer_example

    if found.answer is not None and found.gold_number is None:
        # A style or free answer that no passage holds: trained uncited, over what was retrieved.
        return Example(answer_messages(found.question, found.passages), found.answer)
    return answer_example(found.question, found.answer or "", found.passages, found.gold_number)


def _train(workspace: Workspace, recipe: Recipe, rows: RowSet, folder: Path, report: Report) -> TrainResult:
    from finetune.export import lora_to_gguf
    from finetune.train import train

    trained = train(recipe, rows, workspace.model, folder, report)
    report(Progress(stage="export"))
    lora_to_gguf(folder, workspace.model.gguf, folder / ADAPTER_GGUF)
    return trained


def _register(workspace: Workspace, adapter: Adapter, folder: Path, target: Path, links: list[TrainedRow]) -> None:
    """Move the finished folder to its version, write its manifest last, and register it."""
    if target.exists():
        # Left by a stop between the move and the registration.
        shutil.rmtree(target)
    folder.rename(target)
    hashes = {file: sha256_file(target / file) for file in _FILES if (target / file).exists()}
    manifest = {**adapter_view(adapter), "sha256": hashes}
    write_atomic(target / "manifest.json", json.dumps(manifest, ensure_ascii=False, indent=2).encode() + b"\n")
    workspace.store.adapters.add(adapter, links)
