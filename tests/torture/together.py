"""Row 14 of the matrix: questions, while documents are put, replaced and deleted, the index rebuilt and compacted.

An application as it is served, with its jobs in processes of their own and the packaged embedder; answers come from a
script that cites whatever it was shown. Each line of a document says which document, version and line it is. An index
generation never changes: whatever two responses of one generation show of a document must be of one version. What was
acknowledged before a question was sent must be in its response, whole, unless it is being changed just then.
"""

from __future__ import annotations

import json
import random
import re
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from data.protocols import GenerationRequest
from service.app import create_app
from service.settings import Settings
from service.workspace import Workspace
from tests.service.parts import MODEL, ScriptedGenerator
from tests.torture.direct import Direct
from tests.torture.matrix import ROOT

FAULTS = ("failed", "mixed", "stale", "lost", "foreign", "backwards", "broken")
READERS, WRITERS, DOCUMENTS_EACH = 8, 2, 6
LINES = 24
"""Some three chunks."""
NONE = -1
"""The version of a document that is not there."""
_BASE = "http://127.0.0.1"
_MARK = re.compile(r"mark(\d+)x(\d+)n(\d+)")
_LABEL = re.compile(r"^\[(\d\d)\]$", re.MULTILINE)
_PAUSE_S = 0.5
_KEEPER_PAUSE_S = 5.0
_LEAST_WRITES, _QUESTIONS_A_WRITE = 4, 50
"""Readers go on until so much was written, and so often."""
_JOB_S = 300.0
_MOST_PASSAGES = 50


def text(number: int, version: int) -> str:
    """Return a version of a document: packaged text, each line marked and with the word that is asked for."""
    words = (ROOT / "README.md").read_text(encoding="utf-8").split()
    said = (" ".join(random.Random(f"{number} {line}").sample(words, 8)) for line in range(LINES))
    lines = (f"mark{number}x{version}n{line} subject{number} {rest}.\n" for line, rest in enumerate(said))
    return f"# Document {number}\n\n" + "".join(lines)


@dataclass
class Write:
    """A change of a document: to which version, when it began, and when it was acknowledged."""

    version: int
    began: float
    ended: float | None = None


@dataclass
class Service:
    """The application, what its clients know, and what they found."""

    workspace: Workspace
    client: Direct
    counts: Counter[str] = field(default_factory=Counter)
    writes: list[list[Write]] = field(default_factory=lambda: [[] for _ in range(WRITERS * DOCUMENTS_EACH)])
    shown: dict[tuple[int, int], set[int]] = field(default_factory=lambda: defaultdict(set))
    """The versions that responses showed, by generation and document."""
    mutex: threading.Lock = field(default_factory=threading.Lock)
    done: threading.Event = field(default_factory=threading.Event)

    def fault(self, kind: str, what: object) -> None:
        """Count a fault and say it."""
        with self.mutex:
            self.counts[kind] += 1
        print(json.dumps({"fault": kind, "what": str(what)[:800]}), flush=True)  # noqa: T201

    def send(self, method: str, path: str, **content: Any) -> httpx.Response:
        """Send a request; a status of 400 or above is a fault."""
        asked = httpx.Request(method, f"{_BASE}/v1/{path}", **content)
        headers = [(name.lower(), value) for name, value in asked.headers.raw]
        answer = self.client.request(method, str(asked.url), asked.read(), headers)
        if answer.status_code >= 400:
            self.fault("failed", f"{method} {path}: {answer.status_code} {answer.text}")
        return answer

    def job(self, answer: httpx.Response) -> dict[str, Any]:
        """Wait for the job of an answer; return it as it ended, {} where there is none."""
        if answer.status_code >= 400:
            return {}
        until = time.monotonic() + _JOB_S
        while time.monotonic() < until:
            job: dict[str, Any] = self.send("GET", f"jobs/{answer.json()['job_id']}").json()
            if job.get("status") not in {"queued", "running", "interrupted"}:
                break
            time.sleep(0.05)
        if job.get("status") != "succeeded":
            self.fault("failed", job)
        return job

    def possible(self, number: int, began: float, ended: float) -> tuple[set[int], bool]:
        """Return the versions that a response sent and received then may show, and whether one must be whole."""
        certain, under_way = NONE, set()
        with self.mutex:
            for write in self.writes[number]:
                if write.ended is not None and write.ended <= began:
                    certain, under_way = write.version, set()
                elif write.began <= ended:
                    under_way.add(write.version)
        return {certain, *under_way}, not under_way and certain != NONE


def name(number: int) -> str:
    """Return the file name of a document."""
    return f"document{number}.md"


def put(service: Service, numbers: list[int], version: int) -> None:
    """Upload documents in one request and wait until the job that ingests them has ended."""
    writes = _begin(service, numbers, version)
    files = [("files", (name(number), text(number, version).encode())) for number in numbers]
    service.job(service.send("POST", "documents", files=files))
    _acknowledge(service, writes)


def delete(service: Service, number: int) -> None:
    """Delete a document where it is there."""
    found = service.workspace.store.documents.by_source("default").get(name(number))
    if found is not None:
        writes = _begin(service, [number], NONE)
        service.send("DELETE", f"documents/{found.id}")
        _acknowledge(service, writes)


def _begin(service: Service, numbers: list[int], version: int) -> list[Write]:
    writes = [Write(version, time.monotonic()) for _ in numbers]
    with service.mutex:
        for number, write in zip(numbers, writes, strict=True):
            service.writes[number].append(write)
    return writes


def _acknowledge(service: Service, writes: list[Write]) -> None:
    with service.mutex:
        service.counts["writes"] += 1
        for write in writes:
            write.ended = time.monotonic()


