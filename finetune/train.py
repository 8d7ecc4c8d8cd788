"""Train a LoRA on rows: transformers' Trainer, with logits only where there is loss.

A run writes its checkpoints under its own folder and continues from the newest one when it is started
again with the same recipe, rows and base model; one that had ended is not done again. Where memory runs out
it goes on in smaller pieces. Called in several processes (``accelerate launch``) with the same arguments they share
the rows of every optimizer step; the first one writes. Knows nothing of questions, documents or GGUF adapters.
"""

from __future__ import annotations

import gc
import hashlib
import json
import math
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
import transformers
from transformers.trainer_utils import set_seed

from data.errors import InsufficientMemory, NoAcceptedPairs, RecipeInvalid, TrainingDiverged
from data.protocols import Report
from data.records import Model, Progress
from data.state import sync_tree, write_atomic
from finetune import checkpoints, lora
from finetune.collate import Collator
from finetune.held_out import HeldOut
from finetune.kernels import TREE_ATTENTION, speed_up_norms
from finetune.memory import described, is_out_of_memory, smaller
from finetune.processes import is_first, join, world_size
from finetune.recipe import Recipe
from finetune.rows import RowSet
from finetune.train_log import LOG, StepLog, keep_until, read_log
from finetune.trainer import NotFinite, TreeTrainer, Work
from finetune.weights import load_model, training_device, training_dtype

LAST_GOOD = "last_good"
"""Folder of the adapter that a diverged run leaves: that of its last checkpoint with a finite loss."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run made.

    ``files`` maps adapter, config, recipe and log to paths. ``metrics``: ``steps``, ``epochs``,
    ``loss_first`` and ``loss_last`` (mean over the first and last tenth of the steps, nats per token),
    ``tokens_per_s``, ``branches_per_s``, ``seconds`` (of this call), ``rows``, ``branches``,
    ``trained_tokens``, ``resumed_from`` (step); with held-out rows what ``HeldOut.metrics`` says; where memory
    ran out ``per_device_train_batch_size``, ``gradient_accumulation_steps`` and ``gradient_checkpointing`` as it ended.
    """

    files: Mapping[str, str]
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class _Run:
    """One call of ``train``; ``fitted`` is the recipe in pieces that fit into memory."""

    recipe: Recipe
    fitted: Recipe
    rows: RowSet
    held_out: RowSet
    model: Model
    out: Path
    report: Report


def train(
    recipe: Recipe,
    rows: RowSet,
    model: Model,
    out_dir: Path | str,
    report: Report,
    *,
    held_out: RowSet | None = None,
) -> TrainResult:
    """Train a LoRA for ``model`` and write it to ``out_dir``.

    Args:
        recipe: how.
        rows: what is trained on.
        model: the base.
        out_dir: its own folder, where a stopped run finds its checkpoints.
        report: receives the progress, and may raise to stop.
        held_out: rows whose loss is measured and never trained on; they also decide early stopping.

    Raises:
        NoAcceptedPairs: there are no rows.
        RecipeInvalid: the recipe does not fit the model, the rows or the machine.
        InvalidModel: the weights cannot be loaded.
        TrainingDiverged: the loss became infinite or no number.
        InsufficientMemory: not even one row at a time fits.
        InsufficientStorage: the disk is full; the checkpoint before is kept.
        JobCancelled: ``report`` asked to stop; the same call later continues from the last checkpoint.
    """
    if not rows.rows:
        raise NoAcceptedPairs(
            "There is nothing to train on", got=dict(rows.refused) or "no rows", hint="Generate or import pairs first."
        )
    held_out = held_out or RowSet(())
    if recipe.early_stopping_patience and not held_out.rows:
        raise RecipeInvalid(
            "Early stopping needs held-out rows",
            got=f"early_stopping_patience = {recipe.early_stopping_patience} and no held-out rows",
            hint="Leave it out of the recipe, or train on more pairs.",
        )
    out = Path(out_dir)
    join(cpu=training_device().type == "cpu")
    with checkpoints.storage_errors(out):
        checkpoints.prepare(out, _fingerprint(recipe, rows, held_out, model))
        if (finished := _finished(out)) is not None:
            steps = int(finished.metrics["steps"])
            report(Progress(steps, steps, "steps", stage="train"))
            return finished
        return _in_pieces_that_fit(_Run(recipe, recipe, rows, held_out, model, out, report))


