"""The log of a run: a line for every optimizer step and every held-out loss, told as it goes.

Knows nothing of rows, recipes or adapters.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import transformers

from data.protocols import Report
from data.records import Progress
from data.state import write_atomic
from finetune.held_out import HeldOut
from finetune.trainer import NotFinite, Work

LOG = "train_log.jsonl"
CHECKPOINT_EVERY_S = 30.0
"""A stop loses at most so many seconds of steps and the one it falls into, however long ``save_steps`` take."""


class StepLog(transformers.TrainerCallback):  # type: ignore[misc]  # transformers is not followed
    """Writes and reports each step and held-out loss; asks for a checkpoint where the last one is long ago."""

    def __init__(
        self, path: Path | None, report: Report, work: Work, *, since: int, held_out: HeldOut, notes: Mapping[str, Any]
    ) -> None:
        """Go on after step ``since``; ``notes`` are reported with every step. Without ``path`` nothing is written."""
        self._path = path
        self._report = report
        self._work = work
        self._since = since
        self._held_out = held_out
        self._shown = dict(notes)
        self._checkpoint = since
        self._saved_at = time.perf_counter()

    def on_train_begin(self, _args: Any, state: Any, _control: Any, **kwargs: Any) -> None:
        """Start the clock, and measure the held-out loss that training has to lower."""
        self._work.started = self._saved_at = time.perf_counter()
        kept = {"checkpoint": self._checkpoint} if self._checkpoint else {}
        self._report(Progress(state.global_step, state.max_steps, "steps", stage="train", metrics=kept | self._shown))
        if not self._since:
            self._measure(state, kwargs["model"])

    def on_pre_optimizer_step(self, _args: Any, state: Any, _control: Any, **kwargs: Any) -> None:
        """Look at the gradients before they change a weight.

        Raises:
            NotFinite: one is infinite or no number.
        """
        gradients = [p.grad for p in kwargs["model"].parameters() if p.grad is not None]
        if gradients and not torch.stack(torch._foreach_norm(gradients)).isfinite().all():
            raise NotFinite("gradient", state.global_step)

    def on_step_end(self, _args: Any, _state: Any, control: Any, **_kwargs: Any) -> None:
        """Ask for a checkpoint after this step if it is time."""
        if time.perf_counter() - self._saved_at >= CHECKPOINT_EVERY_S:
            control.should_save = True

    def on_save(self, _args: Any, state: Any, _control: Any, **_kwargs: Any) -> None:
        """Remember the step from which a stopped run would go on."""
        self._checkpoint, self._saved_at = state.global_step, time.perf_counter()

    def on_log(self, _args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Write and report one step; measure the held-out loss where it is due, and stop where patience is over."""
        if logs is None or "loss" not in logs:
            return
        rates = self._work.rates()
        line: dict[str, Any] = {
            "step": state.global_step,
            "epoch": state.epoch,
            **{name: float(logs[name]) for name in ("loss", "learning_rate", "grad_norm") if name in logs},
            **rates,
        }
        self._write(line)
        left = state.max_steps - state.global_step
        eta_s = rates["seconds"] / (state.global_step - self._since) * left
        shown = {**line, "checkpoint": self._checkpoint, **self._shown}
        self._report(Progress(state.global_step, state.max_steps, "steps", eta_s, "train", shown))
        self._measure(state, kwargs["model"])
        control.should_training_stop |= self._held_out.is_over

    def _measure(self, state: Any, model: Any) -> None:
        if self._held_out.is_due(state.global_step, state.max_steps):
            loss = self._held_out.measure(model, state.global_step)
            self._shown["eval_loss"] = loss
            self._write({"step": state.global_step, "epoch": state.epoch or 0.0, "eval_loss": loss})

    def _write(self, line: dict[str, Any]) -> None:
        if self._path is not None:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a train_log.jsonl up to the first that is not whole: a kill cuts the last one short.

    A power cut also leaves holes behind the newest checkpoint, up to which the log is on the disk.

    A line of a step has ``step, epoch, loss, learning_rate, grad_norm, seconds, tokens_per_s, branches_per_s``, a line
    of a held-out loss ``step, epoch, eval_loss``; losses in nats per token.
    """
    if not path.is_file():
        return []
    found: list[dict[str, Any]] = []
    for line in path.read_bytes().split(b"\n")[:-1]:
        try:
            found.append(json.loads(line))
        except ValueError:
            break
    return found


def keep_until(path: Path, step: int) -> list[dict[str, Any]]:
    """Cut the log behind ``step``, since what came later will be done and logged again; return what is left."""
    kept = [line for line in read_log(path) if line["step"] <= step] if step else []
    # A kill in the middle must not cost the lines that are kept: what a run reports is made of them.
    write_atomic(path, "".join(json.dumps(line) + "\n" for line in kept).encode())
    return kept