def write(service: Service, own: list[int], chance: random.Random) -> None:
    """Put and delete one's own documents until the readers are done."""
    version = 0
    while not service.done.is_set():
        if chance.random() < 0.6:
            version += 1
            put(service, chance.sample(own, 2), version)
        else:
            delete(service, chance.choice(own))


def keep_house(service: Service) -> None:
    """Rebuild and compact the index in turn until the readers are done."""
    for number in range(10**6):
        if service.done.wait(_KEEPER_PAUSE_S):
            return
        service.job(service.send("POST", f"index/{('rebuild', 'compact')[number % 2]}", json={}))
        with service.mutex:
            service.counts["rebuilds"] += 1


def read(service: Service, questions: int, chance: random.Random) -> None:
    """Ask until all readers asked so many questions and enough was written; judge each response."""
    last = 0
    writes = max(_LEAST_WRITES, questions // _QUESTIONS_A_WRITE)
    while service.counts["trials"] < questions or service.counts["writes"] < writes:
        number = chance.randrange(len(service.writes))
        began = time.monotonic()
        found = ask(service, number, chance.choice(("lexical", "hybrid", "dense", "answer")))
        if found is not None:
            judge(service, number, found, service.possible(number, began, time.monotonic()))
            if found["index_generation"] < last:
                service.fault("backwards", f"{found['index_generation']} after {last}")
            last = found["index_generation"]
        with service.mutex:
            service.counts["trials"] += 1
        time.sleep(_PAUSE_S)


def ask(service: Service, number: int, kind: str) -> dict[str, Any] | None:
    """Return the response to a question about a document, None where it failed."""
    body: dict[str, Any] = {"top_k": _MOST_PASSAGES}
    if kind != "lexical":  # the others would find other documents, too
        body["filter"] = {"sources": [name(number)]}
    if kind == "answer":
        answer = service.send("POST", "answers", json={**body, "question": f"What is subject{number}?", "mode": "rag"})
    else:
        answer = service.send("POST", "search", json={**body, "query": f"subject{number}", "method": kind})
    return answer.json() if answer.status_code < 400 else None


def judge(service: Service, number: int, found: dict[str, Any], possible: tuple[set[int], bool]) -> None:
    """Count what is wrong with a response about a document."""
    lines: dict[int, set[int]] = defaultdict(set)
    for passage in found["passages"]:
        for document, version, line in (map(int, mark) for mark in _MARK.findall(passage["text"])):
            with service.mutex:
                service.shown[found["index_generation"], document].add(version)
            if document == number:
                lines[version].add(line)
    versions, whole = possible
    if len(lines) > 1:
        service.fault("mixed", f"document {number}: {dict(lines)}")
    if lines.keys() - versions:
        service.fault("stale", f"document {number}: {sorted(lines)}, possible {sorted(versions)}")
    if whole and lines.get(next(iter(versions))) != set(range(LINES)):
        service.fault("lost", f"document {number}: {dict(lines)}, wanted version {versions}")
    for cited in found.get("citations", ()):
        service.counts["citations"] += 1
        if not any(cited["source"] == p["source"] and cited["quote"] in p["text"] for p in found["passages"]):
            service.fault("foreign", cited)


def reply(request: GenerationRequest) -> str:
    """Cite every passage, after the first mark in it, in a sentence of its own."""
    content = request.messages[-1].content
    places = [(found.group(1), _MARK.search(content, found.end())) for found in _LABEL.finditer(content)]
    return " ".join(f"{mark.group()} [{label}]." for label, mark in places if mark) or "I don't know."


def run(trials: int, seed: int, folder: Path) -> dict[str, int]:
    """Ask ``trials`` questions while writers write; return what went wrong, and what was changed meanwhile."""
    settings = Settings.load(state_dir=folder / "state", log_level="WARNING")
    with (
        Workspace(settings, generator=ScriptedGenerator(reply), model=MODEL) as workspace,
        workspace.lock(),
        Direct(create_app(workspace), _BASE) as client,
    ):
        service = Service(workspace, client)
        service.counts.update(dict.fromkeys((*FAULTS, "trials", "writes", "rebuilds", "citations"), 0))
        numbers = list(range(len(service.writes)))
        put(service, numbers, 0)
        own = [numbers[n::WRITERS] for n in range(WRITERS)]
        with ThreadPoolExecutor(READERS + WRITERS + 1) as pool:
            reading = [pool.submit(read, service, trials, random.Random(f"{seed} {n}")) for n in range(READERS)]
            changing = [pool.submit(write, service, o, random.Random(f"{seed} {o}")) for o in own]
            changing.append(pool.submit(keep_house, service))
            try:
                for each in reading:
                    each.result()
            finally:
                service.done.set()
            for each in changing:
                each.result()
        _look(service)
    return dict(service.counts)


def _look(service: Service) -> None:
    """Count what is wrong when all is quiet again."""
    for (generation, number), versions in service.shown.items():
        if len(versions) > 1:
            service.fault("mixed", f"generation {generation}, document {number}: {sorted(versions)}")
    service.counts["generations"] = len({generation for generation, _ in service.shown})
    job = service.job(service.send("POST", "index/verify", json={}))
    if problems := job.get("outputs", {}).get("problems", ["not verified"]):
        service.fault("broken", problems)
    rows = Counter(row.source for row in service.workspace.store.documents.list("default", limit=500)[0])
    for number, writes in enumerate(service.writes):
        wanted = writes[-1].version
        if rows[name(number)] != (wanted != NONE):
            service.fault("broken", f"{name(number)} is stored {rows[name(number)]} times, wanted version {wanted}")
        found = ask(service, number, "lexical")
        if found is not None:
            judge(service, number, found, ({wanted}, wanted != NONE))
