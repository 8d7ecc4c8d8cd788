"""A house style from fifty examples: does the adapter write like the house, and do its facts stay?

``python -m bench.style``. The sample documents are indexed, the fifty sample examples (about eighteen of the articles)
are imported and trained on with the ``style`` recipe, starting from the packaged reader. Then the reader and the new
adapter answer the 72 sample questions, which are about the other six articles. Intervals are paired, over questions.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from bench.sides import STATE
from data.formats import read_questions
from data.records import Progress
from service.compare.evaluation import EvaluationRequest, evaluate
from service.compare.style import read_examples
from service.settings import Settings
from service.work import import_pairs, train
from service.workspace import Workspace

SAMPLES = Path(__file__).parents[1] / "data" / "samples"
COLLECTION, NAME = "bench-style", "house"
MAX_TOKENS = 96
"""The house writes three lines."""


def quiet(_progress: Progress) -> None:
    """Report nothing."""


def run(workspace: Workspace, recipe: dict[str, Any]) -> dict[str, Any]:
    """Import, train and compare; return what a reader of the figures wants to know."""
    workspace.ensure_starter_adapters()
    workspace.ingestor.ingest(COLLECTION, [SAMPLES / "corpus"])
    path = SAMPLES / "style.jsonl"
    imported = import_pairs.run(workspace, {"path": str(path), "collection": COLLECTION, "style": True}, quiet)
    trained = train.run(workspace, {"name": NAME, "collection": COLLECTION, "recipe": recipe}, quiet)
    request = EvaluationRequest(
        questions=tuple(read_questions(SAMPLES / "questions.jsonl")),
        arms=("reader", NAME),
        collection=COLLECTION,
        max_tokens=MAX_TOKENS,
        out=STATE / "style",
        fresh=True,
        style=read_examples(path),
    )
    found = evaluate(workspace, request, quiet).result
    return {
        "imported": imported["imported"],
        "training": {name: trained["metrics"][name] for name in ("steps", "seconds", "loss_first", "loss_last")},
        "parity": trained["parity"],
        "arms": {
            arm: {name: row[name] for name in ("f1", "containment", "abstained", "citation_precision")}
            for arm, row in found["arms"].items()
        },
        "style": found["style"],
    }


def main() -> None:
    """Measure and print one JSON line and a readable one."""
    from finetune.recipe import recipe_values

    parser = argparse.ArgumentParser(prog="python -m bench.style", description=__doc__)
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="recipe fields to change")
    options = parser.parse_args()
    changes = {name: json.loads(value) for name, _, value in (text.partition("=") for text in options.set)}
    state = STATE.parent / "bench-style"
    shutil.rmtree(state, ignore_errors=True)
    with Workspace(Settings.load(state_dir=state, model="starter", embedder="starter")) as workspace:
        found = run(workspace, recipe_values("style") | changes)
    print(json.dumps({"bench": "style", **found}))
    style, facts = found["style"], next(iter(found["style"]["difference"].values()))["facts"]
    before, after = (style["arms"][arm]["total"] for arm in ("reader", NAME))
    print(
        f"style: {before:.1f} -> {after:.1f} of {style['ceiling']:.1f}; "
        f"facts gained {facts['gained']}, lost {facts['lost']}, McNemar p {facts['p']:.2g}"
    )


if __name__ == "__main__":
    main()
