"""Ingest on a Ray cluster of two local nodes, against one process: same files, same result, what Ray costs.

Each node is a process with one processor, so that both sides have the machine's two cores; the head works on
nothing. The clock starts when both sides have loaded the model. Further nodes cannot be had on two cores:
``--beyond`` computes them from the measured parts, and says so.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from bench.sides import run_side

_MEMORY = 200 * 2**20
_NODES = (4, 8, 16, 32, 64)


@contextmanager
def cluster() -> Iterator[str]:
    """Start a head without processors and two nodes of one each; yield its address."""
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 0, "object_store_memory": _MEMORY, "include_dashboard": False}
    started = Cluster(initialize_head=True, head_node_args=head)
    try:
        for _ in range(2):
            started.add_node(num_cpus=1, object_store_memory=_MEMORY)
        yield started.address
    finally:
        started.shutdown()


def ingest(folder: Path, address: str | None) -> dict[str, Any]:
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
            report = workspace.ingestor.ingest("default", [folder])
            seconds = time.perf_counter() - started
            own_after, everything_after = _processor_s()
            return _facts(workspace, report, seconds) | {
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
    with cluster() as address:
        return {"cluster_start_s": round(time.perf_counter() - started, 1)} | ingest(folder, address)


SIDES = {"one process": one_process, "two nodes": two_nodes}


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
    parser.add_argument("--side", choices=SIDES, help="run this side only, in this process")
    options = parser.parse_args(arguments)
    if options.side:
        print(json.dumps(SIDES[options.side](options.folder)))
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
