"""``python -m finetune BUNDLE --out DIR``: train from a bundle that ``ragtune bundle`` made, anywhere.

Exit status 0 is success, 1 a failure that is explained on standard error, 2 wrong usage.
"""

from __future__ import annotations

import argparse
import json
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.errors import RagtuneError
from data.records import Progress

_PYTHON = (3, 11)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = _parser()
    given = parser.parse_args(arguments)
    changes = _changes(parser, given.set)
    try:
        from finetune.cloud.training import train_bundle
    except ImportError as error:
        return _complain(
            f"A library that training needs is missing: {error}",
            "Install them: pip install -r requirements.txt (from the bundle). torch comes with the platform's image; "
            "where it does not: pip install torch.",
        )
    try:
        done = train_bundle(given.bundle, given.out, _tell, model=given.model, changes=changes, minutes=given.minutes)
    except RagtuneError as error:
        return _complain(str(error))
    _say(json.dumps({"archive": str(done.archive), **done.metrics}, indent=1))
    _say(f"\nThe adapter is in {done.archive}. At home:\n{done.command}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m finetune", description="Train a LoRA from a ragtune bundle.")
    parser.add_argument("bundle", type=Path, help="the folder with manifest.json, train.jsonl and recipe.toml")
    parser.add_argument("--out", type=Path, required=True, help="where the adapter's archive goes; checkpoints too")
    parser.add_argument("--model", help="the base model's folder, GGUF file or hub id, instead of the bundle's")
    parser.add_argument("--minutes", type=float, help="train as many steps as fit into this time on this machine")
    parser.add_argument(
        "--set", action="append", default=[], metavar="FIELD=VALUE", help="run with another value of a recipe field"
    )
    return parser


def _changes(parser: argparse.ArgumentParser, pairs: Sequence[str]) -> dict[str, Any]:
    """Return the recipe fields that were given; values are written as in TOML, bare words are text."""
    changes: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            parser.error(f"--set {pair}: wanted FIELD=VALUE")
        try:
            changes[name.strip()] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            changes[name.strip()] = value
    return changes


def _tell(progress: Progress) -> None:
    shown = [f"{name} {v:.4g}" if isinstance(v, float) else f"{name} {v}" for name, v in progress.metrics.items()]
    count = f"{progress.done}/{progress.total} {progress.unit}" if progress.total else ""
    left = f"{progress.eta_s / 60:.1f} min left" if progress.eta_s else ""
    _say("  ".join(filter(None, (progress.stage, count, left, ", ".join(shown)))))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _complain(text: str, hint: str = "") -> int:
    sys.stderr.write(f"error: {text} {hint}\n")
    return 1


if __name__ == "__main__":
    if sys.version_info < _PYTHON:
        sys.exit(f"error: Python {sys.version.split()[0]} is too old. Wanted: 3.11 or newer.")
    sys.exit(main())
