"""Train from a bundle, with no workspace, documents or index: what every platform calls.

The rows are made, trained and logged by the same code as at home. What comes out is an archive that
``ragtune adapters import`` takes. Knows nothing of the platforms themselves.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from data import hub
from data.errors import BaseModelMismatch, InvalidRequest, RecipeInvalid
from data.model_files import files_sha256, source_files
from data.protocols import Report
from data.records import Model, Progress
from data.state import write_atomic
from finetune.cloud.archive import ALLOWED, import_command, pack
from finetune.cloud.bundle import BASE_GGUF, Bundle, open_bundle
from finetune.recipe import Recipe
from finetune.rows import Example, RowSet, build_rows
from finetune.train import TrainResult, optimizer_steps, train
from finetune.weights import load_tokenizer

if TYPE_CHECKING:
    from finetune.weights import SegmentTokenizer

_LIMIT = "minutes.json"
TIME_KEPT_BACK = 0.2
"""Share of a time limit that is not planned for steps: loading, held-out losses, and a GPU that is shared."""


@dataclass(frozen=True, slots=True)
class Trained:
    """The archive, what the training measured, and the next step in words."""

    archive: Path
    metrics: Mapping[str, float]
    command: str


def train_bundle(
    folder: Path | str,
    out: Path | str,
    report: Report,
    *,
    model: str | None = None,
    changes: Mapping[str, Any] | None = None,
    minutes: float | None = None,
) -> Trained:
    """Train what a bundle says and write the adapter's archive into ``out``. A stopped run is continued.

    Args:
        folder: the bundle.
        out: a folder of its own; the checkpoints lie there too.
        report: receives the progress.
        model: the base model's folder, GGUF file or hub id, instead of what the bundle names.
        changes: recipe fields to run with instead, ``max_steps`` say.
        minutes: train so many steps as fit into this time on this machine, as a few of them measure; None for all.

    Raises:
        InvalidRequest: the bundle is incomplete or was changed.
        RecipeInvalid: 4 bits were asked for where there is no CUDA.
        BaseModelMismatch: the weights are not those the bundle was made for.
        HubError: the base model cannot be fetched.
        Everything else that ``finetune.train.train`` raises.
    """
    # Whole paths: what is measured beforehand runs in a process elsewhere.
    out = Path(out).resolve()
    bundle = open_bundle(Path(folder).resolve(), changes)
    _require_cuda(bundle.recipe)
    report(Progress(stage="model"))
    base = _base_model(bundle, model, report)
    tokenizer = _tokenizer(bundle, base)
    recipe = _with_start(replace(bundle.recipe, base_model=bundle.manifest.base_model), bundle, out)
    rows, held_out = (_rows(side, tokenizer, recipe) for side in (bundle.examples, bundle.held_out))
    _check_tokens(bundle, rows)
    if minutes is not None:
        recipe = _within(recipe, rows, base, held_out, minutes=minutes, report=report, kept=out / _LIMIT)
    done = train(recipe, rows, base, out / "training", report, held_out=held_out)
    return _archive(bundle, out, recipe=recipe, base=base, rows=rows, done=done)


def _require_cuda(recipe: Recipe) -> None:
    if recipe.qlora and not torch.cuda.is_available():
        raise RecipeInvalid(
            "This bundle trains in 4 bits (qlora), and there is no CUDA GPU here",
            got=f"torch {torch.__version__} without CUDA",
            wanted="a machine with an NVIDIA GPU",
            hint="Colab: Runtime, Change runtime type, T4 GPU. Kaggle: Settings, Accelerator, GPU T4. Elsewhere choose "
            "an instance with a GPU. Without one, plain LoRA trains on the CPU, slowly: --set qlora=false.",
        )


def _base_model(bundle: Bundle, given: str | None, report: Report) -> Model:
    """Return the base model; where its weights' hash is known, only the right ones.

    Raises:
        BaseModelMismatch: they are others.
    """
    manifest = bundle.manifest
    inside = bundle.folder / BASE_GGUF
    if given is not None and Path(given).exists():
        weights = Path(given).resolve()
    elif given is None and BASE_GGUF in manifest.files:
        weights = inside
    else:
        pinned = f"{manifest.base_model}@{manifest.revision}" if manifest.revision else manifest.base_model
        weights = hub.fetch(given or pinned, report)
    sha256 = files_sha256(source_files(weights))
    if manifest.base_sha256 and sha256 != manifest.base_sha256:
        raise BaseModelMismatch(
            "These weights are not those of the model that the bundle was made for",
            got=f"{weights.name}, SHA-256 {sha256[:16]}…",
            wanted=f"{manifest.base_model}, SHA-256 {manifest.base_sha256[:16]}…",
            hint="Take the revision that is served at home, or make another bundle with --base-model.",
        )
    return Model(manifest.base_model, manifest.base_model, "", str(weights), sha256, "")


def _with_start(recipe: Recipe, bundle: Bundle, out: Path) -> Recipe:
    """Put the adapter to start from where peft finds it, under peft's names."""
    if not bundle.start:
        return replace(recipe, init_adapter=None)
    folder = out / "start"
    folder.mkdir(parents=True, exist_ok=True)
    for name, path in bundle.start.items():
        shutil.copyfile(path, folder / name)
    return replace(recipe, init_adapter=str(folder))


