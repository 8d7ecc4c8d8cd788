"""Row 12 of the matrix: backups while documents are put, replaced and deleted and the index is rebuilt and compacted.

Each is restored into an empty state directory and must be of one moment between its beginning and its end: what was
acknowledged before is in it, what was begun later is not, and no two documents are as they never were together. What
was certain all the while is found by its word, by both methods, and its uploaded bytes are there. Real store, real
index, hashed words in place of an embedding model; backups are taken in the process that writes.
"""

from __future__ import annotations

import json
import random
import shutil
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path
from typing import Any

from data.backup import restore_backup, write_backup
from data.errors import NothingIndexed, RagtuneError
from retrieval.ingest import ignore_progress
from service.deletion import delete_document
from service.uploads import keep_upload
from service.workspace import Workspace
from tests.service.conftest import small_workspace
from tests.service.parts import ScriptedGenerator
from tests.torture.kills import text, word
from tests.torture.together import NONE, Write

FAULTS = ("refused", "unopened", "lost", "phantom", "mixed", "broken")
WRITERS, DOCUMENTS_EACH = 2, 6
_MOST_BYTES = 1 << 20
_KEEPER_PAUSE_S = 0.3
_BETWEEN_S = 0.2
"""Between two backups, at most."""
Span = tuple[float, float]


@dataclass
class Service:
    """The state that is written to, and what its clients know."""

    workspace: Workspace
    counts: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(FAULTS, 0)))
    writes: list[list[Write]] = field(default_factory=lambda: [[] for _ in range(WRITERS * DOCUMENTS_EACH)])
    done: threading.Event = field(default_factory=threading.Event)

    def fault(self, kind: str, what: object) -> None:
        """Count a fault and say it."""
        self.counts[kind] += 1
        print(json.dumps({"fault": kind, "what": str(what)[:800]}), flush=True)  # noqa: T201


def name(number: int) -> str:
    """Return the source of a document."""
    return f"{number}.md"


def write(service: Service, own: list[int], chance: random.Random) -> None:
    """Put, replace and delete one's own documents until it is over."""
    version = 0
    workspace = service.workspace
    while not service.done.is_set():
        number = chance.choice(own)
        found = workspace.store.documents.by_source("default").get(name(number))
        version += 1
        gone = found is not None and chance.random() < 0.3
        begun = Write(NONE if gone else version, time.monotonic())
        service.writes[number].append(begun)
        if found is not None and gone:
            delete_document(workspace, found.id)
        else:
            content = BytesIO(text(number, version).encode())
            kept = keep_upload(workspace.state, name(number), content, _MOST_BYTES)
            workspace.ingestor.ingest("default", [kept])
        begun.ended = time.monotonic()
        service.counts["writes"] += 1


def keep_house(service: Service) -> None:
    """Rebuild and compact the index in turn until it is over."""
    for number in range(10**6):
        if service.done.wait(_KEEPER_PAUSE_S):
            return
        ingestor = service.workspace.ingestor
        ingestor.compact("default") if number % 2 else ingestor.rebuild("default")
        service.counts["rebuilds"] += 1


def spans(writes: Sequence[Write], version: int, began: float, ended: float) -> list[Span]:
    """Return when, between ``began`` and ``ended``, a document may have been in this version; NONE: not there."""
    found = []
    changes = [Write(NONE, float("-inf"), float("-inf")), *writes]
    for change, following in zip(changes, [*changes[1:], None], strict=True):
        until = ended if following is None or following.ended is None else min(ended, following.ended)
        if change.version == version and max(began, change.began) <= until:
            found.append((max(began, change.began), until))
    return found


def one_moment(possible: Sequence[Sequence[Span]]) -> bool:
    """Say whether there is a moment that is in a span of each."""
    begins = [begin for each in possible for begin, _ in each]
    return any(all(any(a <= moment <= b for a, b in each) for each in possible) for moment in begins)


