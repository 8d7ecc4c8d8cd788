"""Row 43 of the matrix: documents with words of their own are deleted, and must be found nowhere any more.

Each was uploaded, replaced, indexed, searched, asked about, made into a pair that was accepted and exported, and an
adapter was registered as trained on it. As soon as the deletion is acknowledged it is looked for by id, by its words,
by both legs of the index, in what the model reads, among the pairs, exports and lists; later, after the index was
rolled back, rebuilt and compacted, in the whole state directory. The generator repeats its prompt, so that whatever
reached it is in the answer. Some documents stay: what finds nothing at all would be noticed.
"""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from data.records import QAPair
from retrieval.examples import examples_from_pairs
from retrieval.rowfiles import row_of
from service.app import create_app
from service.jobs import run_job
from service.lineage import trained_rows
from service.workspace import Workspace
from tests.service.conftest import small_workspace
from tests.service.parts import ScriptedGenerator, adapter
from tests.torture.direct import Direct

FAULTS = ("failed", "found", "usable", "unmarked", "returned", "kept", "blind")
A_STATE, STAYING = 25, 5
"""So many documents are deleted in one state, and so many stay in it."""
_BASE = "http://127.0.0.1"


def word(kind: str, number: int) -> str:
    """Return a word that one document alone has: ``text`` and ``answer`` of its last version, ``old`` of the first."""
    return f"z{kind}" + hashlib.sha256(f"{kind} {number}".encode()).hexdigest()[:16]


def text(number: int, *, old: bool = False) -> bytes:
    """Return a version of a document of two chunks."""
    own = word("old", number) if old else f"{word('text', number)} by {word('answer', number)}"
    rest = " ".join(f"Line {line} tells of the bay and of the wind." for line in range(40))
    return f"# Place {number}\n\nThe lighthouse of place{number} was kept {own}.\n\n{rest}\n".encode()


def name(number: int) -> str:
    """Return the source of a document."""
    return f"place{number}.md"


@dataclass
class Service:
    """A state, its application, and what was found in it."""

    workspace: Workspace
    client: Direct
    counts: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(FAULTS, 0)))
    ids: dict[int, str] = field(default_factory=dict)
    answers: dict[int, str] = field(default_factory=dict)

    def fault(self, kind: str, what: object) -> None:
        """Count a fault and say it."""
        self.counts[kind] += 1
        print(json.dumps({"fault": kind, "what": str(what)[:800]}), flush=True)  # noqa: T201

    def send(self, method: str, path: str, *, refused: bool = False, **content: Any) -> httpx.Response:
        """Send a request; an error is a fault unless it may be ``refused``."""
        asked = httpx.Request(method, f"{_BASE}/v1/{path}", **content)
        headers = [(name.lower(), value) for name, value in asked.headers.raw]
        answer = self.client.request(method, str(asked.url), asked.read(), headers)
        if answer.status_code >= (500 if refused else 400):
            self.fault("failed", f"{method} {path}: {answer.status_code} {answer.text}")
        return answer

    def job(self, answer: httpx.Response) -> None:
        """Run the job of an answer here."""
        job = run_job(self.workspace, answer.json()["job_id"])
        if job.status != "succeeded":
            self.fault("failed", job)

    def ask(self, number: int) -> httpx.Response:
        """Ask about a document with its place alone."""
        asked = {"question": f"Who kept the lighthouse of place{number}?", "mode": "rag", "max_tokens": 4096}
        return self.send("POST", "answers", json=asked)

    def search(self, query: str, method: str) -> str:
        """Return the passages that a search finds, as text."""
        body = {"query": query, "top_k": 50, "method": method}
        return json.dumps(self.send("POST", "search", json=body).json()["passages"])


def make(service: Service, numbers: list[int]) -> None:
    """Upload documents and use them in every way."""
    for old in (True, False):
        files = [("files", (name(number), text(number, old=old))) for number in numbers]
        service.job(service.send("POST", "documents", files=files))
    store = service.workspace.store
    rows = store.documents.by_source("default")
    service.ids = {number: rows[name(number)].id for number in numbers}
    held = {
        chunk.document_id: chunk.id for _, chunk, _ in store.chunks.iterate("default") if "lighthouse" in chunk.text
    }
    pairs = [
        QAPair(f"pair{n}", f"Who kept place{n}?", word("answer", n), (held[service.ids[n]],), "span", "t", "accepted")
        for n in numbers
    ]
    store.pairs.add("default", None, pairs)
    examples = examples_from_pairs(store, service.workspace.retriever, pairs, top_k=1, seed=0)
    linked = trained_rows(store, pairs, examples, [row_of(example) for example in examples])
    store.adapters.add(adapter(lineage={"collection": "default"}), linked)
    service.job(service.send("POST", "pairs/export", json={}))
    for number in numbers:
        answer = service.ask(number).json()
        service.answers[number] = answer["id"]
        if word("text", number) not in answer["answer"]:
            service.fault("blind", f"the model was not shown place {number}: {answer}")


