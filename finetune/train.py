"""Train a LoRA on rows: transformers' Trainer, with logits only where there is loss.

A run writes its checkpoints under its own folder and continues from the newest one when it is started
again with the same recipe, rows and base model; one that had ended is not done again. Knows nothing of
questions, documents or GGUF adapters.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn.functional import cross_entropy
from transformers.trainer_utils import set_seed

from data.errors import NoAcceptedPairs
from data.protocols import Report
from data.records import Model, Progress
from data.state import write_atomic
from finetune import lora
from finetune.collate import Collator
from finetune.kernels import TREE_ATTENTION, speed_up_norms
from finetune.recipe import Recipe
from finetune.rows import RowSet
from finetune.weights import load_model, training_device, training_dtype

LOG = "train_log.jsonl"
RESULT = "result.json"
"""The metrics of a finished run, written when everything else is there."""
CHECKPOINT_EVERY_S = 30.0
"""A stop loses at most so many seconds of steps and the one it falls into, however long ``save_steps`` take."""


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a run made.

    ``files`` maps adapter, config, recipe and log to paths. ``metrics``: ``steps``, ``epochs``,
    ``loss_first`` and ``loss_last`` (mean over the first and last tenth of the steps, nats per token),
    ``tokens_per_s``, ``branches_per_s``, ``seconds`` (of this call), ``rows``, ``branches``,
    ``trained_tokens``, ``resumed_from`` (step).
    """

    files: Mapping[str, str]
    metrics: Mapping[str, float]


def train(recipe: Recipe, rows: RowSet, model: Model, out_dir: Path | str, report: Report) -> TrainResult:
    """Train a LoRA for ``model`` and write it to ``out_dir``.

    Raises:
        NoAcceptedPairs: there are no rows.
        RecipeInvalid: the recipe does not fit the model or the machine.
        InvalidModel: the weights cannot be loaded.
        JobCancelled: ``report`` asked to stop; the same call later continues from the last checkpoint.
    """
    if not rows.rows:
        raise NoAcceptedPairs(
            "There is nothing to train on", got=dict(rows.refused) or "no rows", hint="Generate or import pairs first."
        )
    out = Path(out_dir)
    checkpoint = _prepare(out, recipe, rows, model)
    if (finished := _finished(out)) is not None:
        steps = int(finished.metrics["steps"])
        report(Progress(steps, steps, "steps", stage="train"))
        return finished
    report(Progress(stage="load"))
    set_seed(recipe.seed)
    device = training_device()
    dtype = training_dtype(device)
    base = load_model(model.weights, device=device, dtype=dtype, qlora=recipe.qlora, attention=TREE_ATTENTION)
    speed_up_norms(base)
    adapted = lora.attach(base, recipe)
    work = Work()
    trainer = TreeTrainer(
        work=work,
        model=adapted,
        args=_arguments(recipe, out, device, len(rows.rows)),
        train_dataset=list(rows.rows),
        data_collator=Collator(recipe.attention, dtype, full_share=recipe.full_share),
        callbacks=[_Log(out / LOG, report, work, since=_step(checkpoint))],
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    lora.save(adapted, out, recipe.base_model)
    recipe.save(out / "recipe.toml")
    metrics = _metrics(out / LOG, work, rows, resumed_from=_step(checkpoint))
    write_atomic(out / RESULT, json.dumps(metrics).encode())
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    return TrainResult(_files(out), metrics)


@dataclass(slots=True)
class Work:
    """What one call of ``train`` has done so far; ``started`` is a ``perf_counter`` time."""

    started: float = field(default_factory=time.perf_counter)
    tokens: int = 0
    branches: int = 0

    def rates(self) -> dict[str, float]:
        """Return seconds since the start, and tokens and branches per second."""
        seconds = time.perf_counter() - self.started
        return {
            "seconds": round(seconds, 3),
            "tokens_per_s": round(self.tokens / seconds, 1),
            "branches_per_s": round(self.branches / seconds, 3),
        }


class TreeTrainer(transformers.Trainer):  # type: ignore[misc]  # transformers is not followed
    """A Trainer whose loss is the mean over the trained tokens of a whole optimizer step."""

    def __init__(self, work: Work, **settings: Any) -> None:
        super().__init__(**settings)
        self._work = work
        # compute_loss divides by the tokens of the whole step, so the Trainer must not divide again.
        self.loss_is_scaled_for_ga = True

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, torch.Tensor]], int]:
        """Return the batches of one optimizer step and the number of their trained tokens."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        return batches, sum(batch["targets"].numel() for batch in batches)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: int | None = None,
    ) -> Any:
        """Return the summed cross-entropy of one batch over the step's number of trained tokens."""
        tokens, branches = inputs["counts"].tolist()
        self._work.tokens += tokens
        self._work.branches += branches
        logits = trained_logits(model, inputs)
        total = cross_entropy(logits, inputs["targets"], reduction="sum")
        loss = total / (num_items_in_batch or inputs["targets"].numel())
        return (loss, {"logits": logits}) if return_outputs else loss

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the LoRA alone; peft's default would ask the hub whether the embeddings changed."""
        self.model.save_pretrained(output_dir or self.args.output_dir, save_embedding_layers=False)


