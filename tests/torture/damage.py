"""Rows 8, 9 and 15 of the matrix: damaged index files, damaged database pages, a second process.

Each damage is met in a child of its own. A crash is a child that a signal ended or an error that is none of ours;
silent is an answer as if nothing were wrong. Damage to bytes that nothing reads is counted apart.
"""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from data.errors import RagtuneError, StateLocked, StorageCorrupt
from data.state import StateDirectory
from data.store import Store
from retrieval.ingest import Ingestor
from retrieval.retriever import Retriever
from tests.retrieval.hashing import HashingEmbedder, Settings
from tests.torture.forks import Say, run_forked
from tests.torture.kills import text

DOCUMENTS = 20


def build(root: Path) -> None:
    """Make a state with an index."""
    state = StateDirectory(root / "state").create()
    folder = root / "documents"
    folder.mkdir()
    for number in range(DOCUMENTS):
        (folder / f"{number}.md").write_text(text(number, 0))
    with Store.open(state.db) as store:
        Ingestor(store, state, HashingEmbedder(), Settings()).ingest("default", [folder])


def read_all(root: Path) -> list[str]:
    """Return what searches and listings give."""
    state = StateDirectory(root / "state")
    with Store.open(state.db) as store:
        retriever = Retriever(store, state, HashingEmbedder())
        found = [passage.chunk.text for passage in retriever.search("document subject", "default", 9)]
        for row in store.documents.list("default", limit=100)[0]:
            found.append(f"{row.source} {store.documents.get(row.id).text}")
            found += [chunk.text for chunk in store.chunks.of_document(row.id)]
        return found


def mutate(path: Path, chance: random.Random) -> None:
    """Cut a file short or change one to eight of its bytes."""
    content = bytearray(path.read_bytes())
    if chance.random() < 0.3 or not content:
        content = content[: chance.randrange(len(content))] if content else bytearray(b"\0")
    else:
        for _ in range(chance.randint(1, 8)):
            content[chance.randrange(len(content))] ^= chance.randint(1, 255)
    path.write_bytes(bytes(content))


def meet(root: Path, expected: list[str], say: Say, check: Callable[[Path], None]) -> None:
    """Read a damaged state and say ``refused``, ``found`` by a check, ``harmless`` or ``silent``."""
    try:
        same = read_all(root) == expected
    except RagtuneError:
        say("refused")
        return
    try:
        check(root)
    except RagtuneError:
        say("found")
        return
    say("harmless" if same else "silent")


def check_database(root: Path) -> None:
    """Read the whole database and compare texts with chunks and index, as ``index verify`` does."""
    state = StateDirectory(root / "state")
    with Store.open(state.db) as store:
        store.check()
        ingestor = Ingestor(store, state, HashingEmbedder(), Settings())
        if problems := ingestor.verify("default")["problems"]:
            raise StorageCorrupt("The store and what it holds differ", got=str(problems[0]))


def damage(trials: int, seed: int, folder: Path, *, database: bool) -> dict[str, int]:
    """Damage one file ``trials`` times: of the index, or the database."""
    whole = folder / "whole"
    whole.mkdir(parents=True)
    made = run_forked(lambda _say: build(whole))
    assert made.status == 0
    expected = read_in_child(whole)
    counts: Counter[str] = Counter()
    for trial in range(trials):
        chance = random.Random(seed + trial)
        copy = folder / "copy"
        shutil.copytree(whole, copy)
        files = [copy / "state" / "ragtune.db"] if database else index_files(copy)
        mutate(chance.choice(files), chance)
        check = check_database if database else (lambda _root: None)
        ended = run_forked(lambda say, copy=copy, check=check: meet(copy, expected, say, check))
        counts["crash" if ended.status != 0 else ended.said[-1]] += 1
        shutil.rmtree(copy)
    # An index file is hashed whole before it is read: there is no damage that may pass as harmless.
    silent = counts["silent"] + (0 if database else counts["harmless"])
    kinds = {kind: counts[kind] for kind in ("refused", "found", "harmless")}
    return {"trials": trials, "crash": counts["crash"], "silent": silent, **kinds}


def index_files(root: Path) -> list[Path]:
    """Return every file of the current generation."""
    return sorted(
        path
        for path in (root / "state" / "index" / "default" / "1").rglob("*")
        if path.is_file() and path.suffix != ".lock"
    )


def read_in_child(root: Path) -> list[str]:
    """Return what a whole state gives; read in a child, because the parent must have no threads."""
    return list(json.loads(run_forked(lambda say: say(json.dumps(read_all(root)))).said[0]))


def second_process(trials: int, seed: int, folder: Path) -> dict[str, int]:
    """Try to take the lock of a directory that this process holds."""
    state = StateDirectory(folder / "state").create()
    entered = 0

    def enter(say: Say) -> None:
        try:
            with state.lock():
                say("entered")
        except StateLocked:
            say("locked")

    with state.lock(f"http://127.0.0.1:{8000 + seed % 1000}"):
        for _ in range(trials):
            entered += run_forked(enter).said != ["locked"]
    return {"trials": trials, "entered": entered}
