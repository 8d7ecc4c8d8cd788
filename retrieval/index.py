"""The dense leg of an index generation: segments, tombstones, and when segments are joined.

What was added goes into a new segment; what was removed is marked in the old one. Segments of like
size are joined, so their number grows with the logarithm of the rows, and each is of the kind that its
size asks for. Knows nothing of text, generations or the store: vectors come with the integer keys to
return.
"""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import IndexMismatch, StorageCorrupt
from data.protocols import Hit, Keys, Vectors
from data.state import map_os_error, write_atomic
from retrieval.pending import Pending
from retrieval.segments import Among, Blocks, Mask, Policy, Rows, Segment, Source, write_segment

_LIST = "segments.json"
_FORMAT = 1
_JOIN_ROWS = 5000
"""Segments up to this size are joined with whatever is added: they are rewritten in milliseconds."""
_JOIN_GROWTH = 2.0
"""A segment is joined with smaller ones once it has at most this many times their rows."""
_MAX_DEAD = 0.25
"""A segment is rewritten when a larger share of its rows was removed."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A segment and which of its rows are alive: None for all of them, with a mask for searching else."""

    segment: Segment
    alive: Mask | None = None
    among: Among | None = None

    @property
    def count(self) -> int:
        return len(self.segment) if self.among is None else self.among.count

    @property
    def keys(self) -> Keys:
        return self.segment.keys if self.alive is None else self.segment.keys[self.alive]

    def without(self, rows: Rows) -> _Part:
        alive = np.ones(len(self.segment), dtype=np.bool_) if self.alive is None else self.alive.copy()
        alive[rows] = False
        return _Part(self.segment, alive, Among(alive))

    def narrowed(self, allowed: Keys | None) -> Among | None:
        """Return the rows to search: None for all."""
        if allowed is None:
            return self.among
        mask = np.zeros(len(self.segment), dtype=np.bool_)
        mask[self.segment.rows_of(allowed)] = True
        return Among(mask if self.alive is None else mask & self.alive)


@dataclass(frozen=True, slots=True)
class _Survivors:
    """The living rows of a part, as the source of a new segment."""

    part: _Part

    @property
    def keys(self) -> Keys:
        return self.part.segment.keys

    def blocks(self) -> Iterator[tuple[Rows, Vectors]]:
        for rows, vectors in self.part.segment.blocks():
            if self.part.alive is None:
                yield rows, vectors
            else:
                kept = self.part.alive[rows]
                yield rows[kept], vectors[kept]


