"""Row 21 of the matrix: the engine's process is killed, or hits a fault of memory, while it writes answers.

A tiny model, served by the real engine over the application's routes. Whoever is being answered then gets a text that
begins as the one that was written when nothing died, or is told: 503 with ``Retry-After``, or an error event at the end
of a stream. ``/healthz`` is asked all the while. The next question that is answered says that the engine is back.
"""

from __future__ import annotations

import json
import os
import random
import signal
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from service.app import create_app
from service.settings import Settings
from service.workspace import Workspace
from tests.service.parts import HashEmbedder
from tests.torture.callers import build
from tests.torture.direct import Direct
from tests.torture.overload import send

FAULTS = ("mismatched", "untyped", "down", "slow", "missed")
CALLERS, QUESTIONS, TOKENS = 4, 12, 400
BEGINNING = 60
"""So many characters are compared: random weights come to near ties, which the company in a batch then decides."""
LATEST_RETURN_S = 10.0
_LATEST_S = 0.4
"""Of a kill, after the engine is back."""
_PAUSE_S = 0.02
_GIVEN_UP_S = 120.0
_BASE = "http://127.0.0.1"
SIGNALS = (signal.SIGKILL, signal.SIGSEGV)


@dataclass
class Service:
    """The application, and what its clients saw."""

    client: Direct
    alone: list[str] = field(default_factory=list)
    """What was written to each question when nothing died."""
    counts: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(FAULTS, 0)))
    mutex: threading.Lock = field(default_factory=threading.Lock)
    done: threading.Event = field(default_factory=threading.Event)

    def note(self, kind: str, what: object = "") -> None:
        """Count what was seen; say it if it is a fault."""
        with self.mutex:
            self.counts[kind] += 1
        if kind in FAULTS:
            print(json.dumps({"fault": kind, "what": str(what)[:800]}), flush=True)  # noqa: T201


def ask(service: Service, number: int, *, stream: bool) -> httpx.Response:
    """Ask a question of its own."""
    question = f"Who kept the lighthouse number {number}?"
    body = {"question": question, "mode": "base", "max_tokens": TOKENS, "stream": stream}
    return send(service.client, "POST", "/v1/answers", body)


def judge(answer: httpx.Response, alone: str) -> str:
    """Return what a client got: ``served``, ``told`` that the engine died, or a fault."""
    if answer.status_code != 200:
        problem = answer.json() if answer.headers.get("content-type") == "application/problem+json" else {}
        said = answer.status_code == 503 and problem.get("type") == "engine-unavailable"
        return "told" if said and answer.headers.get("retry-after", "").isdigit() else "untyped"
    if not answer.headers["content-type"].startswith("text/event-stream"):
        event, data = "answer", answer.json()
    else:
        event, data = _last(answer.text)
    if event == "answer":
        return "served" if data["answer"][:BEGINNING] == alone[:BEGINNING] else "mismatched"
    return "told" if event == "error" and data["type"] == "engine-unavailable" else "untyped"


def _last(events: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the data of the last event of a stream."""
    named = [block for block in events.split("\n\n") if block.startswith("event: ")]
    if not named:
        return "", {}
    name, _, data = named[-1].removeprefix("event: ").partition("\n")
    return name, json.loads(data.removeprefix("data: "))


def call(service: Service, chance: random.Random) -> None:
    """Ask again and again, whole and streamed, until it is over."""
    while not service.done.is_set():
        number = chance.randrange(QUESTIONS)
        answer = ask(service, number, stream=chance.random() < 0.5)
        kind = judge(answer, service.alone[number])
        service.note(kind, answer.text[-500:])
        if kind != "served":
            service.done.wait(_PAUSE_S)


def look(service: Service) -> None:
    """Ask for the service's health until it is over."""
    while not service.done.wait(_PAUSE_S):
        answer = send(service.client, "GET", "/healthz")
        service.note("looks" if answer.status_code == 200 else "down", answer.text)


def kill(service: Service, engine: Any, sig: signal.Signals) -> float:
    """Kill the engine's process; return after how many seconds a question was answered again."""
    pid = engine.pid
    if pid is None:
        service.note("missed", "there is no process to kill")
        return 0.0
    os.kill(pid, sig)
    began = time.monotonic()
    while time.monotonic() - began < _GIVEN_UP_S:
        answer = ask(service, 0, stream=False)
        kind = judge(answer, service.alone[0])
        # What is answered before the signal arrives is of the process that is about to die.
        if kind == "served" and engine.pid not in (None, pid):
            break
        if kind != "served":
            service.note(kind, answer.text)
            time.sleep(_PAUSE_S)
    took = time.monotonic() - began
    if took > LATEST_RETURN_S:
        service.note("slow", took)
    return took


def run(trials: int, seed: int, folder: Path) -> dict[str, Any]:
    """Kill the engine ``trials`` times; return what went wrong, and the slowest return in seconds."""
    engine = {"sequences": CALLERS + 1, "queue_size": 4 * CALLERS, "n_ctx": 2048, "n_threads": 1}
    settings = Settings.load(state_dir=folder / "state", model=build(folder).gguf, log_level="CRITICAL", **engine)
    chance = random.Random(seed)
    slowest = 0.0
    with (
        Workspace(settings, embedder=HashEmbedder()) as workspace,
        Direct(create_app(workspace, run_jobs=False), _BASE) as client,
    ):
        service = Service(client)
        service.alone = [ask(service, number, stream=False).json()["answer"] for number in range(QUESTIONS)]
        before = workspace.generator.statistics()["restarts"]
        with ThreadPoolExecutor(CALLERS + 1) as pool:
            working = [pool.submit(call, service, random.Random(f"{seed} {n}")) for n in range(CALLERS)]
            working.append(pool.submit(look, service))
            try:
                for number in range(trials):
                    time.sleep(chance.uniform(0, _LATEST_S))
                    slowest = max(slowest, kill(service, workspace.generator, SIGNALS[number % len(SIGNALS)]))
            finally:
                service.done.set()
            for each in working:
                each.result()
        counted = workspace.generator.statistics()["restarts"] - before
        if counted != trials:
            service.note("missed", f"{counted} of {trials} deaths were noticed")
    return {"trials": trials, "slowest_return_s": round(slowest, 2), **service.counts}
