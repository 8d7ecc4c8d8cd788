"""``train --estimate`` against the truth: three trainings of different size, each estimated first and then done.

Rows and model are those of ``bench.training``. Estimate and training run in a fresh process each; the truth is the
wall time of the whole call and the process's peak memory.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from typing import Any

from bench.sides import peak_mb, prepare, ratio, read_prepared, run_side
from bench.training import SETTINGS, STEP_ROWS, build

SIZES: dict[str, dict[str, Any]] = {
    "6 rows": {"rows": 6},
    "18 rows": {"rows": 18},
    "10 rows, 2 a pass, r=32, checkpointing": {
        "rows": 10, "per_device_train_batch_size": 2, "r": 32, "gradient_checkpointing": True,
    },
}  # fmt: skip


def run(side: str, prepared: str, size: str) -> dict[str, Any]:
    """Estimate one training, or do it; return its seconds and peak memory."""
    from finetune.estimate import estimate
    from finetune.recipe import Recipe
    from finetune.train import train

    model, _ = read_prepared(prepared)
    changes = dict(SIZES[size])
    rows = build(model, changes.pop("rows"))
    recipe = Recipe.from_mapping(
        {"r": 8, "lora_alpha": 16, "gradient_accumulation_steps": STEP_ROWS, **SETTINGS, **changes}
    )
    begun = time.perf_counter()
    if side == "estimate":
        found = estimate(recipe, rows, model)
        took = time.perf_counter() - begun
        return {"seconds": found.seconds, "peak_mb": found.peak_memory_bytes / 1e6, "measuring_seconds": took}
    with tempfile.TemporaryDirectory() as folder:
        train(recipe, rows, model, folder, lambda _progress: None)
    return {"seconds": time.perf_counter() - begun, "peak_mb": peak_mb()}


def report(size: str, sides: dict[str, dict[str, Any]]) -> None:
    """Print one JSON line and a readable one for a size."""
    print(json.dumps({"bench": "estimate", "size": size, **sides}))
    said, true = sides["estimate"], sides["truth"]
    print(
        f"{size}: {said['seconds']:.0f} of {true['seconds']:.0f} s = {ratio(said['seconds'], true['seconds'])}; "
        f"{said['peak_mb']:.0f} of {true['peak_mb']:.0f} MB = {ratio(said['peak_mb'], true['peak_mb'])}; "
        f"measured in {said['measuring_seconds']:.0f} s",
        flush=True,
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Estimate and train every size, or do one of them."""
    parser = argparse.ArgumentParser(prog="python -m bench.estimate", description=__doc__)
    parser.add_argument("--side", choices=("prepare", "estimate", "truth"), help=argparse.SUPPRESS)
    parser.add_argument("--prepared", help=argparse.SUPPRESS)
    parser.add_argument("--size", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side == "prepare":
        print(json.dumps(prepare()))
    elif options.side:
        print(json.dumps(run(options.side, options.prepared, options.size)))
    else:
        prepared = json.dumps(run_side("bench.estimate", "prepare"))
        passed = {size: ("--prepared", prepared, "--size", size) for size in SIZES}
        sides = ("estimate", "truth")
        for size, words in passed.items():
            report(size, {side: run_side("bench.estimate", side, *words) for side in sides})


if __name__ == "__main__":
    main()
