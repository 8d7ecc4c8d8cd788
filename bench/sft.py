"""Training on tree-packed rows against TRL's ``SFTTrainer``, on the same questions, and what each has learnt by then.

As ``bench.training``, with TRL in place of the plain Trainer: its own trainer, collator and defaults on the tokens and
labels that ours trains on, one question in a forward pass (no padding), as many questions in an optimizer step.
Gradient checkpointing, on by default in TRL, is off: it costs time. Both sides train on all questions, once;
then the loss on questions of other articles is measured by the same code. TRL has an environment of its own, whose
Python is named by an option.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.sides import peak_mb, prepare, ratio, read_prepared, run_side
from bench.training import SETTINGS, STEP_ROWS, examples, figures
from data.records import Model

if TYPE_CHECKING:
    from finetune.rows import RowSet

ROWS, HELD_OUT = 20, 8
"""Paragraphs, four or five questions each, that are trained on; and of the articles after those, measured on."""


def build(model: Model, rows: int) -> tuple[RowSet, RowSet]:
    """Return the rows to train on and those to measure on."""
    from finetune.rows import build_rows
    from finetune.weights import load_tokenizer

    tokenizer = load_tokenizer(model.weights)
    everything = [examples(rows), examples(HELD_OUT, first=70)]
    trained, held_out = (build_rows(some, tokenizer, tokenizer.template) for some in everything)
    return trained, held_out


def loss(model: Any, rows: RowSet) -> float:
    """Return the mean loss of the completions in nats per token."""
    import torch

    from finetune.collate import Collator
    from finetune.held_out import HeldOut

    collate = Collator("full", torch.bfloat16)
    return HeldOut(rows.rows, collate, every=1, patience=0, best=Path(), measured={}).measure(model, 0)


def ours(model: Model, rows: RowSet, held_out: RowSet) -> dict[str, Any]:
    """Measure ``finetune.train``."""
    import torch

    from finetune import lora
    from finetune.recipe import Recipe
    from finetune.train import read_log, train
    from finetune.weights import load_model

    recipe = Recipe(r=8, lora_alpha=16, gradient_accumulation_steps=STEP_ROWS, **SETTINGS)
    with tempfile.TemporaryDirectory() as folder:
        result = train(recipe, rows, model, folder, lambda _progress: None)
        peak = peak_mb()
        log = read_log(Path(result.files["log"]))
        bare = load_model(model.weights, device=torch.device("cpu"), dtype=torch.bfloat16)
        before = loss(bare, held_out)
        adapted = lora.load_adapter(bare, folder)
    found = figures([(line["seconds"], line["seconds"] * line["branches_per_s"]) for line in log])
    return {**found, "peak_mb": peak, "held_out_before": before, "held_out_loss": loss(adapted, held_out)}


def trl(model: Model, rows: RowSet, held_out: RowSet) -> dict[str, Any]:
    """Measure ``trl.SFTTrainer``."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast
    from trl import SFTConfig, SFTTrainer

    from bench.stock import Clock
    from finetune.gguf_tensors import GgufFile
    from finetune.recipe import LINEAR_LAYERS
    from finetune.vocabulary import tokenizer_from_gguf
    from finetune.weights import load_model

    base = load_model(model.weights, device=torch.device("cpu"), dtype=torch.bfloat16, attention="sdpa")
    backend: Tokenizer = tokenizer_from_gguf(GgufFile(model.weights))
    end = "<|im_end|>"
    table = [
        {
            "input_ids": [*row.context_ids, *branch.tail_ids, *branch.completion_ids],
            "labels": [-100] * (len(row.context_ids) + len(branch.tail_ids)) + list(branch.completion_ids),
        }
        for row in rows.rows
        for branch in row.branches
    ]
    accumulated = round(STEP_ROWS * len(table) / len(rows.rows))
    clock = Clock(accumulated, len(table))
    with tempfile.TemporaryDirectory() as folder:
        arguments = SFTConfig(
            folder,
            per_device_train_batch_size=1,
            gradient_accumulation_steps=accumulated,
            gradient_checkpointing=False,
            max_length=None,
            use_cpu=True,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            dataset_kwargs={"skip_prepare_dataset": True},
            **SETTINGS,
        )
        trainer = SFTTrainer(
            base,
            args=arguments,
            train_dataset=Dataset.from_list(table),
            processing_class=PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end, pad_token=end),
            peft_config=LoraConfig(r=8, lora_alpha=16, target_modules=list(LINEAR_LAYERS), task_type="CAUSAL_LM"),
            callbacks=[clock],
        )
        trainer.train()
    return {**figures(clock.steps), "peak_mb": peak_mb(), "held_out_loss": loss(trainer.model, held_out)}


def report(found: dict[str, dict[str, Any]]) -> None:
    """Print one JSON line and a readable one."""
    mine, peer = found["ours"], found["trl"]
    ratios = {name: ratio(mine[name], peer[name]) for name in ("branches_per_s", "peak_mb")}
    print(json.dumps({"bench": "sft", **found, "ours/trl": ratios}))
    print(
        f"training / SFTTrainer: {mine['branches_per_s']:.2f} / {peer['branches_per_s']:.2f} questions per s = "
        f"{ratios['branches_per_s']}; memory {mine['peak_mb']:.0f} MB / {peer['peak_mb']:.0f} MB = "
        f"{ratios['peak_mb']}; held-out loss {mine['held_out_loss']:.4f} / {peer['held_out_loss']:.4f}, "
        f"{mine['held_out_before']:.4f} before"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run both sides and report, or be one side."""
    parser = argparse.ArgumentParser(prog="python -m bench.sft", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--peer-python", default=sys.executable, help="a Python that has TRL beside our packages")
    parser.add_argument("--side", choices=("prepare", "ours", "trl"), help=argparse.SUPPRESS)
    parser.add_argument("--prepared", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side == "prepare":
        print(json.dumps(prepare()))
    elif options.side:
        model, _ = read_prepared(options.prepared)
        print(json.dumps((ours if options.side == "ours" else trl)(model, *build(model, options.rows))))
    else:
        passed = ("--rows", str(options.rows), "--prepared", json.dumps(run_side("bench.sft", "prepare")))
        pythons = {"ours": sys.executable, "trl": options.peer_python}
        report({side: run_side("bench.sft", side, *passed, python=path) for side, path in pythons.items()})


if __name__ == "__main__":
    main()
