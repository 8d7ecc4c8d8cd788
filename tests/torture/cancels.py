"""Row 18 of the matrix: jobs of a server are cancelled at a moment of chance, whatever they are at then.

A server with the packaged embedder, its jobs in processes of their own: uploads that replace documents, rebuilds,
compactions, verifications. A job that had not ended must be ``cancelled``. What is stored afterwards is, document by
document, what was there before or the whole of what was uploaded; no process and no file of a job is left, and the
server takes no more memory than before. Jobs that nobody cancels then succeed, and the index is sound.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.torture import terminations
from tests.torture.together import NONE

FAULTS = ("status", "half", "lost", "left", "grew", "broken")
_ENDS = ("cancelled", "succeeded")
DOCUMENTS, EACH, LINES = 8, 4, 40
MOST_GROWTH = 0.05
_LATEST_S = 5.0
_END_S = 120.0
_GONE_S = 30.0
"""How long a process that has ended its job may take to be gone: it gives way to others on a busy machine."""
_KINDS = ("ingest", "ingest", "ingest", "rebuild", "compact", "verify")


@dataclass
class Service:
    """A server, what its client knows of each document, and what was found."""

    root: Path
    client: httpx.Client
    process: psutil.Process
    counts: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys((*FAULTS, *_ENDS), 0)))
    possible: dict[int, set[int]] = field(default_factory=lambda: {number: {NONE} for number in range(DOCUMENTS)})

    def fault(self, kind: str, what: object) -> None:
        """Count a fault and say it."""
        self.counts[kind] += 1
        print(json.dumps({"fault": kind, "what": str(what)[:800]}), flush=True)  # noqa: T201

    def job(self, identity: str) -> dict[str, Any]:
        """Return a job."""
        found: dict[str, Any] = self.client.get(f"/v1/jobs/{identity}").json()
        return found

    def ended(self, identity: str) -> str:
        """Wait for a job's end and return its status, the one that it has if it does not end."""
        until = time.monotonic() + _END_S
        while (status := str(self.job(identity)["status"])) in {"queued", "running", "interrupted"}:
            if time.monotonic() > until:
                break
            time.sleep(0.05)
        return status


def text(number: int, version: int) -> str:
    """Return a version of a document, of several chunks."""
    lines = (f"Line {line} of version {version} tells of the bay and of the wind.\n" for line in range(LINES))
    return f"# Document {number}\n\n" + "".join(lines)


def name(number: int) -> str:
    """Return the source of a document."""
    return f"document{number}.md"


def submit(service: Service, kind: str, numbers: list[int], version: int) -> str:
    """Submit a job and return its id; a document that is uploaded may then be in its old version or the new one."""
    if kind == "ingest":
        for number in numbers:
            service.possible[number].add(version)
        files = [("files", (name(number), text(number, version).encode())) for number in numbers]
        answer = service.client.post("/v1/documents", files=files)
    else:
        answer = service.client.post(f"/v1/index/{kind}", json={})
    return str(answer.raise_for_status().json()["job_id"])


def settle(service: Service, status: str, numbers: list[int], version: int) -> None:
    """Note how a job ended: a success leaves one possibility."""
    service.counts[status] += 1
    if status == "succeeded":
        for number in numbers:
            service.possible[number] = {version}
    elif status != "cancelled":
        service.fault("status", status)


def look(service: Service) -> None:
    """Compare what is stored with what may be there, and look for what jobs left behind."""
    listed = service.client.get("/v1/documents?limit=500").json()["documents"]
    ids = {row["source"]: row["id"] for row in listed}
    if len(ids) != len(listed):
        service.fault("half", f"a document is there twice: {listed}")
    for number, possible in service.possible.items():
        held = NONE
        if name(number) in ids:
            path = f"/v1/documents/{ids[name(number)]}"
            told = service.client.get(f"{path}/text").json()["text"]
            held = int(told.split("of version ", 1)[1].split()[0])
            chunks = service.client.get(f"{path}/chunks").json()["chunks"]
            whole = text(number, held)
            if told.strip() != whole.strip() or not chunks or any(each["text"] not in whole for each in chunks):
                service.fault("half", f"document {number}: {told[:200]}, {len(chunks)} chunks")
        if held not in possible:
            service.fault("lost", f"document {number} is in version {held}, wanted one of {possible}")
        service.possible[number] = {held}
    files = [path for folder in ("tmp", "uploads") for path in (service.root / "state" / folder).iterdir()]
    if files:
        service.fault("left", files)
    _, alive = psutil.wait_procs(service.process.children(recursive=True), timeout=_GONE_S)
    if alive:
        service.fault("left", alive)


def grown(service: Service, before: int, after: int) -> float:
    """Return by what share of ``before`` the memory of the server grew; count it where that is too much."""
    growth = after / before - 1
    if growth > MOST_GROWTH:
        service.fault("grew", f"{growth:.1%}: {before} to {after} bytes")
    return round(growth, 4)


def cancel_all(service: Service, trials: int, chance: random.Random) -> float:
    """Cancel ``trials`` jobs; return by what share the server's memory grew meanwhile."""
    everything = list(range(DOCUMENTS))
    settle(service, service.ended(submit(service, "ingest", everything, 0)), everything, 0)
    look(service)
    before = service.process.memory_info().rss
    for version in range(1, trials + 1):
        kind = chance.choice(_KINDS) if version > 1 else "ingest"
        numbers = sorted(chance.sample(everything, EACH))
        numbers = numbers if kind == "ingest" else []
        identity = submit(service, kind, numbers, version)
        if version > 1:  # the first, an upload, is cancelled at once: on a fast machine all others may have ended
            time.sleep(chance.uniform(0, chance.choice((0.5, _LATEST_S))))
        service.client.post(f"/v1/jobs/{identity}/cancel").raise_for_status()
        settle(service, service.ended(identity), numbers, version)
        look(service)
    growth = grown(service, before, service.process.memory_info().rss)
    version = trials + 1
    settle(service, service.ended(submit(service, "ingest", everything, version)), everything, version)
    verified = submit(service, "verify", [], version)
    if service.ended(verified) != "succeeded" or service.job(verified)["outputs"]["problems"]:
        service.fault("broken", service.job(verified))
    look(service)
    return growth


def run(trials: int, seed: int, folder: Path) -> dict[str, Any]:
    """Cancel ``trials`` jobs; return what went wrong, and by what share the server's memory grew (0.01: 1 %)."""
    process, url = terminations.Service(folder).start()
    try:
        with httpx.Client(base_url=url, timeout=_END_S) as client:
            service = Service(folder, client, psutil.Process(process.pid))
            growth = cancel_all(service, trials, random.Random(seed))
    finally:
        process.terminate()
        process.wait()
    return {"trials": trials, "memory_growth": float(growth), **service.counts}
