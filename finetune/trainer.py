"""transformers' Trainer for rows that are trees: logits only where there is loss, and checkpoints that are whole.

Started in several processes (``accelerate launch``) each takes its share of an optimizer step's rows. Knows nothing of
recipes' files, of adapters' formats or of what a run leaves behind.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.nn.functional import cross_entropy
from transformers.trainer_pt_utils import get_length_grouped_indices
from transformers.trainer_utils import rotate_checkpoints

from data.state import sync_folder, sync_tree
from finetune import lora
from finetune.checkpoints import storage_errors
from finetune.masks import layer_masks


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


class NotFinite(Exception):
    """A loss or a gradient that is infinite or no number, met behind ``step`` whole optimizer steps."""

    def __init__(self, what: str, step: int) -> None:
        super().__init__(f"{what} after step {step}")
        self.what = what
        self.step = step


class TreeTrainer(transformers.Trainer):  # type: ignore[misc]  # transformers is not followed
    """A Trainer whose loss is the mean over the trained tokens of a whole optimizer step."""

    optimizer: Any

    def __init__(self, work: Work, *, loraplus_lr_ratio: float, group_by_length: bool, **settings: Any) -> None:
        super().__init__(**settings)
        self._group_by_length = group_by_length
        self._work = work
        self._loraplus_lr_ratio = loraplus_lr_ratio
        self._saving_to: Path | None = None
        # compute_loss divides by the tokens of the whole step, so the Trainer must not divide again.
        self.loss_is_scaled_for_ga = True
        if self.args.world_size > 1:
            # Gradients are summed over processes for what goes through the wrapped model's own forward.
            self.model.forward = partial(trained_logits, self.model)

    def create_optimizer(self, model: Any = None) -> Any:
        """Return the optimizer; B learns ``loraplus_lr_ratio`` times as fast as A."""
        if self.optimizer is None and self._loraplus_lr_ratio != 1:
            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            self.optimizer = lora.loraplus_optimizer(
                self.model, kind, settings, self._loraplus_lr_ratio, self.args.weight_decay
            )
        return super().create_optimizer(model)

    def get_batch_samples(
        self, epoch_iterator: Any, num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, torch.Tensor]], int]:
        """Return this process's batches of one optimizer step, and the trained tokens of all processes' batches."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        tokens = torch.tensor(sum(batch["targets"].numel() for batch in batches), device=device)
        return batches, int(self.accelerator.reduce(tokens, reduction="sum"))

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
        processes = self.args.world_size
        logits = trained_logits(model, inputs) if processes == 1 else model(inputs)
        total = cross_entropy(logits, inputs["targets"], reduction="sum")
        # Of the processes' gradients the mean is taken, where the sum is meant.
        loss = processes * total / (num_items_in_batch or inputs["targets"].numel())
        return (loss, {"logits": logits}) if return_outputs else loss

    def training_step(self, *arguments: Any, **settings: Any) -> torch.Tensor:
        """Do one forward and backward pass.

        Raises:
            NotFinite: the loss is infinite or no number; no weight has changed by it.
        """
        loss: torch.Tensor = super().training_step(*arguments, **settings)
        if not torch.isfinite(loss):
            raise NotFinite("loss", self.state.global_step)
        return loss

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the LoRA alone; peft's default would ask the hub whether the embeddings changed."""
        if self.args.should_save:
            self.model.save_pretrained(output_dir or self.args.output_dir, save_embedding_layers=False)

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._saving_to) if self._saving_to else str(super()._get_output_dir(trial))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Save a checkpoint under another name, then rename it: it is on the disk whole or not there."""
        folder = Path(self.args.output_dir)
        name = f"checkpoint-{self.state.global_step}"
        self._saving_to = folder / "part"
        first = self.is_world_process_zero()
        if first:
            shutil.rmtree(self._saving_to, ignore_errors=True)
        self.accelerator.wait_for_everyone()
        try:
            with storage_errors(folder):
                super()._save_checkpoint(model, trial)
                # Each process has written the state of its random numbers.
                self.accelerator.wait_for_everyone()
                if first:
                    # Bytes before names, and the log of these steps as well: whoever goes on needs both.
                    sync_tree(folder.parent, folder.parent)
                    shutil.rmtree(folder / name, ignore_errors=True)
                    (self._saving_to / name).rename(folder / name)
                    sync_folder(folder)
        finally:
            if first:
                shutil.rmtree(self._saving_to, ignore_errors=True)
            self._saving_to = None
        if first:
            rotate_checkpoints(str(folder), self.args.save_total_limit)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        # Not where one row at a time was asked for; but where memory ran out the order stays what it was.
        if not self._group_by_length:
            return super()._get_train_sampler(train_dataset)
        step_rows = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LengthBuckets([len(row) for row in self.train_dataset], step_rows, self.args.seed)


class LengthBuckets(torch.utils.data.Sampler[int]):
    """Rows in an order in which those of one batch are of like length, so that little of it is padding.

    transformers' own sampler of this kind draws from torch's global state, which is another one where a run is
    continued in a later epoch; here an epoch's order follows from the seed and the epoch.
    """

    def __init__(self, lengths: Sequence[int], step_rows: int, seed: int) -> None:
        """Take the rows' lengths in tokens and the number of rows in an optimizer step."""
        self._lengths = list(lengths)
        self._step_rows = step_rows
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, counted from 0; called by accelerate's data loader."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        return iter(get_length_grouped_indices(self._lengths, self._step_rows, generator=generator))

    def __len__(self) -> int:
        return len(self._lengths)


def trained_logits(model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Return the logits that predict the trained tokens; shape (trained tokens, n_vocab), float32.

    The output layer sees only those places: over a whole row its logits would cost more than the model.
    """
    causal_lm = model.get_base_model() if hasattr(model, "get_base_model") else model
    hidden = causal_lm.get_decoder()(
        input_ids=inputs["input_ids"],
        attention_mask=layer_masks(causal_lm.config, inputs["attention_mask"], inputs["position_ids"]),
        position_ids=inputs["position_ids"],
        use_cache=False,
    ).last_hidden_state
    places = hidden.reshape(-1, hidden.shape[-1])[inputs["sources"]]
    logits: torch.Tensor = causal_lm.get_output_embeddings()(places).float()
    return logits