def judge(service: Service, root: Path, writes: list[list[Write]], began: float, ended: float) -> None:
    """Count what is wrong with a backup, taken between ``began`` and ``ended``, that was restored to ``root``."""
    possible = []
    with small_workspace(root, ScriptedGenerator()) as workspace:
        rows = workspace.store.documents.by_source("default")
        if strangers := rows.keys() - {name(number) for number in range(len(writes))}:
            service.fault("phantom", strangers)
        for number, own in enumerate(writes):
            row = rows.get(name(number))
            held = NONE
            if row is not None:
                held = int(workspace.store.documents.get(row.id).text.split("x", 1)[1].split()[0])
            found = spans(own, held, began, ended)
            if not found:
                service.fault("lost" if held == NONE else "phantom", f"document {number} is {held}: {own[-3:]}")
            elif found == [(began, ended)] and not _changed(own, began, ended):
                service.counts["certain"] += 1
                _look(service, workspace, number, held)
            possible.append(found)
        if all(possible) and not one_moment(possible):
            service.fault("mixed", possible)
        # Between the store's change and the index's, the index is behind; the next build makes it equal.
        before = workspace.ingestor.verify("default")["problems"]
        workspace.ingestor.build("default", ignore_progress)
        problems = [one for one in before if one["kind"] != "index-missing"]
        if problems := problems + workspace.ingestor.verify("default")["problems"]:
            service.fault("broken", problems)


def _changed(writes: Sequence[Write], began: float, ended: float) -> bool:
    """Say whether a document was being changed at any time between."""
    return any(one.began <= ended and (one.ended is None or one.ended >= began) for one in writes)


def _look(service: Service, workspace: Workspace, number: int, version: int) -> None:
    """Search for a document that nobody changed while the backup was taken, and look for its bytes."""
    if version == NONE:
        return
    marker = word(number, version)
    for method in ("lexical", "dense"):
        try:
            hits = workspace.retriever.search(marker, "default", 50, method)
        except NothingIndexed:
            hits = []
        if not any(marker in hit.chunk.text.split() for hit in hits):
            service.fault("broken", f"document {number} is stored in version {version} and not found ({method})")
    row = workspace.store.documents.by_source("default")[name(number)]
    blob = workspace.state.blobs / row.sha256 / name(number)
    if not blob.is_file() or blob.read_bytes() != text(number, version).encode():
        service.fault("broken", f"the bytes of document {number} are not in the backup")


def take(service: Service, folder: Path, chance: random.Random) -> None:
    """Take a backup, restore it and judge it."""
    time.sleep(chance.uniform(0, _BETWEEN_S))
    archive, root = folder / "backup.tar", folder / "restored"
    began = time.monotonic()
    try:
        write_backup(service.workspace.state, service.workspace.store, archive, ignore_progress)
    except RagtuneError as error:
        service.fault("refused", repr(error))
        return
    ended = time.monotonic()
    service.counts["meanwhile"] += any(_changed(own, began, ended) for own in service.writes)
    writes = [[Write(one.version, one.began, one.ended) for one in own] for own in service.writes]
    try:
        restore_backup(archive, root, ignore_progress)
        judge(service, root, writes, began, ended)
    except RagtuneError as error:
        service.fault("unopened", repr(error))
    finally:
        shutil.rmtree(root, ignore_errors=True)
        archive.unlink()


def run(trials: int, seed: int, folder: Path) -> dict[str, Any]:
    """Take ``trials`` backups while writers write; return what went wrong, and what was changed meanwhile."""
    with small_workspace(folder / "state", ScriptedGenerator()) as workspace:
        service = Service(workspace)
        own = [list(range(n, len(service.writes), WRITERS)) for n in range(WRITERS)]
        with ThreadPoolExecutor(WRITERS + 1) as pool:
            working = [pool.submit(write, service, each, random.Random(f"{seed} {each}")) for each in own]
            working.append(pool.submit(keep_house, service))
            try:
                for number in range(trials):
                    take(service, folder, random.Random(f"{seed} {number}"))
            finally:
                service.done.set()
            for each in working:
                each.result()
    return {"trials": trials, **service.counts}