def _in_pieces_that_fit(run: _Run) -> TrainResult:
    """Train, in smaller pieces from the newest checkpoint on whenever memory runs out."""
    while True:
        try:
            return _attempt(run)
        except (RuntimeError, MemoryError) as error:
            # The other processes wait for this one in the middle of the step: it cannot begin again alone.
            fitted = smaller(run.fitted) if is_out_of_memory(error) and world_size() == 1 else None
            if not is_out_of_memory(error):
                raise
            if fitted is None:
                raise _memory_error(run) from error
        run = _Run(run.recipe, fitted, run.rows, run.held_out, run.model, run.out, run.report)
        # Only now, behind the except block, nothing refers to the tensors any more.
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        step = checkpoints.step_of(checkpoints.newest(run.out))
        run.report(Progress(step, 0, "steps", stage="out of memory", metrics={"now": described(fitted)}))


def _memory_error(run: _Run) -> InsufficientMemory:
    return InsufficientMemory(
        "The training does not fit into memory",
        got=f"{described(run.fitted)}, the longest of {max(map(len, run.rows.rows))} tokens",
        hint="Lower max_length, or choose a smaller base model.",
    )


def _attempt(run: _Run) -> TrainResult:
    recipe, out = run.recipe, run.out
    run.report(Progress(stage="load"))
    set_seed(recipe.seed)
    device = training_device()
    dtype = training_dtype(device)
    base = load_model(run.model.weights, device=device, dtype=dtype, qlora=recipe.qlora, attention=TREE_ATTENTION)
    speed_up_norms(base)
    adapted = lora.attach(base, recipe)
    checkpoint = checkpoints.newest(out)
    since = checkpoints.step_of(checkpoint)
    kept = keep_until(out / LOG, since) if is_first() else []
    collate = Collator(recipe.attention, dtype, full_share=recipe.full_share)
    held_out = _held_out(run, collate, kept)
    work = Work()
    notes = {} if run.fitted == recipe else {"out_of_memory": described(run.fitted)}
    path, report = (out / LOG, run.report) if is_first() else (None, lambda _progress: None)
    log = StepLog(path, report, work, since=since, held_out=held_out, notes=notes)
    trainer = TreeTrainer(
        work=work,
        loraplus_lr_ratio=recipe.loraplus_lr_ratio,
        group_by_length=recipe.per_device_train_batch_size > 1,
        model=adapted,
        args=_arguments(run.fitted, out, device, len(run.rows.rows)),
        train_dataset=list(run.rows.rows),
        data_collator=collate,
        callbacks=[log],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    if not held_out.is_over:
        try:
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        except NotFinite as error:
            _diverged(run, adapted, error)
    held_out.restore_best(adapted)
    trainer.accelerator.wait_for_everyone()
    return _finish(run, adapted, {**_metrics(run, work, since), **held_out.metrics()})


def _held_out(run: _Run, collate: Collator, logged: list[dict[str, Any]]) -> HeldOut:
    return HeldOut(
        run.held_out.rows,
        collate,
        every=run.recipe.eval_steps,
        patience=run.recipe.early_stopping_patience,
        best=run.out / checkpoints.BEST if is_first() else None,
        measured={line["step"]: line["eval_loss"] for line in logged if "eval_loss" in line},
    )


def _finish(run: _Run, adapted: Any, metrics: dict[str, float]) -> TrainResult:
    """Write the adapter, and the metrics last of all."""
    out, fitted = run.out, run.fitted
    if not is_first():
        return TrainResult(_files(out), metrics)
    lora.save(adapted, out, run.recipe.base_model)
    run.recipe.save(out / "recipe.toml")
    if fitted != run.recipe:
        for name in ("per_device_train_batch_size", "gradient_accumulation_steps", "gradient_checkpointing"):
            metrics[name] = int(getattr(fitted, name))
    sync_tree(out, out)  # the result says that all else is there
    write_atomic(out / checkpoints.RESULT, json.dumps(metrics).encode())
    (out / checkpoints.BEST).unlink(missing_ok=True)
    for folder in (checkpoints.FOLDER, LAST_GOOD):
        shutil.rmtree(out / folder, ignore_errors=True)
    return TrainResult(_files(out), metrics)


def _diverged(run: _Run, adapted: Any, error: NotFinite) -> NoReturn:
    """Keep the adapter of the last checkpoint whose loss was finite, and say where it is."""
    bad_from = error.step if error.what == "loss" else error.step + 1
    checkpoints.drop_from(run.out, bad_from)
    good = checkpoints.newest(run.out)
    kept = "No checkpoint was written before."
    if good is not None:
        lora.load_weights(adapted, good / lora.ADAPTER_FILES[0])
        lora.save(adapted, run.out / LAST_GOOD, run.recipe.base_model)
        step = checkpoints.step_of(good)
        kept = f'That of step {step} is kept; to go on from it: init_adapter = "{run.out / LAST_GOOD}"'
    raise TrainingDiverged(
        f"The {error.what} is infinite or no number in step {error.step + 1}; the adapter is not saved",
        got=f"learning_rate = {run.recipe.learning_rate}, lora_alpha = {run.recipe.lora_alpha}",
        wanted="a finite loss",
        hint=f"Lower learning_rate. {kept}",
    )


def _fingerprint(recipe: Recipe, rows: RowSet, held_out: RowSet, model: Model) -> str:
    same = json.dumps([recipe.to_mapping(), rows.sha256, held_out.sha256, model.sha256], sort_keys=True)
    return hashlib.sha256(same.encode()).hexdigest()


def _warmup_steps(recipe: Recipe, rows: int) -> int:
    """Return the recipe's warm-up, at most a fifth of the run: a few rows would else train at next to no rate."""
    return min(recipe.warmup_steps, optimizer_steps(recipe, rows) // 5)


def optimizer_steps(recipe: Recipe, rows: int) -> int:
    """Return the number of optimizer steps over so many rows, by all processes together."""
    accumulated = math.ceil(recipe.gradient_accumulation_steps / world_size()) * world_size()
    per_step = recipe.per_device_train_batch_size * accumulated
    return recipe.max_steps if recipe.max_steps > 0 else math.ceil(rows / per_step * recipe.num_train_epochs)


def _arguments(recipe: Recipe, out: Path, device: torch.device, rows: int) -> Any:
    return transformers.TrainingArguments(
        output_dir=str(out / checkpoints.FOLDER),
        num_train_epochs=recipe.num_train_epochs,
        max_steps=recipe.max_steps,
        per_device_train_batch_size=recipe.per_device_train_batch_size,
        # More processes do the same step, not a larger one.
        gradient_accumulation_steps=math.ceil(recipe.gradient_accumulation_steps / world_size()),
        activation_checkpointing=recipe.gradient_checkpointing,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type=recipe.lr_scheduler_type,
        warmup_steps=_warmup_steps(recipe, rows),
        weight_decay=recipe.weight_decay,
        max_grad_norm=recipe.max_grad_norm,
        seed=recipe.seed,
        save_strategy="steps",
        save_steps=recipe.save_steps,
        save_total_limit=2,
        logging_steps=1,
        # A step whose loss is no number ends the run (TreeTrainer): its loss must not be smoothed away first.
        logging_nan_inf_filter=False,
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type != "cpu",
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
    )


def _finished(out: Path) -> TrainResult | None:
    """Return what the same run left when it had ended: only what comes after it was stopped."""
    files = _files(out)
    if not (out / checkpoints.RESULT).is_file() or not all(Path(path).is_file() for path in files.values()):
        return None
    return TrainResult(files, json.loads((out / checkpoints.RESULT).read_text(encoding="utf-8")))


def _files(out: Path) -> dict[str, str]:
    names = dict(zip(("adapter", "config"), lora.ADAPTER_FILES, strict=True)) | {"recipe": "recipe.toml", "log": LOG}
    return {key: str(out / name) for key, name in names.items()}


def _metrics(run: _Run, work: Work, resumed_from: int) -> dict[str, float]:
    lines = [line for line in read_log(run.out / LOG) if "loss" in line]
    few = max(1, len(lines) // 10)
    loss = [line["loss"] for line in lines]
    return {
        "steps": len(lines),
        "epochs": lines[-1]["epoch"],
        "loss_first": sum(loss[:few]) / few,
        "loss_last": sum(loss[-few:]) / few,
        **work.rates(),
        "rows": len(run.rows.rows),
        "branches": run.rows.branches,
        "trained_tokens": sum(row.trained_tokens for row in run.rows.rows),
        "resumed_from": resumed_from,
    }
