"""What the HTTP service adds to an answer, and what 200 streams that wait cost it.

``python -m bench.overhead``: ``ragtune serve`` with the starter model over the sample articles, in a process of its
own. There is no peer: what is compared with are the limits of ``LIMITS``.

- overhead: milliseconds between sending a question and having its whole answer, less what the answer itself says it
  spent in retrieval, in the queue and in the engine (``timings_ms``): parsing, checks, citations and their
  verification, the store, JSON and the connection. Distinct questions, one at a time, over one connection.
- streams: clients of a job's events, all of them open while the job says nothing; memory of the server's process
  before and with them, and the share of a core it takes meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

STREAMS, WARM_UP = 200, 5
LIMITS = {"overhead_ms_p50": 5.0, "streams_mb": 100.0}
SETTLE_S = 5.0
ROOT = Path(__file__).parents[1]
SAMPLES = ROOT / "data" / "samples"
SPENT = ("queue", "retrieve", "prefill", "generate")
SERVER = """
from service.serve import serve
from service.settings import Settings
from service.workspace import Workspace
serve(Workspace(Settings.load()), on_ready=lambda url: print(url, flush=True))
"""


def fill(state: Path) -> str:
    """Index the sample articles; return the id of a job that is said to run and never says anything."""
    from service.settings import Settings
    from service.workspace import Workspace

    with Workspace(Settings.load(state_dir=state, log_level="ERROR")) as workspace:
        workspace.ensure_starter_adapters()
        workspace.ingestor.ingest("default", [SAMPLES / "corpus"])
        job = workspace.store.jobs.create("verify", {"collection": "default"})
        return workspace.store.jobs.claim_one(job.id, "bench", lease_s=86_400).id


@contextmanager
def served(state: Path) -> Iterator[tuple[str, int]]:
    """Serve the state; yield its URL and the process id of the server."""
    environment = {**os.environ, "RAGTUNE_STATE_DIR": str(state), "RAGTUNE_PORT": "0"}
    command = [sys.executable, "-c", SERVER]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.terminate()


def overhead(url: str, questions: list[str]) -> dict[str, float]:
    """Ask every question; return milliseconds beyond retrieval and engine, and those of the whole, p50 and p95.

    A request is made before the clock starts, and a reply is parsed after it: what a client's library costs is no part.
    """
    address = urlsplit(url)
    beyond, whole = [], []
    with socket.create_connection((address.hostname, address.port), timeout=600) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number, question in enumerate(questions):
            body = json.dumps({"question": question, "adapter": "reader"}).encode()
            head = f"POST /v1/answers HTTP/1.1\r\nHost: {address.netloc}\r\nContent-Type: application/json\r\n"
            request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
            started = time.perf_counter()
            connection.sendall(request)
            reply = receive_reply(connection)
            elapsed = (time.perf_counter() - started) * 1000
            spent = json.loads(reply)["timings_ms"]
            if number >= WARM_UP:
                whole.append(elapsed)
                beyond.append(elapsed - sum(spent[name] for name in SPENT))
    return {
        "answers": len(whole),
        "overhead_ms_p50": statistics.median(beyond),
        "overhead_ms_p95": statistics.quantiles(beyond, n=20)[-1],
        "total_ms_p50": statistics.median(whole),
    }


def receive_reply(connection: socket.socket) -> bytes:
    """Return the body of the next reply, which says its length."""
    received = b""
    while (end := received.find(b"\r\n\r\n")) < 0:
        received += _receive(connection)
    headers = dict(line.split(b": ", 1) for line in received[:end].lower().split(b"\r\n")[1:])
    body, length = received[end + 4 :], int(headers[b"content-length"])
    while len(body) < length:
        body += _receive(connection)
    return body


def _receive(connection: socket.socket) -> bytes:
    received = connection.recv(65_536)
    if not received:
        raise ConnectionError("The server closed the connection before its reply was complete")
    return received


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process, MB (10^6 bytes); Linux."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def cpu_s(pid: int) -> float:
    """Return the processor time that a process has used; Linux."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def streams(url: str, pid: int, job_id: str) -> dict[str, float]:
    """Open ``STREAMS`` streams of a job's events and leave them open; return what that takes of the server."""
    address = urlsplit(url)
    before = resident_mb(pid)
    with ExitStack() as opened:
        for _ in range(STREAMS):
            client = opened.enter_context(socket.create_connection((address.hostname, address.port), timeout=60))
            client.sendall(f"GET /v1/jobs/{job_id}/events HTTP/1.1\r\nHost: {address.netloc}\r\n\r\n".encode())
            received = b""
            while b"data:" not in received:  # the job's events so far: the stream is open
                received += client.recv(65_536)
        started, used = time.perf_counter(), cpu_s(pid)
        time.sleep(SETTLE_S)
        cores = (cpu_s(pid) - used) / (time.perf_counter() - started)
        return {"streams": STREAMS, "streams_mb": resident_mb(pid) - before, "streams_cores": cores}


def main(arguments: list[str] | None = None) -> None:
    """Measure and print one JSON line."""
    parser = argparse.ArgumentParser(prog="python -m bench.overhead", description=__doc__)
    parser.add_argument("--questions", type=int, default=60, help="beside those that warm it up")
    count = parser.parse_args(arguments).questions + WARM_UP
    lines = (SAMPLES / "questions.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="ragtune-bench-") as scratch:
        state = Path(scratch) / "state"
        job_id = fill(state)
        with served(state) as (url, pid):
            result |= overhead(url, [json.loads(line)["question"] for line in lines])
            result |= streams(url, pid, job_id)
    shown = {name: round(value, 2) if isinstance(value, float) else value for name, value in result.items()}
    print(json.dumps({**shown, "limits": LIMITS}))


if __name__ == "__main__":
    main()
