"""The long runs: ``python -m tests.torture [--kills N] [--index N] [--database N] [--lock N] [--jobs N]
[--crossings N] [--models N] [--fuzz N] [--together N] [--trainings N] [--callers N] [--overload N]
[--loaders N] [--clients N] [--adapters N] [--swaps N] [--points N] [--powercut N] [--exports N] [--full N]
[--snapshots N] [--deletions N]
[--terminations N] [--deaths N] [--cancels N] [--page]``.

Runs add up: each goes on with seeds that none before has had, and is recorded with its date and commit as it ends.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.torture import jobs, points, powercut
from tests.torture.damage import damage, second_process
from tests.torture.kills import run
from tests.torture.matrix import PAGE, RESULTS, page


def later(name: str, trials: int, seed: int, folder: Path) -> dict[str, int]:
    """Run what needs threads or heavy libraries: imported here, because the other runs fork."""
    found: dict[str, int] = import_module(f"tests.torture.{name}").run(trials, seed, folder)
    return found


THREADED = ("crossings", "models", "fuzz", "clients", "adapters", "swaps", "together", "callers", "overload", "loaders")
SERVICE = ("snapshots", "deletions", "terminations", "deaths", "cancels")

RUNS: dict[str, Callable[[int, int, Path], dict[str, Any]]] = {
    "kills": run,
    "index": partial(damage, database=False),
    "database": partial(damage, database=True),
    "lock": second_process,
    "jobs": jobs.run,
    "points": points.run,
    "powercut": powercut.run,
    **{name: partial(later, name) for name in (*THREADED, *SERVICE, "exports", "full", "trainings")},
}
DEFAULTS = {
    "kills": 3000,
    "index": 1000,
    "database": 200,
    "lock": 100,
    "jobs": 1000,
    "points": 6800,
    "crossings": 10_000,
    "models": 5000,
    "fuzz": 50_000,
    "clients": 500,
    "adapters": 1000,
    "swaps": 2500,
    "powercut": 200,
    "exports": 300,
    "full": 80,
    "together": 3000,
    "trainings": 150,
    "callers": 20_000,
    "overload": 5000,
    "loaders": 2_000_000,
    "snapshots": 50,
    "deletions": 1000,
    "terminations": 50,
    "deaths": 50,
    "cancels": 50,
}
A_PIECE = {
    "fuzz": 5000,
    "crossings": 2000,
    "clients": 500,
    "swaps": 2500,
    "models": 1000,
    "exports": 300,
    "powercut": 200,
    "full": 80,
    "together": 1000,
    "trainings": 150,
    "callers": 20_000,
    "overload": 5000,
    "loaders": 200_000,
    "terminations": 10,
}
"""Trials between two records, 100 where nothing is said: what is stopped loses at most these."""


def record(name: str, found: dict[str, Any]) -> None:
    """Add what a piece of a run gave to what is recorded."""
    results = json.loads(RESULTS.read_text(encoding="utf-8"))
    before = results.get(name, {})
    for kind, value in found.items():
        joined = max if isinstance(value, float) else sum
        before[kind] = joined([before.get(kind, 0), value])
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    before.setdefault("since", before.get("commit", commit.stdout.strip()))  # pieces may be of several commits
    before |= {"date": datetime.now(UTC).date().isoformat(), "commit": commit.stdout.strip()}
    results[name] = before
    RESULTS.write_text(json.dumps(results, indent=1, sort_keys=True) + "\n", encoding="utf-8")


def main() -> None:
    """Run what is wanted, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, count in DEFAULTS.items():
        parser.add_argument(f"--{name}", type=int, default=None, help=f"trials ({count} where no run is named)")
    parser.add_argument("--unrecorded", action="store_true", help="print what is found and keep nothing")
    parser.add_argument("--page", action="store_true", help="only write RELIABILITY.md")
    options = vars(parser.parse_args())
    wanted = {name: options[name] for name in RUNS if options[name] is not None} or DEFAULTS
    for name, trials in {} if options["page"] else wanted.items():
        piece = A_PIECE.get(name, 100)
        for start in range(0, trials, piece):
            recorded = json.loads(RESULTS.read_text(encoding="utf-8")).get(name, {})
            done = start if options["unrecorded"] else recorded.get("trials", 0)
            with tempfile.TemporaryDirectory(prefix="torture-") as folder:
                found = RUNS[name](min(piece, trials - start), 10_000 + int(done), Path(folder))
            if not options["unrecorded"]:
                record(name, found)
            print(json.dumps({name: found}), flush=True)  # noqa: T201
    if not options["unrecorded"]:
        PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
