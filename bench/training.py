"""Training on tree-packed rows against a stock ``transformers.Trainer`` with ``peft``, on the same examples.

The examples are the reader's: three paragraphs of an article and the four or five human questions of
one of them. Ours packs the questions of a paragraph into one row. The peer has a padded row for each
question, stock LoRA layers, sdpa attention, full logits and its loss on the completion's labels. Both
train r=8 on the same bfloat16 weights and tokens, each in a fresh process. Rates leave out each side's
first optimizer step, which also compiles and caches.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.sides import peak_mb, prepare, ratio, read_prepared, run_side
from data.records import Chunk, Model, Passage

if TYPE_CHECKING:
    from finetune.rows import RowSet

ROWS, PEER_ROWS = 12, 4
"""The peer gets the questions of every third row: all of them would take it minutes."""
STEP_ROWS = 2
"""Rows in one optimizer step; the peer's step has about as many questions."""
SETTINGS = {"learning_rate": 5e-4, "num_train_epochs": 1, "lr_scheduler_type": "linear", "warmup_steps": 1, "seed": 0}


def build(model: Model, count: int) -> RowSet:
    """Return ``count`` rows, each of one paragraph's questions over it and two others of its article."""
    from finetune.rows import answer_example, build_rows
    from finetune.weights import load_tokenizer
    from service.starter import starter_folder
    from service.starter_training import Paragraph, read_paragraphs

    articles: dict[str, list[Paragraph]] = defaultdict(list)
    for paragraph in read_paragraphs(starter_folder() / "squad.jsonl"):
        articles[paragraph.title].append(paragraph)
    examples, made = [], 0
    for title, paragraphs in articles.items():
        asked = next((p for p in paragraphs if len(p.questions) >= 4), None)
        if made == count or asked is None or len(paragraphs) < 3:
            continue
        texts = [p.text for p in paragraphs if p is not asked][:2]
        texts.insert(made % 3, asked.text)
        chunks = [Chunk(f"{title}{i}", title, text, 0, len(text), title) for i, text in enumerate(texts)]
        passages = [Passage(chunk, 0.0, i, "given") for i, chunk in enumerate(chunks, 1)]
        examples += [answer_example(q, a, passages, made % 3 + 1) for q, a in asked.questions[:5]]
        made += 1
    tokenizer = load_tokenizer(model.weights)
    return build_rows(examples, tokenizer, tokenizer.template)


def ours(model: Model, rows: RowSet) -> dict[str, Any]:
    """Measure ``finetune.train``."""
    from finetune.recipe import Recipe
    from finetune.train import read_log, train

    recipe = Recipe(r=8, lora_alpha=16, gradient_accumulation_steps=STEP_ROWS, **SETTINGS)
    with tempfile.TemporaryDirectory() as folder:
        result = train(recipe, rows, model, folder, lambda _progress: None)
        log = read_log(Path(result.files["log"]))
    clock = [(line["seconds"], line["seconds"] * line["branches_per_s"]) for line in log]
    return _figures(clock, log[-1]["loss"])


def peer(model: Model, rows: RowSet, batch: int) -> dict[str, Any]:
    """Measure the stock Trainer on one padded row for each question."""
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    from finetune.recipe import LINEAR_LAYERS
    from finetune.weights import load_model

    base = load_model(model.weights, device=torch.device("cpu"), dtype=torch.bfloat16, attention="sdpa")
    config = LoraConfig(r=8, lora_alpha=16, target_modules=list(LINEAR_LAYERS), task_type="CAUSAL_LM")
    examples = []
    for row in rows.rows:
        for branch in row.branches:
            prompt, completion = row.context_ids + branch.tail_ids, branch.completion_ids
            ids, labels = prompt + completion, (-100,) * len(prompt) + completion
            examples.append({"input_ids": torch.tensor(ids), "labels": torch.tensor(labels)})

    def pad(batch: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
        def padded(name: str, value: int) -> torch.Tensor:
            return torch.nn.utils.rnn.pad_sequence([e[name] for e in batch], batch_first=True, padding_value=value)

        lengths = torch.tensor([len(e["labels"]) for e in batch])
        mask = torch.arange(int(lengths.max())) < lengths[:, None]
        return {"input_ids": padded("input_ids", 0), "labels": padded("labels", -100), "attention_mask": mask.long()}

    class Clock(transformers.TrainerCallback):
        """Notes when each optimizer step ended, and how many questions had been seen."""

        def on_step_end(self, _args: Any, state: Any, _control: Any, **_kwargs: Any) -> None:
            seen = min(state.global_step * batch * accumulated, len(examples))
            clock.append((time.perf_counter() - started, seen))

    accumulated = max(1, round(STEP_ROWS * len(examples) / len(rows.rows) / batch))
    clock: list[tuple[float, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder,
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulated,
            use_cpu=True,
            bf16=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            **SETTINGS,
        )
        trainer = transformers.Trainer(
            get_peft_model(base, config), arguments, data_collator=pad, train_dataset=examples, callbacks=[Clock()]
        )
        started = time.perf_counter()
        loss = trainer.train().training_loss
    return _figures(clock, loss)


def _figures(clock: Sequence[tuple[float, float]], loss: float) -> dict[str, Any]:
    (began, before), (ended, after) = clock[0], clock[-1]
    rate = (after - before) / (ended - began)
    return {"branches_per_s": round(rate, 3), "branches": round(after), "seconds": round(ended, 2), "loss": loss}
