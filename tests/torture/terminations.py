"""Row 16 of the matrix: a server that writes answers and runs a job gets SIGTERM, again and again.

Each server takes up what the one before it left. Its answers come from a script, a word at a time; its jobs are real
and ingest uploads with the packaged embedder, in processes of their own. It must end by itself, in order and in time,
with nothing of it left running; a stream that had begun ends with one of its named events; a job is done, or waits to
go on, and in the end each is done and each of its documents is there once.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier
from typing import Any

import httpx
import psutil

from data.protocols import Delta, GenerationRequest
from data.store import Store
from service.serve import serve
from service.settings import Settings
from service.workspace import Workspace
from tests.service.parts import MODEL, ScriptedGenerator
from tests.torture.matrix import ROOT

FAULTS = ("slow", "status", "cut", "lost", "doubled", "left")
STREAMS, DOCUMENTS = 4, 6
LONGEST_EXIT_S = 30.0
_LATEST_S = 5.0
"""Of the signal, after the streams have begun: the job loads its libraries, embeds, or is done."""
_WORDS = (20, 1000)
"""Of a short answer, which may be finished, and of a long one."""
_WORD_S = 0.02
_JOB_S = 300.0
"""Between the end of one job and that of the next, at most; they run one after the other."""
_GOOD = {"queued", "interrupted", "succeeded"}


class SlowGenerator(ScriptedGenerator):
    """Writes a word at a time: many for a question with the word "long"."""

    def __init__(self) -> None:
        super().__init__(lambda request: " ".join(["word"] * _WORDS["long" in request.messages[-1].content]))

    def stream(self, request: GenerationRequest) -> Any:
        delta: Delta
        for delta in super().stream(request):
            time.sleep(_WORD_S)
            yield delta


def main() -> None:
    """Serve, in a process of its own; say where."""
    workspace = Workspace(Settings.load(), generator=SlowGenerator(), model=MODEL)
    serve(workspace, on_ready=lambda url: print(url, flush=True))  # noqa: T201


@dataclass
class Service:
    """The state that the servers share, and what their clients know."""

    root: Path
    counts: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(FAULTS, 0)))
    jobs: dict[str, list[str]] = field(default_factory=dict)
    """The sources that each acknowledged job was to bring."""
    slowest: float = 0.0

    def fault(self, kind: str, what: object) -> None:
        """Count a fault and say it."""
        self.counts[kind] += 1
        print(json.dumps({"fault": kind, "what": str(what)[:800]}), flush=True)  # noqa: T201

    def start(self) -> tuple[subprocess.Popen[str], str]:
        """Start a server; return it and its URL."""
        environment = {**os.environ, "RAGTUNE_STATE_DIR": str(self.root / "state"), "RAGTUNE_PORT": "0"}
        command = [sys.executable, "-c", "from tests.torture.terminations import main; main()"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment)
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert url, "the server did not start: see above"
        return process, url


def upload(service: Service, url: str, trial: int) -> None:
    """Upload documents; note the job once it is acknowledged."""
    names = [f"{trial}-{number}.md" for number in range(DOCUMENTS)]
    files = [("files", (name, f"# {name}\n\nThe keeper of {name} was called Venn.\n".encode())) for name in names]
    answer = httpx.post(f"{url}/v1/documents", files=files, timeout=120)
    if answer.status_code == 202:
        service.jobs[answer.json()["job_id"]] = names
    else:
        service.fault("status", answer.text)


def listen(url: str, question: str, begun: Barrier) -> list[str]:
    """Ask for a stream and return the names of its events, "" where the connection broke."""
    body = {"question": question, "mode": "base", "stream": True, "max_tokens": 4096}
    events: list[str] = []
    try:
        with httpx.stream("POST", f"{url}/v1/answers", json=body, timeout=120) as answer:
            for line in answer.iter_lines():
                if line.startswith("event: "):
                    events.append(line[7:])
                    if events.count("token") == 1 and events[-1] == "token":
                        begun.wait(120)
    except httpx.HTTPError:
        events.append("")
    return events


def judge(service: Service, streams: list[list[str]]) -> None:
    """Count how streams ended that a signal met."""
    for events in streams:
        last = events[-1] if events else ""
        if last not in {"answer", "error"}:
            service.fault("cut", events[-3:])
        service.counts["finished" if last == "answer" else "told"] += last in {"answer", "error"}


def terminate(service: Service, process: subprocess.Popen[str]) -> None:
    """Send SIGTERM; the server must end in time, in order, and leave no process."""
    children = psutil.Process(process.pid).children(recursive=True)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    try:
        status = process.wait(2 * LONGEST_EXIT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        status = process.wait()
    took = time.monotonic() - began
    service.slowest = max(service.slowest, took)
    if took > LONGEST_EXIT_S:
        service.fault("slow", took)
    if status != 0:
        service.fault("status", status)
    if alive := psutil.wait_procs(children, timeout=2)[1]:
        service.fault("left", alive)


def look(service: Service) -> None:
    """Count jobs that are neither done nor waiting to go on, now that nobody serves."""
    with closing(Store.open(service.root / "state" / "ragtune.db")) as store:
        for identity in service.jobs:
            job = store.jobs.get(identity)
            if job.status not in _GOOD:
                service.fault("lost", job)
            service.counts["met"] += job.status == "interrupted"


def one(service: Service, trial: int, chance: random.Random) -> None:
    """Start a server, ask it for answers and a job, and end it at a moment of chance."""
    process, url = service.start()
    try:
        begun = Barrier(STREAMS + 1)
        with ThreadPoolExecutor(STREAMS) as pool:
            kinds = [chance.choice(("long", "long", "short")) for _ in range(STREAMS)]
            listening = [pool.submit(listen, url, f"Is it {kind}?", begun) for kind in kinds]
            upload(service, url, trial)
            begun.wait(120)
            time.sleep(chance.uniform(0, _LATEST_S))
            terminate(service, process)
            judge(service, [each.result() for each in listening])
    finally:
        process.kill()
        process.wait()
    look(service)


def finish(service: Service) -> None:
    """Let a last server bring every job to its end; each document must be there once."""
    process, url = service.start()
    try:
        until = time.monotonic() + _JOB_S
        left = set(service.jobs)
        while left and time.monotonic() < until:
            for identity in list(left):
                status = httpx.get(f"{url}/v1/jobs/{identity}", timeout=120).json()["status"]
                if status not in {"queued", "running", "interrupted"}:
                    left.discard(identity)
                    until = time.monotonic() + _JOB_S
                    if status != "succeeded":
                        service.fault("lost", f"{identity}: {status}")
            time.sleep(0.2)
        if left:
            service.fault("lost", f"not done: {left}")
    finally:
        with suppress(ProcessLookupError):
            terminate(service, process)
    with closing(Store.open(service.root / "state" / "ragtune.db")) as store:
        there = Counter(row.source for row in store.documents.list("default", limit=500)[0])
    for name in (name for names in service.jobs.values() for name in names):
        if there[name] != 1:
            service.fault("lost" if not there[name] else "doubled", name)


def run(trials: int, seed: int, folder: Path) -> dict[str, Any]:
    """End ``trials`` servers; return what went wrong, and the slowest end in seconds."""
    service = Service(folder)
    for trial in range(trials):
        one(service, trial, random.Random(seed + trial))
    finish(service)
    return {"trials": trials, "slowest_exit_s": round(service.slowest, 2), **service.counts}
