"""The loss on rows that are not trained on, and when to stop because of it.

Knows nothing of documents: that no held-out question is trained on is the caller's care.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from finetune import lora
from finetune.collate import Collator
from finetune.rows import Row
from finetune.trainer import trained_logits


class HeldOut:
    """Measures the held-out loss every so many steps, keeps the best LoRA, and knows when patience is over.

    Args:
        rows: none of which is trained on; without any nothing is measured.
        collate: as for training.
        every: optimizer steps between measurements.
        patience: measurements without a new best after which to stop; 0 never stops, and keeps no best LoRA.
        best: file of the best LoRA.
        measured: step -> loss, of the run that is continued.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        collate: Collator,
        *,
        every: int,
        patience: int,
        best: Path | None,
        measured: Mapping[int, float],
    ) -> None:
        self._rows = rows
        self._collate = collate
        self._every = every
        self._patience = patience
        self._best = best
        self._losses = dict(measured)

    def is_due(self, step: int, last_step: int) -> bool:
        """Tell whether to measure after ``step``: before the first, every so many, and after the last."""
        due = step % self._every == 0 or step == last_step
        return bool(self._rows) and due and step not in self._losses

    def measure(self, model: Any, step: int) -> float:
        """Return the mean cross-entropy of the held-out completions in nats per token, and keep a new best."""
        training = model.training
        model.eval()
        device = next(model.parameters()).device
        total, tokens = 0.0, 0
        with torch.inference_mode():
            for row in self._rows:
                batch = {name: tensor.to(device) for name, tensor in self._collate([row]).items()}
                loss = cross_entropy(trained_logits(model, batch), batch["targets"], reduction="sum")
                total += float(loss)
                tokens += batch["targets"].numel()
        model.train(training)
        loss_now = total / tokens
        if self._best and self._patience and loss_now < min(self._losses.values(), default=float("inf")):
            lora.save_weights(model, self._best, {"step": str(step), "eval_loss": repr(loss_now)})
        self._losses[step] = loss_now
        return loss_now

    @property
    def best_step(self) -> int:
        """Return the step with the lowest loss, the first of equals."""
        return min(sorted(self._losses), key=self._losses.__getitem__)

    @property
    def is_over(self) -> bool:
        """Tell whether the last ``patience`` measurements brought no new best."""
        after = sum(step > self.best_step for step in self._losses) if self._losses else 0
        return bool(self._patience) and after >= self._patience

    def metrics(self) -> dict[str, float]:
        """Return ``eval_loss_first``, ``_last``, ``_best`` (nats per token), ``eval_best_step`` and ``eval_rows``."""
        if not self._losses:
            return {}
        steps = sorted(self._losses)
        return {
            "eval_loss_first": self._losses[steps[0]],
            "eval_loss_last": self._losses[steps[-1]],
            "eval_loss_best": self._losses[self.best_step],
            "eval_best_step": self.best_step,
            "eval_rows": len(self._rows),
        }

    def restore_best(self, model: Any) -> None:
        """Give ``model`` its best LoRA back where patience asks for it."""
        if self._best and self._patience and self._best.is_file():
            lora.load_weights(model, self._best)
