"""Rows 1, 4 and 5 of the matrix: SIGKILL while documents are put, replaced and deleted, while the index is rebuilt.

A child works on one state directory and says what it begins and what was acknowledged; it is killed at a moment of
chance; another opens what is left and compares it with what a client knows. Real store, real index, hashed words in
place of an embedding model. SIGKILL leaves the page cache: this says nothing about power cuts.
"""

from __future__ import annotations

import json
import random
import shutil
import time
from pathlib import Path

from data.errors import NothingIndexed
from data.state import StateDirectory
from data.store import Store
from retrieval.ingest import Ingestor
from retrieval.retriever import Retriever
from tests.retrieval.hashing import HashingEmbedder, Settings
from tests.torture.forks import Say, run_forked

DOCUMENTS = 12
LATEST_KILL_S = 0.8
"""Of the processor's time: some ten acknowledged changes."""
TRIALS_A_STATE = 40
"""A state lives through so many kills, then a fresh one begins."""
FAULTS = ("lost", "phantom", "duplicate", "resurrected", "unopened", "broken")


def word(number: int, version: int) -> str:
    """Return the one word that a version of a document has and no other."""
    return f"marker{number}x{version}"


def text(number: int, version: int) -> str:
    """Return a document of three chunks."""
    body = " ".join(f"Line {line} of document {number} tells of subject {line % 5}." for line in range(12))
    return f"# Document {number}\n\n{word(number, version)} begins.\n\n{body}\n"


def work(root: Path, seed: int, say: Say) -> None:
    """Put, delete, rebuild and compact by chance until killed."""
    chance = random.Random(seed)
    state = StateDirectory(root / "state").create()
    folder = root / "documents"
    folder.mkdir(exist_ok=True)
    with Store.open(state.db) as store:
        ingestor = Ingestor(store, state, HashingEmbedder(), Settings())
        for step in range(1000):
            number, version = chance.randrange(DOCUMENTS), seed * 1000 + step
            source = folder / f"{number}.md"
            if (kind := chance.random()) < 0.65:
                source.write_text(text(number, version))
                say(f"put {number} {version}")
                ingestor.ingest("default", [source])
            elif kind < 0.85:
                found = store.documents.by_source("default").get(source.name)
                if found is None:
                    continue
                say(f"delete {number} -1")
                ingestor.delete(found.id)
            else:
                say("rebuild 0 0")
                ingestor.rebuild("default") if kind < 0.95 else ingestor.compact("default")
            say("acknowledged")


class Client:
    """What a client knows: of each document the version that was acknowledged, and what may have happened since."""

    def __init__(self) -> None:
        self.certain: dict[int, int] = {}
        self.begun: dict[int, list[int]] = {}

    def hear(self, said: list[str]) -> None:
        """Take in what a child said."""
        pending: tuple[str, int, int] | None = None
        for line in said:
            if line == "acknowledged" and pending is not None:
                if pending[0] != "rebuild":
                    self.certain[pending[1]] = pending[2]
                    self.begun.pop(pending[1], None)
                pending = None
                continue
            kind, number, version = line.split()
            pending = (kind, int(number), int(version))
            if kind != "rebuild":
                self.begun.setdefault(pending[1], []).append(pending[2])

    def possible(self, number: int) -> set[int]:
        """Return the versions that a document may have; -1 stands for none."""
        return {self.certain.get(number, -1), *self.begun.get(number, ())}


def inspect(root: Path, possible: dict[int, set[int]], certain: dict[int, int], say: Say) -> None:
    """Open what is left and say each fault, then the versions that were found and how long opening took."""
    started = time.perf_counter()
    state = StateDirectory(root / "state").create()
    with Store.open(state.db) as store:
        embedder = HashingEmbedder()
        ingestor = Ingestor(store, state, embedder, Settings())
        retriever = Retriever(store, state, embedder)
        rows = store.documents.by_source("default")
        found = {}
        for number in range(DOCUMENTS):
            row = rows.get(f"{number}.md")
            held = -1 if row is None else int(store.documents.get(row.id).text.split("x", 1)[1].split()[0])
            found[number] = held
            if held not in possible[number]:
                say("resurrected" if possible[number] == {-1} else "lost" if held == -1 else "phantom")
            documents = searched(retriever, word(number, held))
            if len(documents) > 1:
                say("duplicate")
            # What was not acknowledged may be stored already and not yet be found.
            if row is not None and held == certain.get(number) and row.id not in documents:
                say("lost")
            if certain.get(number, -1) == -1 and possible[number] == {-1} and documents:
                say("resurrected")
        say(f"opened {time.perf_counter() - started:.3f}")
        ingestor.build("default", lambda _progress: None)
        if ingestor.verify("default")["problems"]:
            say("broken")
        say(json.dumps(found))


def searched(retriever: Retriever, marker: str) -> set[str]:
    """Return the documents in which a search finds a word that is in one alone."""
    try:
        hits = retriever.search(marker, "default", 5, "lexical")
    except NothingIndexed:
        return set()
    return {hit.chunk.document_id for hit in hits if marker in hit.chunk.text.split()}


def run(trials: int, seed: int, folder: Path) -> dict[str, float | int]:
    """Kill ``trials`` times and return how often each fault was found, and the slowest opening in seconds."""
    faults = dict.fromkeys(FAULTS, 0)
    slowest, acknowledged, killed = 0.0, 0, 0
    client, root = Client(), folder / "0"
    for trial in range(trials):
        if trial % TRIALS_A_STATE == 0:
            shutil.rmtree(root, ignore_errors=True)
            client, root = Client(), folder / str(trial)
            root.mkdir(parents=True)
        each = seed + trial
        delay = random.Random(each).uniform(0.02, LATEST_KILL_S)
        ended = run_forked(lambda say, root=root, each=each: work(root, each, say), delay)
        killed += ended.signal == 9
        acknowledged += ended.said.count("acknowledged")
        client.hear(ended.said)
        possible = {number: client.possible(number) for number in range(DOCUMENTS)}
        known = dict(client.certain)
        left = run_forked(lambda say, r=root, p=possible, k=known: inspect(r, p, k, say))
        if left.status != 0:
            faults["unopened"] += 1
            client, root = Client(), folder / f"after{trial}"
            root.mkdir()
            continue
        for line in left.said[:-1]:
            if line.startswith("opened "):
                slowest = max(slowest, float(line.split()[1]))
            else:
                faults[line] += 1
        client.certain = {int(number): version for number, version in json.loads(left.said[-1]).items()}
        client.begun = {}
    shutil.rmtree(root, ignore_errors=True)
    return {"trials": killed, "acknowledged": acknowledged, "slowest_open_s": round(slowest, 2), **faults}