def delete(service: Service, number: int) -> None:
    """Delete a document; the adapter must be named and marked."""
    said = service.send("DELETE", f"documents/{service.ids[number]}").json()
    named = [found["adapter"] for found in said.get("adapters", ())]
    if named != ["house@1"] or not service.send("GET", "adapters/house").json()["stale"]:
        service.fault("unmarked", said)


def look(service: Service, number: int) -> None:
    """Look for a document that was deleted, by all that is its own."""
    identity, own = service.ids[number], [word(kind, number) for kind in ("text", "answer", "old")]
    for path in ("", "/text", "/chunks"):
        status = service.send("GET", f"documents/{identity}{path}", refused=True).status_code
        if status != 404:
            service.fault("found", f"documents/{identity}{path}: {status}")
    for query in (f"lighthouse of place{number}", " ".join(own)):
        for method in ("lexical", "dense", "hybrid"):
            _absent(service, service.search(query, method), [identity, *own], f"{method} search for {query}")
    _absent(service, service.ask(number).text, [identity, *own], "an answer")
    _absent(service, service.send("GET", "documents?limit=500").text, [identity, name(number)], "the list")
    _absent(service, service.send("GET", f"lineage/document/{identity}").text, own, "the lineage")
    pairs = {pair["id"]: pair for pair in service.send("GET", "pairs?limit=500").json()["pairs"]}
    _absent(service, json.dumps(pairs), [word("text", number), word("old", number)], "the pairs' passages")
    # What somebody says later about an old answer becomes a pair that rests on what is gone.
    rated = {"answer_id": service.answers[number], "rating": 1}
    proposed = service.send("POST", "feedback", json=rated, refused=True).json().get("pair_id")
    usable = {pair.id for pair in service.workspace.store.pairs.all("default", stale=False)}
    if wrong := usable & {f"pair{number}", proposed}:
        service.fault("usable", wrong)
    blob = hashlib.sha256(text(number)).hexdigest()
    if (service.workspace.state.blobs / blob).exists():
        service.fault("found", f"the bytes of place {number}")


def _absent(service: Service, said: str, words: list[str], where: str) -> None:
    if there := [each for each in words if each in said]:
        service.fault("found", f"{there} in {where}: {said[:300]}")


def look_again(service: Service, gone: list[int], staying: list[int]) -> None:
    """Roll the index back, rebuild and compact it; look for all that is gone after each, then in the whole state."""
    for change in ("rollback", "rebuild", "compact"):
        answer = service.send("POST", f"index/{change}", json={})
        if change != "rollback":
            service.job(answer)
        for number in gone:
            found = service.search(f"place{number} {word('text', number)} {word('old', number)}", "lexical")
            if any(word(kind, number) in found for kind in ("text", "answer", "old")):
                service.fault("returned", f"place {number} after {change}")
    for split in ("train", "eval"):
        rows = service.send("GET", f"pairs/export?split={split}").text
        for number in gone:
            _absent(service, rows, [word(kind, number) for kind in ("text", "answer", "old")], "an export")
    for number in staying:
        for method in ("lexical", "dense"):
            if word("text", number) not in service.search(f"lighthouse of place{number}", method):
                service.fault("blind", f"place {number} stays and is not found ({method})")
    left(service, gone)


def left(service: Service, gone: list[int]) -> None:
    """Look for words of deleted documents in every row and file, pairs aside: they wait for a person's review."""
    state = service.workspace.state
    with closing(sqlite3.connect(state.db)) as database:
        lines = list(database.iterdump())
    files = [path for path in state.root.rglob("*") if path.is_file() and "ragtune.db" not in path.name]
    lines += [f"{path}: {path.read_bytes()!r}" for path in files]
    for number in gone:
        for own in (word("text", number), word("old", number)):
            if where := [line[:200] for line in lines if own in line]:
                service.fault("kept", f"{own}: {where[:3]}")


def run(trials: int, seed: int, folder: Path) -> dict[str, Any]:
    """Delete ``trials`` documents; return what was still found of them."""
    counts: Counter[str] = Counter({**dict.fromkeys(FAULTS, 0), "trials": 0})
    echo = ScriptedGenerator(lambda request: "\n".join(message.content for message in request.messages))
    while counts["trials"] < trials:
        many = min(A_STATE, trials - counts["trials"])
        first = seed + counts["trials"]
        numbers = list(range(first, first + many + STAYING))
        random.Random(first).shuffle(numbers)
        with (
            small_workspace(folder / "state", echo) as workspace,
            Direct(create_app(workspace, run_jobs=False), _BASE) as client,
        ):
            service = Service(workspace, client, counts)
            make(service, numbers)
            for number in numbers[:many]:
                delete(service, number)
                look(service, number)
                counts["trials"] += 1
            look_again(service, numbers[:many], numbers[many:])
        shutil.rmtree(folder / "state")
    return dict(counts)
