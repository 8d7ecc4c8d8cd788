"""Ingest on a Ray cluster of two local nodes, against one process: same files, same result, what Ray costs.

Each node is a process with one processor, so that both sides have the machine's two cores; the head works on
nothing. The clock starts when both sides have loaded the model. Further nodes cannot be had on two cores:
``--beyond`` computes them from the measured parts, and says so. With ``--kill`` a node is killed (``kill -9``, with all
that it is at) when a third of the work is done, under Ray's own health checks: what was lost, and for how long.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil

from bench.sides import run_side
from data.protocols import Report
from data.records import Progress

_MEMORY = 200 * 2**20
_NODES = (4, 8, 16, 32, 64)


@contextmanager
def cluster() -> Iterator[tuple[str, Callable[[], None]]]:
    """Start a head without processors and two nodes of one each; yield its address, and what kills a node."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": _MEMORY, "include_dashboard": False}
    started = Cluster(initialize_head=True, head_node_args=head)
    try:
        nodes = [started.add_node(num_cpus=1, object_store_memory=_MEMORY) for _ in range(2)]
        yield started.address, lambda: started.remove_node(nodes[0], allow_graceful=False)
    finally:
        started.shutdown()


class Loss:
    """Kills a node when a share of a stage is done, and keeps when each step of it was told."""

    def __init__(self, kill: Callable[[], None], stage: str, share: float) -> None:
        self._kill, self._stage, self._share = kill, stage, share
        self._steps: list[float] = []
        self._at = 0.0

    def __call__(self, progress: Progress) -> None:
        """Take a report of the job."""
        if progress.stage != self._stage:
            return
        self._steps.append(time.perf_counter())
        if not self._at and progress.done >= self._share * progress.total:
            self._at = time.perf_counter()
            self._kill()

    def told(self) -> dict[str, Any]:
        """Return the waits for the next step, before and after, and where in the run the node was lost."""
        gaps = [(end - start, end) for start, end in pairwise(self._steps)]
        before, after = [gap for gap, end in gaps if end <= self._at], [gap for gap, end in gaps if end > self._at]
        return {
            "killed_after_s": round(self._at - self._steps[0], 2),
            "longest_wait_before_s": round(max(before), 2),
            "next_step_after_s": round(after[0], 2),
            "longest_wait_after_s": round(max(after), 2),
            "steps_after": len(after),
        }


def ingest(folder: Path, address: str | None, report: Report = lambda _: None) -> dict[str, Any]:
    """Ingest a folder into a fresh state directory, after a first file that loads the model everywhere."""
    from service.settings import Settings
    from service.workspace import Workspace

    with tempfile.TemporaryDirectory(prefix="ragtune-bench-") as state:
        settings = Settings.load(state_dir=Path(state) / "state", embedder="starter", ray_address=address)
        with Workspace(settings) as workspace:
            started = time.perf_counter()
            workspace.ingestor.ingest("warm", _warm(Path(state) / "warm"))
            warm_s = time.perf_counter() - started
            own, everything = _processor_s()
            started = time.perf_counter()
            done = workspace.ingestor.ingest("default", [folder], report=report)
            seconds = time.perf_counter() - started
            own_after, everything_after = _processor_s()
            return _facts(workspace, done, seconds) | {
                "warm_s": round(warm_s, 1),
                "own_processor_s": round(own_after - own, 2),
                "processor_s": round(everything_after - everything, 2),
            }


