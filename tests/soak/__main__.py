"""Load for some minutes, then ten times what is served at once: ``python -m tests.soak --minutes 2 --locust PROGRAM``.

A real server with the starter model. Each second the memory of the server and its children, its descriptors, and the
files in its temporary folders are counted. What has to hold: no failed request, and no growth in the second half of the
steady load. Prints what was seen; the exit status is 1 where something did not hold.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import psutil

from tests.torture.__main__ import record

ROOT = Path(__file__).parents[2]
CORPUS = ROOT / "data" / "samples" / "corpus"
USERS = 4
BESIDE = 2
"""One who rebuilds the index, one who trains."""
AT_ONCE = 24
"""Requests that the starter's engine takes: 8 decoded together, 16 that wait."""
GROWTH = 0.05
"""Of memory, from the third quarter of the steady load to the fourth, in medians."""
MOST_NEW_DESCRIPTORS = 8
_JOB = "service.jobs"
"""Stands in the command of the process that runs a job and ends with it: a training takes a gigabyte, then nothing."""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Watch:
    """Samples of a server's process tree and its folders."""

    def __init__(self, pid: int, folders: list[Path]) -> None:
        self._process, self._folders = psutil.Process(pid), folders
        self.samples: list[dict[str, int]] = []

    def sample(self) -> None:
        """Take one; processes that end meanwhile count as nothing, and what a job takes while it runs does neither."""
        found = {"rss": 0, "descriptors": 0, "files": 0, "processes": 0}
        for process in (self._process, *self._process.children(recursive=True)):
            with suppress(psutil.Error):
                if _JOB in process.cmdline():
                    continue
                found["rss"] += process.memory_info().rss
                found["processes"] += 1
                if process == self._process:
                    found["descriptors"] = process.num_fds()
        found["files"] = sum(len(files) for folder in self._folders for _, _, files in os.walk(folder))
        self.samples.append(found)

    def quarters(self, kind: str) -> list[float]:
        """Return the median of each quarter of the samples."""
        values = [sample[kind] for sample in self.samples]
        size = max(1, len(values) // 4)
        return [statistics.median(values[i * size : (i + 1) * size]) for i in range(4)]


def serve(folder: Path, port: int) -> subprocess.Popen[bytes]:
    """Start a server over the packaged documents and wait until it is ready."""
    environment = {**os.environ, "RAGTUNE_STATE_DIR": str(folder / "state"), "TMPDIR": str(folder / "tmp")}
    (folder / "tmp").mkdir()
    command = [sys.executable, "-m", "service.cli"]
    subprocess.run([*command, "ingest", str(CORPUS)], cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    log = (folder / "server.log").open("wb")
    process = subprocess.Popen(
        [*command, "serve", "--port", str(port)], cwd=ROOT, env=environment, stdout=log, stderr=log
    )
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/readyz", timeout=20) as answer:
            if answer.status == 200:
                return process
        time.sleep(0.5)
    process.kill()
    raise TimeoutError((folder / "server.log").read_text(errors="replace")[-2000:])


def load(locust: str, port: int, users: int, seconds: int, watch: Watch | None) -> dict[str, Any]:
    """Send load with so many users; return what locust counted, by the name of the request."""
    command = [locust, "-f", str(ROOT / "tests" / "soak" / "users.py"), "--headless", "--json", "--only-summary"]
    command += ["-u", str(users + BESIDE), "-r", str(users + BESIDE), "-t", f"{seconds}s", "--stop-timeout", "60"]
    command += ["--host", f"http://127.0.0.1:{port}", "--loglevel", "ERROR"]
    with tempfile.TemporaryFile("w+", encoding="utf-8") as told:  # what half an hour gives fills a pipe
        with subprocess.Popen(command, stdout=told, cwd="/") as running:
            while running.poll() is None:
                if watch is not None:
                    watch.sample()
                time.sleep(1)
        told.seek(0)
        said = told.read()
    rows = json.loads(said[said.index("[") :])
    return {row["name"]: row for row in rows}


def _percentile(row: dict[str, Any], share: float) -> float:
    times = sorted((float(ms), count) for ms, count in row["response_times"].items())
    wanted = share * sum(count for _, count in times)
    for ms, count in times:
        wanted -= count
        if wanted <= 0:
            return ms
    return 0.0


def figures(phase: str, rows: dict[str, Any]) -> dict[str, Any]:
    """Return requests, failures and percentiles in ms of a phase."""
    shown = {
        name: {
            "requests": row["num_requests"],
            "failed": row["num_failures"],
            "p50_ms": _percentile(row, 0.5),
            "p99_ms": _percentile(row, 0.99),
        }
        for name, row in rows.items()
    }
    return {"phase": phase, "failed": sum(row["num_failures"] for row in rows.values()), "by": shown}


def recorded(seen: dict[str, Any]) -> dict[str, float | int]:
    """Return what is kept of a run: requests, failed ones, and how many of the other conditions did not hold."""
    requests = sum(row["requests"] for phase in seen["phases"] for row in phase["by"].values())
    failed = sum(phase["failed"] for phase in seen["phases"])
    grew = sum(not held for name, held in seen["held"].items() if name != "no failed request")
    return {"trials": requests, "failed": failed, "grew": grew, "minutes": float(seen["minutes"])}


def main() -> int:
    """Run all phases and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--overload-seconds", type=int, default=20)
    parser.add_argument("--record", action="store_true", help="add what is seen to what RELIABILITY.md is made of")
    parser.add_argument("--locust", required=True, help="the program; make soak installs it beside the service")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder, port = Path(name), free_port()
        server = serve(folder, port)
        try:
            watch = Watch(server.pid, [folder / "tmp", folder / "state" / "tmp", folder / "state" / "uploads"])
            load(options.locust, port, USERS, 10, None)
            steady = figures("steady", load(options.locust, port, USERS, int(60 * options.minutes), watch))
            over = figures("overload", load(options.locust, port, 10 * AT_ONCE, options.overload_seconds, None))
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(60)
    memory, descriptors, files = (watch.quarters(kind) for kind in ("rss", "descriptors", "files"))
    held = {
        "no failed request": steady["failed"] + over["failed"] == 0,
        "memory is flat": memory[3] <= (1 + GROWTH) * memory[2],
        "descriptors are flat": descriptors[3] <= descriptors[1] + MOST_NEW_DESCRIPTORS,
        "temporary files are flat": files[3] <= files[1] + MOST_NEW_DESCRIPTORS,
        "ended when asked": server.returncode == 0,
    }
    quarters = {"rss_mb": [round(x / 2**20) for x in memory], "descriptors": descriptors, "temporary_files": files}
    seen = {"minutes": options.minutes, "quarters": quarters, "phases": [steady, over], "held": held}
    print(json.dumps(seen, indent=1))  # noqa: T201
    if options.record:
        record("soak", recorded(seen))
    return 0 if all(held.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
