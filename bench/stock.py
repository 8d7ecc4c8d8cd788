"""The training peer: a stock ``transformers.Trainer`` with ``peft``, one padded row for each question.

Stock LoRA layers, sdpa attention, logits of every token, the loss on the labels of the completion. The
weights and tokens are those that ours trains on. Knows nothing of how ours trains.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import transformers
from peft import LoraConfig, get_peft_model

from data.records import Model
from finetune.recipe import LINEAR_LAYERS
from finetune.rows import RowSet
from finetune.weights import load_model


def train_stock(
    model: Model, rows: RowSet, batch: int, step_rows: int, settings: Mapping[str, Any]
) -> list[tuple[float, float]]:
    """Train on every question of ``rows``; return (seconds, questions so far) at the end of each optimizer step.

    Args:
        model: its weights are dequantized to bfloat16 by transformers.
        rows: their branches become the questions.
        batch: questions in one forward pass.
        step_rows: an optimizer step takes about as many questions as so many rows have.
        settings: of ``TrainingArguments``.
    """
    base = load_model(model.weights, device=torch.device("cpu"), dtype=torch.bfloat16, attention="sdpa")
    config = LoraConfig(r=8, lora_alpha=16, target_modules=list(LINEAR_LAYERS), task_type="CAUSAL_LM")
    examples = [
        _example((*row.context_ids, *branch.tail_ids), branch.completion_ids)
        for row in rows.rows
        for branch in row.branches
    ]
    accumulated = max(1, round(step_rows * len(examples) / len(rows.rows) / batch))
    clock = Clock(batch * accumulated, len(examples))
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulated,
            use_cpu=True,
            bf16=False,  # autocast on top of bfloat16 weights took the same CPU time (2 rows: 46.0 s against 45.6 s)
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **settings,
        )
        adapted = get_peft_model(base, config)
        trainer = transformers.Trainer(
            adapted, arguments, data_collator=_pad, train_dataset=examples, callbacks=[clock]
        )
        trainer.train()
    return clock.steps


class Clock(transformers.TrainerCallback):
    """Notes the time and the questions seen at the end of each optimizer step."""

    def __init__(self, per_step: int, total: int) -> None:
        self.steps: list[tuple[float, float]] = []
        self._per_step, self._total = per_step, total
        self._started = 0.0

    def on_train_begin(self, *_args: Any, **_kwargs: Any) -> None:
        """Start the clock."""
        self._started = time.perf_counter()

    def on_step_end(self, _args: Any, state: Any, _control: Any, **_kwargs: Any) -> None:
        """Note one step."""
        seen = min(state.global_step * self._per_step, self._total)
        self.steps.append((time.perf_counter() - self._started, seen))


def _example(prompt: Sequence[int], completion: Sequence[int]) -> dict[str, torch.Tensor]:
    labels = [-100] * len(prompt) + list(completion)
    return {"input_ids": torch.tensor([*prompt, *completion]), "labels": torch.tensor(labels)}


def _pad(batch: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    def padded(name: str, value: int) -> torch.Tensor:
        rows = [example[name] for example in batch]
        return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)

    lengths = torch.tensor([len(example["labels"]) for example in batch])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return {"input_ids": padded("input_ids", 0), "labels": padded("labels", -100), "attention_mask": mask.long()}