def _tokenizer(bundle: Bundle, base: Model) -> SegmentTokenizer:
    """Return the base model's tokenizer, with the chat template under which the adapter will be served."""
    tokenizer, served = load_tokenizer(base.weights), bundle.manifest.served
    if bundle.manifest.is_served:
        tokenizer.template, tokenizer.bos_token, tokenizer.eos_token = (
            served.template,
            served.bos_token,
            served.eos_token,
        )
    return tokenizer


def _rows(examples: Sequence[Example], tokenizer: SegmentTokenizer, recipe: Recipe) -> RowSet:
    return build_rows(
        examples, tokenizer, tokenizer.template, max_length=recipe.max_length, max_branches=recipe.max_branches
    )


def _check_tokens(bundle: Bundle, rows: RowSet) -> None:
    """Refuse a base model whose tokens are not those of the model that will serve the adapter.

    Raises:
        BaseModelMismatch: they differ.
        InvalidRequest: no row fits ``max_length``.
    """
    manifest = bundle.manifest
    if not rows.rows:
        raise InvalidRequest(
            "No row is left to train on", got=dict(rows.refused), hint="Raise max_length: --set max_length=4096."
        )
    changed = Recipe.load(bundle.folder / "recipe.toml")
    as_made = (changed.max_length, changed.max_branches) == (bundle.recipe.max_length, bundle.recipe.max_branches)
    if manifest.is_served and as_made and rows.sha256 != manifest.served.rows_sha256:
        raise BaseModelMismatch(
            f"{manifest.base_model} makes other tokens of these rows than {manifest.served.name}, which serves them",
            got=f"rows {rows.sha256[:16]}…",
            wanted=f"{manifest.served.rows_sha256[:16]}…",
            hint="It is another model: make the bundle with the right --base-model.",
        )


def _within(
    recipe: Recipe, rows: RowSet, model: Model, held_out: RowSet, *, minutes: float, report: Report, kept: Path
) -> Recipe:
    """Return the recipe with as many steps as fit into ``minutes`` here; a run that is continued keeps its number.

    Raises:
        InsufficientMemory: not even the longest row fits.
        RecipeInvalid: not one step fits.
    """
    asked = {"minutes": minutes, "recipe": recipe.to_mapping(), "rows": rows.sha256}
    before = json.loads(kept.read_bytes()) if kept.is_file() else {}
    steps, planned = before.get("steps", 0), optimizer_steps(recipe, len(rows.rows))
    if before.get("asked") != asked:
        steps = _steps_within(recipe, rows, model, held_out, minutes=minutes, report=report)
        write_atomic(kept, json.dumps({"asked": asked, "steps": steps}).encode())
    return recipe if steps >= planned else replace(recipe, max_steps=steps)


def _steps_within(
    recipe: Recipe, rows: RowSet, model: Model, held_out: RowSet, *, minutes: float, report: Report
) -> int:
    from finetune.estimate import estimate

    report(Progress(stage="estimate"))
    found = estimate(recipe, rows, model, held_out)
    seconds = max(found.seconds - found.load_seconds, 1e-9)
    steps = int(found.steps * (60 * minutes * (1 - TIME_KEPT_BACK) - found.load_seconds) / seconds)
    shown = {"steps": found.steps, "steps_in_time": max(steps, 0), "seconds": found.seconds}
    report(Progress(stage="estimate", metrics=shown))
    if steps < 1:
        raise RecipeInvalid(
            "Not one step fits into the time", got=f"{minutes:g} minutes", wanted=f"{found.seconds / 60:.0f} for all"
        )
    return steps


def _archive(bundle: Bundle, out: Path, *, recipe: Recipe, base: Model, rows: RowSet, done: TrainResult) -> Trained:
    manifest, folder = bundle.manifest, out / "adapter"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for path in map(Path, done.files.values()):
        if path.name in ALLOWED:
            shutil.copyfile(path, folder / path.name)
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    values = {
        "name": manifest.name,
        "base_model": manifest.base_model,
        "base_sha256": base.sha256,
        "served": {"name": manifest.served.name, "sha256": manifest.served.sha256} if manifest.is_served else None,
        "recipe": {**recipe.to_mapping(), "init_adapter": manifest.start},
        "attention": recipe.attention,
        "rows_sha256": rows.sha256,
        "metrics": dict(done.metrics),
        "lineage": {
            "bundle": manifest.id,
            "platform": manifest.platform,
            "ragtune": manifest.ragtune,
            "trained_on": f"{device}, torch {torch.__version__}",
            "init_adapter": manifest.start,
            "examples": len(bundle.examples),
            "held_out": len(bundle.held_out),
            "refused": dict(rows.refused),
        },
    }
    archive = pack(folder, out / f"{manifest.name}.zip", values)
    command = import_command(manifest.name, manifest.base_model, is_served=manifest.is_served)
    return Trained(archive, done.metrics, command)