class FaissIndex:
    """An inner-product ``Index`` in ``folder``, read from there if it was saved before.

    Flat, then HNSW, then IVF with 8-bit codes as it grows (``policy``). Threads may search while one
    writes: a search sees the segments as they were when it began, without a lock. Entries added since
    the last ``save`` are saved by the first search that comes.

    Raises:
        StorageCorrupt: the files cannot be read.
        IndexMismatch: the saved vectors have another length than ``dimension``.
    """

    def __init__(self, folder: Path, dimension: int, policy: Policy | None = None) -> None:
        self._folder, self._dimension, self._policy = folder, dimension, policy or Policy()
        self._lock = threading.RLock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise map_os_error(error, folder) from error
        self._pending = Pending(folder, dimension)
        self._next = 0
        self._parts = self._read()
        self._noted = self._parts

    def add(self, keys: Sequence[int] | Keys, texts: Sequence[str], vectors: Vectors) -> None:  # noqa: ARG002
        """Add vectors of shape (len(keys), dimension), replacing those with the same keys."""
        if vectors.shape != (len(keys), self._dimension):
            raise IndexMismatch(
                "The vectors do not fit the index.",
                got=f"shape {vectors.shape}",
                wanted=f"shape ({len(keys)}, {self._dimension})",
            )
        with self._lock:
            self.remove(keys)
            self._pending.add(np.asarray(keys, dtype=np.int64), vectors)

    def remove(self, keys: Sequence[int] | Keys) -> None:
        """Remove entries; absent keys are ignored."""
        gone = np.unique(np.asarray(keys, dtype=np.int64))
        with self._lock:
            self._pending.remove(gone)
            self._parts = tuple(_bury(part, gone) for part in self._parts)

    def search(self, query: str, vector: Vectors, k: int, allowed: Keys | None = None) -> list[Hit]:  # noqa: ARG002
        """Return the ``k`` nearest by inner product, of all or of the ``allowed``, best first; ties by key.

        Exact in flat segments; in larger ones nearly so (see bench/RESULTS.md), and exact again where
        few rows are allowed.
        """
        if len(self._pending):
            self.save()
        vector = np.ascontiguousarray(vector, dtype=np.float32)
        hits: list[Hit] = []
        for part in self._parts:
            rows, scores = part.segment.search(vector, k, part.narrowed(allowed))
            keys = part.segment.keys[rows]
            hits.extend(map(Hit, keys.tolist(), scores.tolist()))
        return sorted(hits, key=lambda hit: (-hit.score, hit.key))[: max(k, 0)]

    def vectors(self, keys: Sequence[int] | Keys) -> Vectors:
        """Return the vectors of ``keys`` as they are held, shape (len(keys), dimension); zeros for others.

        Those of HNSW and IVF segments have 8 bits for each component.
        """
        if len(self._pending):
            self.save()
        wanted = np.asarray(keys, dtype=np.int64)
        found = np.zeros((len(wanted), self._dimension), dtype=np.float32)
        for part in self._parts:
            rows = np.minimum(np.searchsorted(part.segment.keys, wanted), len(part.segment) - 1)
            held = part.segment.keys[rows] == wanted
            if part.alive is not None:
                held &= part.alive[rows]
            if held.any():
                found[held] = part.segment.vectors(rows[held])
        return found

    def keys(self) -> Keys:
        """Return every key held, ascending."""
        with self._lock:
            held = [part.keys for part in self._parts]
            return np.sort(np.concatenate([*held, self._pending.keys])).astype(np.int64, copy=False)

    def save(self) -> None:
        """Write a segment of what was added, join what should be joined, and note the result on disk."""
        with self._lock:
            joined = self._due()
            if joined or len(self._pending):
                self._join(joined)
            elif self._parts is not self._noted or not (self._folder / _LIST).exists():
                self._note()

    def compact(self) -> None:
        """Write one segment of everything, without what was removed, trained anew."""
        with self._lock:
            if len(self._pending) or len(self._parts) > 1 or any(part.alive is not None for part in self._parts):
                self._join(list(self._parts), fresh=True)

    def close(self) -> None:
        """Drop the segments; unsaved changes are lost."""
        with self._lock:
            self._pending.clear()
            self._parts = ()

    def kinds(self) -> list[tuple[str, int, int]]:
        """Return (kind, rows, removed rows) of each segment, largest first."""
        rows = [(part.segment.kind, len(part.segment), len(part.segment) - part.count) for part in self._parts]
        return sorted(rows, key=lambda row: -row[1])

    def __len__(self) -> int:
        return sum(part.count for part in self._parts) + len(self._pending)

    def _due(self) -> list[_Part]:
        """Return the segments to rewrite: those full of removed rows, and those not much larger than the rest."""
        total = len(self._pending)
        due = []
        for part in sorted(self._parts, key=lambda part: part.count):
            dead = len(part.segment) - part.count
            grown = total and part.count <= max(_JOIN_GROWTH * total, _JOIN_ROWS)
            if grown or dead > _MAX_DEAD * len(part.segment):
                due.append(part)
                total += part.count
        return due

    def _join(self, joined: list[_Part], *, fresh: bool = False) -> None:
        """Put one segment in the place of those ``joined`` and of the pending rows."""
        sources: list[Source] = [_Survivors(part) for part in joined]
        keys = np.sort(np.concatenate([*(part.keys for part in joined), self._pending.keys]))
        parts = [part for part in self._parts if part not in joined]
        if len(keys):
            kind, name = self._policy.kind(len(keys)), str(self._next)
            sources.append(self._pending)
            base = None if fresh or kind != "ivf" else self._base(joined, sources, len(keys))
            blocks = Blocks(sources, keys)
            write_segment(self._folder, name, kind, blocks, self._policy, base=base)
            self._next += 1
            parts.append(_Part(Segment(self._folder, name, kind, self._policy)))
        self._parts = tuple(parts)
        self._pending.clear()
        self._note()

    def _base(self, joined: list[_Part], sources: list[Source], rows: int) -> Segment | None:
        """Return the segment whose training still serves ``rows`` rows that come from the ``sources``."""
        bases = [part.segment for part in joined if part.segment.kind == "ivf"]
        bases = [base for base in bases if rows <= self._policy.retrain_growth * base.trained_rows]
        base = max(bases, key=len, default=None)
        others = [source for source in sources if not (isinstance(source, _Survivors) and source.part.segment is base)]
        if base is None or all(base.holds(vectors) for source in others for _, vectors in source.blocks()):
            return base
        return None

    def _note(self) -> None:
        """Write the list of segments, the removed rows first, and drop the files that it no longer names."""
        rows, kept = [], {_LIST}
        for part in self._parts:
            segment = part.segment
            kept |= {f"{segment.name}.faiss", f"{segment.name}.keys"}
            if part.alive is not None:
                kept.add(f"{segment.name}.dead")
                dead = np.flatnonzero(~part.alive).astype("<i8")
                write_atomic(self._folder / f"{segment.name}.dead", dead.tobytes())
            rows.append(
                {"name": segment.name, "kind": segment.kind, "rows": len(segment), "dead": len(segment) - part.count}
            )
        noted = {"format": _FORMAT, "dimension": self._dimension, "next": self._next, "segments": rows}
        write_atomic(self._folder / _LIST, json.dumps(noted, indent=1).encode())
        for path in self._folder.iterdir():
            if path.name not in kept and path.suffix in (".faiss", ".keys", ".dead"):
                path.unlink(missing_ok=True)
        self._noted = self._parts

    def _read(self) -> tuple[_Part, ...]:
        path = self._folder / _LIST
        if not path.exists():
            return ()
        with _corrupt(path):
            noted = json.loads(path.read_bytes())
            if noted["format"] != _FORMAT:
                raise ValueError(f"format {noted['format']}")
            self._next = int(noted["next"])
            dimension = int(noted["dimension"])
            if dimension != self._dimension:
                raise IndexMismatch(
                    "The index holds vectors of another length.",
                    got=f"{dimension}",
                    wanted=f"{self._dimension}",
                    hint="Rebuild it: ragtune index rebuild.",
                )
            return tuple(self._open(row) for row in noted["segments"])

    def _open(self, row: dict[str, Any]) -> _Part:
        segment = Segment(self._folder, row["name"], row["kind"], self._policy)
        dead = np.fromfile(self._folder / f"{segment.name}.dead", dtype="<i8") if row["dead"] else np.zeros(0, np.int64)
        if len(segment) != row["rows"] or len(dead) != row["dead"] or segment.dimension != self._dimension:
            raise ValueError(f"segment {segment.name} is not as noted")
        return _Part(segment).without(dead) if len(dead) else _Part(segment)


def _bury(part: _Part, keys: Keys) -> _Part:
    rows = part.segment.rows_of(keys)
    if part.alive is not None:
        rows = rows[part.alive[rows]]
    return part.without(rows) if len(rows) else part


@contextlib.contextmanager
def _corrupt(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise StorageCorrupt(
            f"The dense index cannot be read: {error}", got=str(path), hint="Rebuild it: ragtune index rebuild."
        ) from error
