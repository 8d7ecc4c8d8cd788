"""Row 22 of the matrix: ten times as many clients as an engine has places for.

A tiny model, served by the real engine over the application's routes. Who finds no place must be told so at once, as a
problem with ``Retry-After``; who finds one must get the text that was written when nobody else asked. ``/healthz`` is
asked all the while. Afterwards, when the others are gone, whoever asks is served again.
"""

from __future__ import annotations

import json
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

from service.app import create_app
from service.settings import Settings
from service.workspace import Workspace
from tests.service.parts import HashEmbedder
from tests.torture.callers import build
from tests.torture.direct import Direct

FAULTS = ("failed", "mismatched", "unsaid", "unrecovered")
SEQUENCES, QUEUE = 2, 2
CLIENTS = 10 * (SEQUENCES + QUEUE)
QUESTIONS = 40
_BASE = "http://127.0.0.1"
_PAUSE_S = 0.05
"""Between two looks at the service's health, and after a refusal: shorter than a client is told to wait."""


def send(client: Direct, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
    """Send a request."""
    asked = httpx.Request(method, f"{_BASE}{path}", json=body)
    headers = [(name.lower(), value) for name, value in asked.headers.raw]
    return client.request(method, str(asked.url), asked.read(), headers)


def ask(client: Direct, number: int) -> httpx.Response:
    """Ask a question of its own."""
    asked = {"question": f"Who kept the lighthouse number {number}?", "mode": "base", "max_tokens": 24}
    return send(client, "POST", "/v1/answers", asked)


def refusal(answer: httpx.Response) -> str:
    """Return ``refused`` for a refusal that says what it has to, else ``unsaid``."""
    body = answer.json() if answer.headers.get("content-type") == "application/problem+json" else {}
    wait = answer.headers.get("retry-after", "")
    return "refused" if wait.isdigit() and int(wait) > 0 and body.get("type") == "engine-busy" else "unsaid"


def run(trials: int, seed: int, folder: Path) -> dict[str, int]:
    """Ask ``trials`` times, ``CLIENTS`` at once; return what went wrong, and how many were served and refused."""
    engine = {"sequences": SEQUENCES, "queue_size": QUEUE, "n_ctx": 2048, "n_threads": 1}
    settings = Settings.load(state_dir=folder / "state", model=build(folder).gguf, log_level="CRITICAL", **engine)
    counts: Counter[str] = Counter(dict.fromkeys((*FAULTS, "served", "refused", "looks"), 0))
    chance = random.Random(seed)
    done = threading.Event()
    with (
        Workspace(settings, embedder=HashEmbedder()) as workspace,
        Direct(create_app(workspace, run_jobs=False), _BASE) as client,
    ):
        alone = [ask(client, number).json()["answer"] for number in range(QUESTIONS)]

        def one(number: int) -> str:
            answer = ask(client, number)
            if answer.status_code == 429:
                done.wait(_PAUSE_S)
                return refusal(answer)
            if answer.status_code != 200:
                print(json.dumps({"status": answer.status_code, "said": answer.text[:500]}), flush=True)  # noqa: T201
                return "failed"
            return "served" if answer.json()["answer"] == alone[number] else "mismatched"

        def look() -> Counter[str]:
            seen: Counter[str] = Counter()
            while not done.wait(_PAUSE_S):
                seen["looks"] += 1
                seen["failed"] += send(client, "GET", "/healthz").status_code != 200
            return seen

        with ThreadPoolExecutor(1) as aside, ThreadPoolExecutor(CLIENTS) as pool:
            looking = aside.submit(look)
            try:
                counts.update(pool.map(one, [chance.randrange(QUESTIONS) for _ in range(trials)]))
            finally:
                done.set()
            counts.update(looking.result())
        counts["unrecovered"] += sum(one(number) != "served" for number in range(QUESTIONS))
    return {"trials": trials, "different": len(set(alone)), **counts}