def trained_logits(model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the logits that predict the trained tokens; shape (trained tokens, n_vocab), float32.

    The output layer sees only those places: over a whole row its logits would cost more than the model.
    """
    causal_lm = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = causal_lm.get_decoder()(
        input_ids=inputs["input_ids"],
        attention_mask=inputs["attention_mask"],
        position_ids=inputs["position_ids"],
        use_cache=False,
    ).last_hidden_state
    places = hidden.reshape(-1, hidden.shape[-1])[inputs["sources"]]
    logits: torch.Tensor = causal_lm.get_output_embeddings()(places).float()
    return logits


class _Log(transformers.TrainerCallback):  # type: ignore[misc]  # transformers is not followed
    """Writes a line per optimizer step, and reports it; asks for a checkpoint where the last one is long ago."""

    def __init__(self, path: Path, report: Report, work: Work, since: int) -> None:
        self._path = path
        self._report = report
        self._work = work
        self._since = since
        self._checkpoint = since
        self._saved_at = time.perf_counter()
        # Steps after the checkpoint will be done, and logged, again.
        kept = [line for line in read_log(path) if line["step"] <= since]
        path.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **_kwargs: Any) -> None:
        """Start the clock."""
        self._work.started = self._saved_at = time.perf_counter()
        kept = {"checkpoint": self._checkpoint} if self._checkpoint else {}
        self._report(Progress(state.global_step, state.max_steps, "steps", stage="train", metrics=kept))

    def on_step_end(self, _args: Any, _state: Any, control: Any, **_kwargs: Any) -> None:
        """Ask for a checkpoint after this step if it is time."""
        if time.perf_counter() - self._saved_at >= CHECKPOINT_EVERY_S:
            control.should_save = True

    def on_save(self, _args: Any, state: Any, _control: Any, **_kwargs: Any) -> None:
        """Remember the step from which a stopped run would go on."""
        self._checkpoint, self._saved_at = state.global_step, time.perf_counter()

    def on_log(self, _args: Any, state: Any, _control: Any, logs: dict[str, Any] | None = None, **_kwargs: Any) -> None:
        """Write and report one step."""
        if logs is None or "loss" not in logs:
            return
        rates = self._work.rates()
        line: dict[str, Any] = {
            "step": state.global_step,
            "epoch": state.epoch,
            **{name: float(logs[name]) for name in ("loss", "learning_rate", "grad_norm") if name in logs},
            **rates,
        }
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        left = state.max_steps - state.global_step
        eta_s = rates["seconds"] / (state.global_step - self._since) * left
        shown = {**line, "checkpoint": self._checkpoint}
        self._report(Progress(state.global_step, state.max_steps, "steps", eta_s, "train", shown))


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a train_log.jsonl, a last line cut short by a crash left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")
    return [json.loads(line) for line in lines[:-1]]


def _warmup_steps(recipe: Recipe, rows: int) -> int:
    """Return the recipe's warm-up, at most a fifth of the run: a few rows would else train at next to no rate."""
    per_step = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
    steps = recipe.max_steps if recipe.max_steps > 0 else math.ceil(rows / per_step * recipe.num_train_epochs)
    return min(recipe.warmup_steps, steps // 5)


def _arguments(recipe: Recipe, out: Path, device: torch.device, rows: int) -> Any:
    return transformers.TrainingArguments(
        output_dir=str(out / "checkpoints"),
        num_train_epochs=recipe.num_train_epochs,
        max_steps=recipe.max_steps,
        per_device_train_batch_size=recipe.per_device_train_batch_size,
        gradient_accumulation_steps=recipe.gradient_accumulation_steps,
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
        use_cpu=device.type == "cpu",
        dataloader_pin_memory=device.type != "cpu",
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
    )


def _prepare(out: Path, recipe: Recipe, rows: RowSet, model: Model) -> Path | None:
    """Make ``out`` ready and return the checkpoint to continue from, if the same run left one."""
    out.mkdir(parents=True, exist_ok=True)
    same = json.dumps([recipe.to_mapping(), rows.sha256, model.sha256], sort_keys=True)
    fingerprint = hashlib.sha256(same.encode()).hexdigest()
    mark = out / "run.sha256"
    if mark.is_file() and mark.read_text(encoding="utf-8") == fingerprint:
        return _newest_checkpoint(out / "checkpoints")
    (out / RESULT).unlink(missing_ok=True)
    shutil.rmtree(out / "checkpoints", ignore_errors=True)
    mark.write_text(fingerprint, encoding="utf-8")
    return None


def _finished(out: Path) -> TrainResult | None:
    """Return what the same run left when it had ended: only what comes after it was stopped."""
    files = _files(out)
    if not (out / RESULT).is_file() or not all(Path(path).is_file() for path in files.values()):
        return None
    return TrainResult(files, json.loads((out / RESULT).read_text(encoding="utf-8")))


def _newest_checkpoint(folder: Path) -> Path | None:
    # trainer_state.json is written last: a checkpoint without it was cut short.
    found = {_step(path): path for path in folder.glob("checkpoint-*") if (path / "trainer_state.json").is_file()}
    return found[max(found)] if found else None


def _step(checkpoint: Path | None) -> int:
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def _files(out: Path) -> dict[str, str]:
    names = dict(zip(("adapter", "config"), lora.ADAPTER_FILES, strict=True)) | {"recipe": "recipe.toml", "log": LOG}
    return {key: str(out / name) for key, name in names.items()}


def _metrics(log: Path, work: Work, rows: RowSet, resumed_from: int) -> dict[str, float]:
    lines = read_log(log)
    few = max(1, len(lines) // 10)
    loss = [line["loss"] for line in lines]
    return {
        "steps": len(lines),
        "epochs": lines[-1]["epoch"],
        "loss_first": sum(loss[:few]) / few,
        "loss_last": sum(loss[-few:]) / few,
        **work.rates(),
        "rows": len(rows.rows),
        "branches": rows.branches,
        "trained_tokens": sum(row.trained_tokens for row in rows.rows),
        "resumed_from": resumed_from,
    }
