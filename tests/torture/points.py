"""Row 2 of the matrix: killed before each thing that a change of an index does to the disk or to the database.

A kill point is named after what was about to happen: a file that Python opens for writing, a rename, a link, a folder,
a removal, a commit. They are met by an audit hook and an event of SQLAlchemy in the child, so nothing is compiled into
the service. What native code writes lies between two points. Whatever is left, the current index must hold
exactly the chunks of before or exactly the store's, in both legs, and be whole again after the next build.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from data.state import StateDirectory
from data.store import Store
from retrieval.generation import open_generation
from retrieval.ingest import Ingestor
from tests.retrieval.hashing import HashingEmbedder, Settings
from tests.torture.forks import Say, run_forked
from tests.torture.kills import text

FAULTS = ("mixed", "damaged", "broken", "unopened")
DOCUMENTS = 6
_WRITES = os.O_WRONLY | os.O_RDWR
_EVENTS = frozenset(("os.rename", "os.link", "os.mkdir", "os.remove", "os.rmdir"))


class Points:
    """Counts what is about to happen under a folder, and kills the process before the one of a number."""

    def __init__(self, root: Path, at: int) -> None:
        self._root, self._left = str(root), at
        self.met: list[str] = []
        sys.addaudithook(self._hear)
        sa.event.listen(sa.Engine, "commit", lambda _connection: self._meet("commit", ""))

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        opens = event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES
        if (opens or event in _EVENTS) and str(arguments[0]).startswith(self._root):
            self._meet(event, Path(str(arguments[0])).name)

    def _meet(self, event: str, name: str) -> None:
        # Names of temporary files are of chance, numbers of generations and segments grow.
        self.met.append(f"{event} {re.sub(r'[0-9a-f]{8,}|[0-9]+|tmp.*', 'N', name)}".strip())
        self._left -= 1
        if self._left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def _opened(root: Path) -> tuple[Store, StateDirectory, Ingestor]:
    state = StateDirectory(root / "state").create()
    store = Store.open(state.db)
    return store, state, Ingestor(store, state, HashingEmbedder(), Settings())


def _write(root: Path, numbers: range, version: int) -> Path:
    folder = root / "documents"
    folder.mkdir(exist_ok=True)
    for number in numbers:
        (folder / f"{number}.md").write_text(text(number, version), encoding="utf-8")
    return folder


def prepare(root: Path, seed: int) -> None:
    """Make two generations, so that there is one to go back to."""
    store, _, ingestor = _opened(root)
    with store:
        ingestor.ingest("default", [_write(root, range(DOCUMENTS - 1), seed)])
        ingestor.ingest("default", [_write(root, range(DOCUMENTS - 1, DOCUMENTS), seed)])


def _sync(root: Path, _store: Store, ingestor: Ingestor, seed: int) -> None:
    folder = _write(root, range(2), seed + 1)
    _write(root, range(DOCUMENTS, DOCUMENTS + 2), seed + 1)
    (folder / "3.md").unlink()
    ingestor.ingest("default", [folder], sync=True)


def _delete(_root: Path, store: Store, ingestor: Ingestor, seed: int) -> None:
    known = store.documents.by_source("default")
    ingestor.delete(known[random.Random(seed).choice(sorted(known))].id)


CHANGES: dict[str, Callable[[Path, Store, Ingestor, int], object]] = {
    "sync": _sync,
    "delete": _delete,
    "rebuild": lambda _root, _store, ingestor, _seed: ingestor.rebuild("default"),
    "compact": lambda _root, _store, ingestor, _seed: ingestor.compact("default"),
    "rollback": lambda _root, _store, ingestor, _seed: ingestor.rollback("default"),
}


def change(root: Path, kind: str, seed: int, at: int, say: Say) -> None:
    """Change the index and be killed at a point; say what points were met where there were fewer."""
    store, _, ingestor = _opened(root)
    with store:
        points = Points(root / "state", at)
        CHANGES[kind](root, store, ingestor, seed)
        say(json.dumps(points.met))


def held(state: StateDirectory, number: int) -> set[int] | None:
    """Return the keys that a generation holds, None where its legs differ."""
    with_legs = open_generation(state.index("default", number))
    try:
        dense, lexical = ({int(key) for key in leg.keys()} for leg in with_legs.legs.values())  # noqa: SIM118
    finally:
        with_legs.close()
    return dense if dense == lexical else None


def inspect(root: Path, before: list[list[int]], say: Say) -> None:
    """Open what is left and say each fault; build, and say what is not whole then."""
    store, state, ingestor = _opened(root)
    with store:
        current = store.collections.current_generation("default")
        stored = store.chunks.keys("default")
        if current is None or held(state, current) not in [*map(set, before), stored]:
            say("mixed")
        for row in store.documents.list("default", limit=100)[0]:
            whole = store.documents.get(row.id).text
            chunks = store.chunks.of_document(row.id)
            if not chunks or any(whole[chunk.start : chunk.end] != chunk.text for chunk in chunks):
                say("damaged")
        ingestor.build("default", lambda _progress: None)
        if ingestor.verify("default")["problems"] or held(state, ingestor.status("default")["generation"]) != stored:
            say("broken")


def generations(root: Path, say: Say) -> None:
    """Say what each generation holds before the change."""
    store, state, _ = _opened(root)
    with store:
        numbers = [row.number for row in store.generations.list("default")]
        say(json.dumps([sorted(held(state, number) or ()) for number in numbers]))


def _one(folder: Path, kind: str, seed: int, at: int) -> tuple[list[str], list[str]]:
    """Return the faults of one kill, and the points that were met where there was none."""
    root = folder / "root"
    root.mkdir()
    try:
        assert run_forked(lambda _say: prepare(root, seed)).status == 0
        before = json.loads(run_forked(lambda say: generations(root, say)).said[0])
        ended = run_forked(lambda say: change(root, kind, seed, at, say))
        if ended.signal == 0:
            assert ended.status == 0, "a child failed: see above"
            return [], json.loads(ended.said[-1])
        left = run_forked(lambda say: inspect(root, before, say))
        return [*left.said, *(["unopened"] if left.status != 0 else [])], []
    finally:
        shutil.rmtree(root)


def run(trials: int, seed: int, folder: Path) -> dict[str, float | int]:
    """Kill ``trials`` times, at each point in turn; return what was found, and how many points there are."""
    folder.mkdir(exist_ok=True)
    points = [(kind, at) for kind in CHANGES for at in range(1, len(_one(folder, kind, seed, 0)[1]) + 1)]
    random.Random(0).shuffle(points)  # a short run meets some of each change
    counts: Counter[str] = Counter(dict.fromkeys((*FAULTS, "trials", "passed_by"), 0))
    for trial in range(seed, seed + trials):
        kind, at = points[trial % len(points)]
        faults, met = _one(folder, kind, trial // len(points), at)
        counts["passed_by" if met else "trials"] += 1
        counts.update(faults)
        if faults:
            print(json.dumps({"kind": kind, "at": at, "trial": trial, "faults": faults}), flush=True)  # noqa: T201
    return {"points": float(len(points)), **counts}
