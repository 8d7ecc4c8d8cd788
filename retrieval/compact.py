"""Give back the space of what nothing needs any more: cached vectors, replaced documents, uploads, pages.

Nothing that is searched or listed changes. Knows nothing of how an index is compacted.
"""

from __future__ import annotations

import time
from array import array
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.protocols import Report
from data.records import JobStatus, Progress
from data.state import StateDirectory
from data.store import Store
from retrieval.chunk import embedded_text
from retrieval.vectors import text_hash

_LEAST_AGE_S = 3600.0
"""Younger uploads stay: their job may not exist yet."""
_JOBS = 1000
_UNFINISHED: tuple[JobStatus, ...] = ("queued", "running", "interrupted")


def collect_garbage(store: Store, state: StateDirectory, embedder: str, report: Report) -> dict[str, int]:
    """Drop what nothing needs and give its space back; return how much that was.

    A cached vector is needed while a chunk has its text and its embedder (``embedder`` is the
    fingerprint of the one in use) is that of some index generation or the one in use.

    Returns:
        ``{"vectors", "replaced_documents", "uploads", "bytes"}`` dropped; bytes of the database with its log.
    """
    before = _database_bytes(state)
    names = store.collections.names()
    replaced = sum(store.documents.collect_retired(name) for name in names)
    vectors = _drop_vectors(store, names, embedder, report)
    uploads = _drop_uploads(store, state, names)
    store.compact()
    freed = max(0, before - _database_bytes(state))  # somebody may write meanwhile
    return {"vectors": vectors, "replaced_documents": replaced, "uploads": uploads, "bytes": freed}


def _database_bytes(state: StateDirectory) -> int:
    """Return what the database and its write-ahead log take: what was just written may stand in the log alone."""
    paths = (state.db, state.db.with_name(f"{state.db.name}-wal"))
    return sum(path.stat().st_size for path in paths if path.exists())


def _drop_vectors(store: Store, names: list[str], embedder: str, report: Report) -> int:
    used = {str(row.meta.get("embedder")) for name in names for row in store.generations.list(name)} | {embedder}
    needed = _needed(store, names, report)

    def unused() -> Iterator[tuple[str, str]]:
        for fingerprint, name in store.embeddings.hashes():
            short = np.uint64(_short(name))
            at = int(np.searchsorted(needed, short))
            if fingerprint not in used or at == len(needed) or needed[at] != short:
                yield fingerprint, name

    return store.embeddings.delete_many(unused())


def _short(name: str) -> int:
    return int(name[:16], 16)


def _needed(store: Store, names: list[str], report: Report) -> NDArray[np.uint64]:
    """Return the first 64 bits of the hash of every chunk's embedded text, ascending: 8 bytes a chunk."""
    short = array("Q")
    total = sum(store.chunks.count(name) for name in names)
    for name in names:
        for _, chunk, _ in store.chunks.iterate(name):
            short.append(_short(text_hash(embedded_text(chunk))))
            if len(short) % 1000 == 0:
                report(Progress(len(short), total, "chunks", None, "compact"))
    return np.unique(np.frombuffer(short, dtype=np.uint64)) if len(short) else np.zeros(0, dtype=np.uint64)


def _drop_uploads(store: Store, state: StateDirectory, names: list[str]) -> int:
    """Remove uploaded bytes that no document came from and no unfinished job waits for."""
    needed = {row.sha256 for name in names for row in store.documents.by_source(name).values()}
    waiting = _waited_for(store)
    dropped = 0
    for path in state.blobs.glob("*/*"):
        old = time.time() - path.stat().st_mtime > _LEAST_AGE_S
        if old and path.parent.name not in needed and str(path) not in waiting:
            path.unlink(missing_ok=True)
            dropped += 1
            if not any(path.parent.iterdir()):
                path.parent.rmdir()
    return dropped


def _waited_for(store: Store) -> set[str]:
    paths: set[Any] = set()
    for status in _UNFINISHED:
        for job in store.jobs.list(status, _JOBS):
            paths.update(job.inputs.get("paths", ()))
    return paths
