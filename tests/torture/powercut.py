"""Row 3 of the matrix: the power is cut between any two writes of a process that changes documents and the index.

What it does to its files is recorded (``record.c``), with the moment at which each change was acknowledged. Then the
disk is rebuilt as it stood at a moment of chance: with what was synced alone, or with some of what was on its way
besides, SQLite's own files included. Whoever opens that must find what was acknowledged, whole, and nothing else.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data.store import database
from tests.torture.forks import run_forked
from tests.torture.kills import DOCUMENTS, Client, inspect, work
from tests.torture.matrix import ROOT
from tests.torture.replay import Disk, Record, read, recorder

FAULTS = ("lost", "phantom", "duplicate", "resurrected", "unopened", "broken")
ACKNOWLEDGED = 14
"""Changes in one recording, after as many made before it."""
STATES_A_RECORDING = 50
SAID = "said"
"""The file that stands for what clients were told."""


class Enough(Exception):
    """So much was acknowledged."""


def live(root: Path, seed: int) -> None:
    """Change documents until so many changes were acknowledged; what is said goes into a file."""
    said = os.open(root / SAID, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    left = ACKNOWLEDGED

    def say(line: str) -> None:
        nonlocal left
        os.write(said, f"{line}\n".encode())
        left -= line == "acknowledged"
        if left == 0:
            raise Enough

    try:
        work(root, seed, say)
    except Enough:
        return


def careless(root: Path, seed: int) -> None:
    """Do the same with a database that syncs nothing: what this module has to find out."""
    database.SYNCED = "OFF"
    live(root, seed)


def record(root: Path, log: Path, work: str, seed: int, library: Path | None) -> None:
    """Run ``work(root, seed)`` of a module in a process of its own, recorded where a library is given.

    Raises:
        CalledProcessError: it failed.
    """
    module, _, name = work.rpartition(".")
    command = f"import sys; from pathlib import Path; from {module} import {name}; {name}(Path(sys.argv[1]), {seed})"
    watch = {} if library is None else {"LD_PRELOAD": str(library), "RECORD_LOG": str(log), "RECORD_ROOT": str(root)}
    subprocess.run([sys.executable, "-c", command, str(root)], cwd=ROOT, env={**os.environ, **watch}, check=True)


def moments(disk: Disk, records: list[Record], count: int, chance: random.Random) -> Iterator[int]:
    """Bring a disk to ``count`` moments of a recording in turn, a third of them where something was just said."""
    said = [number for number, found in enumerate(records) if found.kind == "w" and b"acknowledged" in found.content]
    at = 0
    places = [
        chance.choice(said) + 1 if chance.random() < 0.3 else chance.randrange(len(records)) for _ in range(count)
    ]
    for place in sorted(places):
        for found in records[at:place]:
            disk.apply(found)
        at = max(at, place)
        yield place


def leave(disk: Disk, target: Path, kind: str, chance: random.Random) -> None:
    """Write one of the states that a disk may be left in: ``synced``, ``some`` or ``killed``."""
    if kind == "killed":
        disk.leave_killed(target)
    else:
        disk.leave_cut(target, chance if kind == "some" else None)


def run(trials: int, seed: int, folder: Path, work: str = "live") -> dict[str, int]:
    """Cut the power at ``trials`` moments while documents change; return what was found afterwards."""
    library = recorder(folder)
    counts: Counter[str] = Counter(dict.fromkeys((*FAULTS, "trials", "synced", "some"), 0))
    for first in range(0, trials, STATES_A_RECORDING):
        (root := folder / str(first)).mkdir()
        log, known = root.with_suffix(".log"), Client()
        if first:  # the first one begins with nothing
            record(root, log, f"{__name__}.live", seed + first, None)
            known.hear((root / SAID).read_text().splitlines())
            (root / SAID).write_text("")
        disk = Disk(root)
        record(root, log, f"{__name__}.{work}", seed + first + 1, library)
        counts.update(
            _cut(
                root,
                disk,
                list(read(log)),
                known.certain,
                random.Random(seed + first),
                min(STATES_A_RECORDING, trials - first),
            )
        )
        shutil.rmtree(root)
    return dict(counts)


def _cut(
    root: Path, disk: Disk, records: list[Record], before: dict[int, int], chance: random.Random, count: int
) -> Counter[str]:
    counts: Counter[str] = Counter()
    for trial, place in enumerate(moments(disk, records, count, chance)):
        client = Client()
        client.certain = dict(before)
        client.hear(disk.read(SAID).decode().splitlines())
        left, kind = root.with_name("left"), ("synced", "some")[trial % 2]
        leave(disk, left, kind, chance)
        faults = _found(left, client)
        counts.update([*faults, "trials", kind])
        if faults:
            print(json.dumps({"at": place, "kind": kind, "faults": faults}), flush=True)  # noqa: T201
        shutil.rmtree(left)
    return counts


def _found(left: Path, client: Client) -> list[str]:
    possible = {number: client.possible(number) for number in range(DOCUMENTS)}
    ended = run_forked(lambda say: inspect(left, possible, client.certain, say))
    return [line for line in ended.said if line in FAULTS] + (["unopened"] if ended.status != 0 else [])
