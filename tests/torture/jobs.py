"""Row 17 of the matrix: the process that takes jobs in and runs them is killed; its client asks again, same key.

Each key stands for one document that is ingested and one pair that is imported. A child submits and runs; it says what
it was answered. Whatever is left is taken up by the next, as the server does after a restart. In the end each key must
have one job, which succeeded, and each effect must be there once.
"""

from __future__ import annotations

import json
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from data.records import Job
from service.jobs import run_job, submit
from service.workspace import Workspace
from tests.service.conftest import small_workspace
from tests.service.parts import ScriptedGenerator
from tests.torture.forks import Say, run_forked

LATEST_KILL_S = 0.5
"""Of the processor's time: some five jobs."""
A_LIFE = 25
"""So many jobs a state, then a fresh one begins: they are looked at together."""
FAULTS = ("lost", "doubled", "other_job", "failed", "stuck")
_LEASE_S = 1.01
"""As short as the settings allow: the next process has to wait until the dead one's has run out."""


def opened(root: Path) -> Workspace:
    """Open the state."""
    return small_workspace(root / "state", ScriptedGenerator(), lease_s=_LEASE_S)


def ask(workspace: Workspace, root: Path, key: str) -> Job:
    """Submit the job of a key, the first time or again."""
    kind = "ingest" if int(key[1:]) % 2 else "import_pairs"
    path = root / f"{key}.{'md' if kind == 'ingest' else 'jsonl'}"
    if kind == "ingest":
        path.write_text(f"# {key}\n\nThe keeper of {key} was called Venn{key}.\n", encoding="utf-8")
        inputs = {"paths": [str(path)], "collection": "default", "sync": False, "strict": True}
    else:
        path.write_text(
            json.dumps({"id": key, "question": f"Who kept {key}?", "answers": ["Venn"]}) + "\n", encoding="utf-8"
        )
        inputs = {"path": str(path), "collection": "default", "style": False, "strict": True}
    return submit(workspace.store, kind, inputs, key)


def take_up(workspace: Workspace) -> Iterator[Job]:
    """Run what stopped in the middle, as the server does once its lease has run out; yield each job as it ended."""
    jobs = workspace.store.jobs
    while jobs.list("running", 1):
        jobs.interrupt_expired()
        time.sleep(0.05)
    for job in jobs.list("interrupted", 500):
        jobs.requeue(job.id)
    for job in jobs.list("queued", 500):
        yield run_job(workspace, job.id)


def live(root: Path, keys: list[str], say: Say) -> None:
    """Take up what was left, then ask for every key again and run what is new."""
    with opened(root) as workspace:
        for _ in take_up(workspace):
            pass
        for key in keys:
            job = ask(workspace, root, key)
            say(f"{key} {job.id}")
            if job.status == "queued":
                run_job(workspace, job.id)


def look(root: Path, keys: list[str], say: Say) -> None:
    """Say what each key has come to."""
    with opened(root) as workspace:
        store = workspace.store
        found = {job.id: job.status for job in store.jobs.list(None, 500)}
        documents = Counter(row.source for row in store.documents.list("default", limit=500)[0])
        asked = Counter(pair.question for pair in store.pairs.all("default"))
        for key in keys:
            job = ask(workspace, root, key)
            effect = documents[f"{key}.md"] if job.kind == "ingest" else asked[f"Who kept {key}?"]
            say(json.dumps([key, job.id, found.get(job.id, "new"), effect]))
        say(json.dumps(["all", str(len(found)), "", 0]))


def run(trials: int, seed: int, folder: Path) -> dict[str, int]:
    """Run ``trials`` jobs under kills; return what went wrong, and how many kills there were."""
    counts: Counter[str] = Counter(dict.fromkeys((*FAULTS, "trials", "kills"), 0))
    for number in range(-(-trials // A_LIFE)):
        chance = random.Random(seed + number)
        keys = [f"k{n}" for n in range(min(A_LIFE, trials - counts["trials"]))]
        root = folder / str(number)
        root.mkdir()
        _one_life(root, keys, chance, counts)
    return dict(counts)


def _one_life(root: Path, keys: list[str], chance: random.Random, counts: Counter[str]) -> None:
    told: dict[str, str] = {}
    for number in range(20 * len(keys)):
        # The first is killed in the middle of its jobs on the quickest machine, too.
        at_line = chance.randrange(1, len(keys)) if number == 0 and len(keys) > 1 else None
        ended = run_forked(lambda say: live(root, keys, say), chance.uniform(0.1, LATEST_KILL_S), at_line)
        counts["kills"] += ended.signal != 0
        for key, job in (line.split() for line in ended.said):
            counts["other_job"] += told.setdefault(key, job) != job
        if ended.signal == 0:
            break
    else:
        counts["stuck"] += 1
    assert ended.signal != 0 or ended.status == 0, "a child failed: see above"
    *rows, total = map(json.loads, run_forked(lambda say: look(root, keys, say)).said)
    counts["doubled"] += max(0, int(total[1]) - len(keys))
    for key, job, status, effect in rows:
        counts["trials"] += 1
        counts["other_job"] += told.get(key, job) != job
        counts["failed"] += status not in {"succeeded", "new"}
        counts["lost"] += effect == 0
        counts["doubled"] += effect > 1
