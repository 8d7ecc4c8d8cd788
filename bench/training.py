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
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.sides import peak_mb, prepare, ratio, read_prepared, run_side
from data.records import Chunk, Model, Passage

if TYPE_CHECKING:
    from finetune.rows import Example, RowSet

ROWS, PEER_ROWS = 12, 4
"""The peer gets the questions of the first four rows only: all of them would take it minutes."""
STEP_ROWS = 2
"""Rows in one optimizer step; the peer's step has about as many questions."""
SETTINGS: dict[str, Any] = {
    "learning_rate": 5e-4,
    "num_train_epochs": 1,
    "lr_scheduler_type": "linear",
    "warmup_steps": 1,
    "seed": 0,
}


def build(model: Model, count: int) -> RowSet:
    """Return ``count`` rows, each of one paragraph's questions over it and two others of its article."""
    from finetune.rows import build_rows
    from finetune.weights import load_tokenizer

    tokenizer = load_tokenizer(model.weights)
    return build_rows(examples(count), tokenizer, tokenizer.template)


def examples(count: int, first: int = 0) -> list[Example]:
    """Return the questions of ``count`` paragraphs, each of another article, the articles from the ``first`` on."""
    from finetune.rows import answer_example
    from service.starter import starter_folder
    from service.starter_training import Paragraph, read_paragraphs

    articles: dict[str, list[Paragraph]] = defaultdict(list)
    for paragraph in read_paragraphs(starter_folder() / "squad.jsonl"):
        articles[paragraph.title].append(paragraph)
    found, made = [], 0
    for title, paragraphs in list(articles.items())[first:]:
        asked = next((p for p in paragraphs if len(p.questions) >= 4), None)
        if made == count or asked is None or len(paragraphs) < 3:
            continue
        texts = [p.text for p in paragraphs if p is not asked][:2]
        texts.insert(made % 3, asked.text)
        chunks = [Chunk(f"{title}{i}", title, text, 0, len(text), title) for i, text in enumerate(texts)]
        passages = [Passage(chunk, 0.0, i, "given") for i, chunk in enumerate(chunks, 1)]
        found += [answer_example(q, a, passages, made % 3 + 1) for q, a in asked.questions[:5]]
        made += 1
    return found


def ours(model: Model, rows: RowSet) -> dict[str, Any]:
    """Measure ``finetune.train``."""
    from finetune.recipe import Recipe
    from finetune.train import read_log, train

    recipe = Recipe(r=8, lora_alpha=16, gradient_accumulation_steps=STEP_ROWS, **SETTINGS)
    with tempfile.TemporaryDirectory() as folder:
        result = train(recipe, rows, model, folder, lambda _progress: None)
        log = read_log(Path(result.files["log"]))
    return figures([(line["seconds"], line["seconds"] * line["branches_per_s"]) for line in log])


def figures(clock: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """Return the rate between the first and the last of (seconds, questions so far), one for each optimizer step."""
    (began, before), (ended, after) = clock[0] if len(clock) > 1 else (0.0, 0.0), clock[-1]
    rate = (after - before) / (ended - began)
    return {"branches_per_s": round(rate, 3), "branches": round(after), "seconds": round(ended, 2)}


def report(found: dict[str, dict[str, Any]]) -> None:
    """Print one JSON line and a readable one."""
    mine, stock = found["ours"], found["peer"]
    ratios = {name: ratio(mine[name], stock[name]) for name in ("branches_per_s", "peak_mb")}
    print(json.dumps({"bench": "training", **found, "ours/peer": ratios}))
    print(
        f"training / stock Trainer: {mine['branches_per_s']:.2f} / {stock['branches_per_s']:.2f} questions per s = "
        f"{ratios['branches_per_s']}; memory {mine['peak_mb']:.0f} MB / {stock['peak_mb']:.0f} MB = {ratios['peak_mb']}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run both sides and report, or be one side."""
    parser = argparse.ArgumentParser(prog="python -m bench.training", description=__doc__)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--peer-rows", type=int, default=PEER_ROWS)
    parser.add_argument("--peer-batch", type=int, default=1, help="questions in the peer's forward pass")
    parser.add_argument("--side", choices=("prepare", "ours", "peer"), help=argparse.SUPPRESS)
    parser.add_argument("--prepared", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side == "prepare":
        print(json.dumps(prepare()))
    elif options.side:
        model, _ = read_prepared(options.prepared)
        rows = build(model, options.rows)
        if options.side == "ours":
            result = ours(model, rows)
        else:
            from bench.stock import train_stock

            result = figures(train_stock(model, rows, options.peer_batch, STEP_ROWS, SETTINGS))
        print(json.dumps({**result, "peak_mb": peak_mb()}))
    else:
        passed = (
            "--peer-batch",
            str(options.peer_batch),
            "--prepared",
            json.dumps(run_side("bench.training", "prepare")),
        )
        counts = {"ours": options.rows, "peer": options.peer_rows}
        report({side: run_side("bench.training", side, "--rows", str(n), *passed) for side, n in counts.items()})


if __name__ == "__main__":
    main()
