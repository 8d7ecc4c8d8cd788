"""Row 10 of the matrix: a file system that is full, and has room again, under a service that goes on running.

The state lies in a small tmpfs of its own (``unshare``: a mount that no other process sees). A file is grown until
little or nothing is left, then documents are uploaded, the index is rebuilt, pairs are imported and exported, and log
lines written. What may come out: success, or the error that says that the disk is full. Reads must go on meanwhile,
and as soon as there is room everything must work again in the same process, with all that was acknowledged.
"""

from __future__ import annotations

import json
import logging
import random
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from fastapi.testclient import TestClient

from data.errors import RagtuneError
from service.app import create_app
from service.jobs import run_job
from service.server_log import server_log
from service.workspace import Workspace
from tests.service.conftest import small_workspace
from tests.service.parts import ScriptedGenerator
from tests.torture.jobs import take_up
from tests.torture.matrix import ROOT

FAULTS = ("lost", "untyped", "unread", "unrecovered", "broken")
SIZE = "24m"
ROOMS = (0, 0, 4, 16, 48, 96, 200, 400)
"""What is left, in kB."""
FULL = "insufficient-storage"
_FIRST = "The lighthouse of Orrin was built in 1842."


class Service:
    """The application over a state in a file system that can be filled."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ballast = folder, folder / "ballast"
        self.workspace: Workspace = small_workspace(folder / "state", ScriptedGenerator(), lease_s=1.01)
        self.client = TestClient(
            create_app(self.workspace, run_jobs=False), base_url="http://127.0.0.1", raise_server_exceptions=False
        )
        self.told: set[str] = set()
        self.counts: Counter[str] = Counter(dict.fromkeys((*FAULTS, "trials", "refused", "done"), 0))

    def fill(self, room: int) -> None:
        """Leave ``room`` kB."""
        with self.ballast.open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12):
                while shutil.disk_usage(self.folder).free >= size + room * 1024:
                    file.write(bytes(size))

    def fault(self, kind: str, what: object) -> None:
        """Count a fault, and print what it was."""
        self.counts[kind] += 1
        print(json.dumps({"fault": kind, "what": str(what)[:600]}), file=sys.stderr, flush=True)  # noqa: T201

    def ended(self, what: str, answer: str, kind: str | None) -> bool:
        """Take in how a request or a job ended; ``kind`` is its error's type. True if it was done."""
        if kind is None:
            self.counts["done"] += 1
        elif kind == FULL:
            self.counts["refused"] += 1
        else:
            self.fault("untyped", f"{what}: {answer}")
        return kind is None

    def job(self, what: str, path: str, **request: object) -> bool:
        """Send a request for a job and run it; True if both were done."""
        answer = self.client.post(path, **request)  # type: ignore[arg-type]
        if not self.ended(what, answer.text, None if answer.status_code == 202 else problem(answer)):
            return False
        try:
            job = run_job(self.workspace, answer.json()["job_id"])
        except RagtuneError as error:
            return self.ended(f"{what} job", str(error), error.type)
        error_type = (job.error or {}).get("type")
        return self.ended(f"{what} job", f"{job.status} {job.error}", None if job.status == "succeeded" else error_type)

    def upload(self, name: str) -> None:
        """Upload a document; what succeeded is told."""
        text = f"# {name}\n\nThe keeper of {name} was called Venn{name}.\n" + f"{name} has a long story. " * 400
        if self.job("upload", "/v1/documents", files={"files": (f"{name}.md", text)}):
            self.told.add(name)

    def read(self) -> None:
        """Ask what must be answered on a full disk too."""
        for method, path, body in (
            ("GET", "/healthz", None),
            ("GET", "/v1/documents", None),
            ("POST", "/v1/search", {"query": "lighthouse of Orrin"}),
            ("POST", "/v1/answers", {"question": "When was the lighthouse of Orrin built?", "mode": "rag"}),
        ):
            answer = self.client.request(method, path, json=body)
            if answer.status_code != 200 or (path == "/v1/search" and _FIRST not in answer.text):
                self.fault("unread", f"{path} {answer.status_code} {answer.text}")

    def recover(self, trial: int) -> None:
        """Make room; all must be there and work."""
        self.ballast.unlink()
        self.finish_left()
        before = len(self.told)
        self.upload(f"after{trial}")
        if len(self.told) == before:
            self.fault("unrecovered", trial)
        for name in self.told:
            found = self.client.post("/v1/search", json={"query": f"Venn{name}", "method": "lexical", "top_k": 1})
            if found.status_code != 200 or f"Venn{name}" not in found.text:
                self.fault("lost", name)
        if problems := self.workspace.ingestor.verify("default")["problems"]:
            self.fault("broken", problems)

    def finish_left(self) -> None:
        """Take up what stopped in the middle; all of it succeeds now that there is room."""
        for job in take_up(self.workspace):
            if job.status != "succeeded":
                self.fault("unrecovered", job.id)


def problem(answer: object) -> str:
    """Return the type of a problem object, what came instead where it is none."""
    try:
        return str(answer.json()["type"])  # type: ignore[attr-defined]
    except (ValueError, KeyError):
        return f"no problem object: {answer.text[:200]}"  # type: ignore[attr-defined]


def live(folder: Path, trials: int, seed: int) -> dict[str, int]:
    """Fill the file system ``trials`` times."""
    service = Service(folder)
    documents = folder / "documents"
    documents.mkdir()
    (documents / "orrin.md").write_text(f"# Orrin\n\n{_FIRST}\n")
    service.workspace.ingestor.ingest("default", [documents])
    pair = json.dumps({"id": "it", "question": "When was it built?", "answers": ["1842"]})
    works: dict[str, Callable[[int], object]] = {
        "upload": lambda trial: service.upload(f"full{trial}"),
        "rebuild": lambda _trial: service.job("rebuild", "/v1/index/rebuild", json={"collection": "default"}),
        "import": lambda trial: service.job(
            "import",
            "/v1/pairs/import",
            files={"file": (f"{trial}.jsonl", pair.replace("it", f"tower {trial}") + "\n")},
        ),
        "log": lambda trial: [logging.getLogger("service").warning("line %s of %s", n, trial) for n in range(2000)],
    }
    with server_log(service.workspace.state.logs / "server.log", "INFO"):
        for trial in range(seed, seed + trials):
            service.fill(random.Random(trial).choice(ROOMS))
            works[list(works)[trial % len(works)]](trial)
            service.read()
            service.recover(trial)
            service.counts["trials"] += 1
    return dict(service.counts)


def run(trials: int, seed: int, folder: Path) -> dict[str, int]:
    """Fill a file system ``trials`` times; return what was found.

    Raises:
        CalledProcessError: no file system may be mounted here.
    """
    inner = [sys.executable, "-m", "tests.torture.full", str(folder), str(trials), str(seed)]
    mount = f'mount -t tmpfs -o size={SIZE} tmpfs "$0" && exec "$@"'
    command = ["unshare", "-rm", "sh", "-c", mount, str(folder), *inner]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


if __name__ == "__main__":
    print(json.dumps(live(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))))  # noqa: T201
