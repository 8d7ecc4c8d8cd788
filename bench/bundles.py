"""A bundle of a thousand examples: how large it is, how long it takes, and whether it trains to the same losses.

The questions are those of the starter's training file, over their articles, which are ingested anew; the bundle that is
measured is for a base model from a hub. The losses are those of a bundle with the starter model in it: trained by
``python -m finetune`` in a process of its own, against ``finetune.train`` on the rows of the same workspace.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from data.records import Progress, QAPair, content_id
from service.bundling import make_bundle
from service.settings import Settings
from service.starter import starter_folder
from service.starter_training import read_paragraphs
from service.workspace import Workspace

EXAMPLES = 1000
STEPS = 8
BASE = "Qwen/Qwen2.5-1.5B-Instruct"


def ignore(_progress: Progress) -> None:
    """Take a report and say nothing."""


def fill(workspace: Workspace, folder: Path, count: int) -> None:
    """Ingest articles with at least ``count`` questions, and accept the questions as pairs."""
    articles: dict[str, list[Any]] = defaultdict(list)
    for paragraph in read_paragraphs(starter_folder() / "squad.jsonl"):
        articles[paragraph.title].append(paragraph)
    asked: list[tuple[str, str]] = []
    for number, (title, paragraphs) in enumerate(articles.items()):
        if len(asked) >= count:
            break
        text = f"# {title}\n\n" + "\n\n".join(paragraph.text for paragraph in paragraphs)
        (folder / f"{number:03}.md").write_text(text, encoding="utf-8")
        asked += [pair for paragraph in paragraphs for pair in paragraph.questions]
    workspace.ingestor.ingest("default", [folder])
    chunks = [chunk for _key, chunk, _title in workspace.store.chunks.iterate("default")]
    pairs = []
    for question, answer in asked[:count]:
        chunk = next((chunk for chunk in chunks if answer in chunk.text), None)
        if chunk is not None:
            pairs.append(QAPair(content_id(question), question, answer, (chunk.id,), "span", "squad", "accepted"))
    workspace.store.pairs.add("default", None, pairs)


def size_and_time(workspace: Workspace, root: Path) -> dict[str, Any]:
    """Measure the bundle for a base model from a hub."""
    started = time.perf_counter()
    made = make_bundle(
        workspace, "colab", root / "hub", {"name": "bench", "base_model": BASE, "collection": "default"}, ignore
    )
    seconds = time.perf_counter() - started
    rows = sum(path.stat().st_size for path in (root / "hub" / "bundle").glob("*.jsonl"))
    return {
        "examples": made["examples"],
        "held_out": made["held_out"],
        "seconds": round(seconds, 1),
        "bundle_mb": round(made["bytes"] / 1e6, 2),
        "rows_mb": round(rows / 1e6, 2),
        "zip_mb": round((root / "hub" / "bundle.zip").stat().st_size / 1e6, 2),
    }


def losses(workspace: Workspace, root: Path, steps: int) -> dict[str, Any]:
    """Train some steps at home and from a bundle; return how many losses are equal."""
    from finetune.train import train
    from finetune.train_log import read_log
    from service.training_set import training_set

    recipe = {"max_steps": steps, "eval_share": 0.0}
    inputs = {"name": "bench", "collection": "default", "recipe": recipe}
    found = training_set(workspace, inputs, ignore)
    train(found.recipe, found.rows, workspace.model, root / "home", ignore)
    make_bundle(workspace, "skypilot", root / "own", inputs, ignore)
    command = [sys.executable, "-m", "finetune", str(root / "own" / "bundle"), "--out", str(root / "away")]
    subprocess.run(command, check=True, capture_output=True)
    sides = [read_log(folder / "train_log.jsonl") for folder in (root / "home", root / "away" / "training")]
    pairs = [(one["loss"], other["loss"]) for one, other in zip(*sides, strict=True)]
    return {
        "steps": len(pairs),
        "equal": sum(one == other for one, other in pairs),
        "largest_difference": max(abs(one - other) for one, other in pairs),
        "loss_first": pairs[0][0],
        "loss_last": pairs[-1][0],
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure, and print one JSON document."""
    parser = argparse.ArgumentParser(prog="python -m bench.bundles", description=__doc__)
    parser.add_argument("--examples", type=int, default=EXAMPLES)
    parser.add_argument("--steps", type=int, default=STEPS, help="0 compares no losses")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "documents").mkdir()
        with Workspace(Settings.load(state_dir=root / "state", model="starter")) as workspace:
            fill(workspace, root / "documents", given.examples)
            measured = size_and_time(workspace, root)
            if given.steps:
                measured["losses"] = losses(workspace, root, given.steps)
    print(json.dumps(measured, indent=1))


if __name__ == "__main__":
    main()