def _processor_s() -> tuple[float, float]:
    """Return the processor time of this process, and of it with all that it started (the cluster too)."""
    this = psutil.Process()
    each = []
    for process in (this, *this.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            used = process.cpu_times()
            each.append(used.user + used.system)
    return each[0], sum(each)


def _warm(folder: Path) -> list[Path]:
    """Write enough text that every processor gets some of it."""
    folder.mkdir()
    for number in range(40):
        (folder / f"{number}.md").write_text(f"# Note {number}\n\n" + f"Sentence {number} of a few. " * 300)
    return [folder]


def _facts(workspace: Any, report: Any, seconds: float) -> dict[str, Any]:
    import numpy as np

    from retrieval.chunk import embedded_text

    chunks = [chunk for _, chunk, _ in workspace.store.chunks.iterate("default")]
    hashes = [hashlib.sha256(embedded_text(chunk).encode()).hexdigest() for chunk in chunks]
    cached = workspace.store.embeddings.get_many(workspace.embedder.fingerprint, set(hashes))
    vectors = Path(tempfile.gettempdir()) / f"ragtune-bench-vectors-{os.getpid()}.npy"
    np.save(vectors, np.stack([np.frombuffer(cached[key], dtype="<f4") for key in sorted(cached)]))
    ids = sorted([row["id"] for row in report.indexed] + [chunk.id for chunk in chunks])
    return {
        "documents": len(report.indexed),
        "failed": len(report.failed),
        "chunks": len(chunks),
        "ids_sha256": hashlib.sha256("\n".join(ids).encode()).hexdigest(),
        "vectors": str(vectors),
        "seconds": round(seconds, 2),
        "chunks_per_s": round(len(chunks) / seconds, 1),
    }


def one_process(folder: Path) -> dict[str, Any]:
    """Ingest as always."""
    return ingest(folder, None)


def two_nodes(folder: Path) -> dict[str, Any]:
    """Ingest on the cluster; its start is told apart."""
    started = time.perf_counter()
    with cluster() as (address, _):
        return {"cluster_start_s": round(time.perf_counter() - started, 1)} | ingest(folder, address)


def node_killed(folder: Path) -> dict[str, Any]:
    """Ingest on the cluster, of which a node is lost at a third of the files."""
    with cluster() as (address, kill):
        loss = Loss(kill, "load", 1 / 3)
        return ingest(folder, address, loss) | loss.told()


def engine_killed(folder: Path) -> dict[str, Any]:
    """Have 18 pairs proposed by engines on two nodes, of which one is lost at a third of them."""
    from service.settings import Settings
    from service.work import pairs
    from service.workspace import Workspace

    with cluster() as (address, kill), tempfile.TemporaryDirectory(prefix="ragtune-bench-") as state:
        settings = Settings.load(state_dir=Path(state), model="starter", n_ctx=2048, sequences=2, ray_address=address)
        with Workspace(settings) as workspace:
            workspace.ingestor.ingest("default", sorted(folder.rglob("*.md"))[:2])
            loss, started = Loss(kill, "pairs", 1 / 3), time.perf_counter()
            ledger = pairs.run(workspace, {"limit": 18, "faq": False, "kinds": ["span", "unanswerable"]}, loss)
            return {"ledger": ledger, "seconds": round(time.perf_counter() - started, 1)} | loss.told()


SIDES = {"one process": one_process, "two nodes": two_nodes}
LOSSES = {"node killed": node_killed, "engine killed": engine_killed}


def beyond(found: dict[str, Any]) -> list[dict[str, float]]:
    """Compute further nodes of one processor: their work in parallel, or the job's own time, which is not divided."""
    own = found["two nodes"]["own_processor_s"]
    work = found["two nodes"]["processor_s"] - own
    chunks = found["two nodes"]["chunks"]
    return [{"nodes": n, "chunks_per_s_simulated": round(chunks / max(work / n, own), 1)} for n in _NODES]


def main(arguments: list[str] | None = None) -> None:
    """Run both sides in turn, ``--rounds`` times, and print what they took."""
    parser = argparse.ArgumentParser(prog="python -m bench.ray_ingest", description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="a folder of documents")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--side", choices=SIDES | LOSSES, help="run this side only, in this process")
    parser.add_argument("--kill", action="store_true", help="measure what the loss of a node costs instead")
    options = parser.parse_args(arguments)
    if options.side:
        print(json.dumps((SIDES | LOSSES)[options.side](options.folder)))
        return
    if options.kill:
        found = {side: run_side("bench.ray_ingest", side, "--folder", str(options.folder)) for side in LOSSES}
        print(json.dumps(found, indent=1))
        return
    import numpy as np

    rounds = [
        {side: run_side("bench.ray_ingest", side, "--folder", str(options.folder)) for side in SIDES}
        for _ in range(options.rounds)
    ]
    best = {side: min((found[side] for found in rounds), key=lambda one: one["seconds"]) for side in SIDES}
    one, two = best["one process"], best["two nodes"]
    cosines = (np.load(one["vectors"]) * np.load(two["vectors"])).sum(axis=1)
    for found in rounds:
        for side in found.values():
            Path(side.pop("vectors")).unlink()
    result = {
        "rounds": rounds,
        "same_ids": one["ids_sha256"] == two["ids_sha256"],
        "least_cosine": round(float(cosines.min()), 6),
        "overhead_percent_of_processor_time": round(100 * (two["processor_s"] / one["processor_s"] - 1), 1),
        "overhead_percent": round(100 * (two["seconds"] / one["seconds"] - 1), 1),
        "simulated": beyond(best),
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
