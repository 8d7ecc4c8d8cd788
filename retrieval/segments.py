"""One immutable segment of the dense leg: flat, HNSW or IVF, in two files. The importer of faiss.

A segment numbers its rows 0, 1, 2 ... in ascending order of their keys, so a set of allowed keys
becomes a bit per row, whatever the kind. Knows nothing of deletions, of other segments, or of what
the keys mean.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import faiss as untyped
import numpy as np
from numpy.typing import NDArray

from data.errors import StorageCorrupt
from data.protocols import Keys, Vectors
from data.state import map_os_error

faiss: Any = untyped  # Its annotations leave out most of what is used here.

Kind = Literal["flat", "hnsw", "ivf"]
Mask = NDArray[np.bool_]
Rows = NDArray[np.int64]

_BLOCK = 8192
_ITERATIONS = 5
_DEPTH = 4.0
"""By how much more an IVF search visits when it found too little, or when many hits are asked for."""
_REPAIR = "Rebuild it: ragtune index rebuild."
_CUT = 0.02
_SQ8 = faiss.ScalarQuantizer.QT_8bit


@dataclass(frozen=True, slots=True)
class Policy:
    """Which kind of segment for how many rows, and how each is built and searched.

    Defaults are from ``bench/scale.py`` (MiniLM vectors, 384 dimensions, one thread of a 2-core Xeon;
    see bench/RESULTS.md). Flat compares every vector as it is: exact. HNSW and IVF hold 8 bits for
    each component.

    Attributes:
        flat_max: rows of a flat segment, at most.
        hnsw_max: rows of an HNSW segment, at most; larger ones are IVF.
        hnsw_links: neighbours of a node (faiss's M).
        hnsw_build: candidates while building (efConstruction).
        hnsw_search: candidates while searching (efSearch).
        ivf_lists_factor: lists for each square root of the rows.
        ivf_train_rows: training vectors for each list (faiss wants at least 39).
        ivf_probes: lists that a search visits, at least.
        retrain_growth: an IVF segment is trained anew when it has this many times the rows it was trained for.
    """

    flat_max: int = 20_000
    hnsw_max: int = 50_000
    hnsw_links: int = 16
    hnsw_build: int = 40
    hnsw_search: int = 128
    ivf_lists_factor: float = 2.0
    ivf_train_rows: int = 40
    ivf_probes: int = 40
    retrain_growth: float = 4.0

    def kind(self, rows: int) -> Kind:
        """Choose the kind for that many rows."""
        return "flat" if rows <= self.flat_max else "hnsw" if rows <= self.hnsw_max else "ivf"


class Source(Protocol):
    """Rows that a new segment is built from: keys ascending, and their vectors in any order."""

    @property
    def keys(self) -> Keys:
        """Key of each row."""

    def blocks(self) -> Iterator[tuple[Rows, Vectors]]:
        """Yield (row numbers, vectors), each row once."""


class Segment:
    """An opened segment. It never changes, so threads may search it at once without a lock.

    IVF lists are mapped from the file: what searches do not touch takes no memory, and what they do
    touch belongs to the page cache, shared by every process.

    Raises:
        StorageCorrupt: a file is missing, or is no segment of that kind and length.
    """

    def __init__(self, folder: Path, name: str, kind: Kind, policy: Policy) -> None:
        self.name, self.kind, self._policy = name, kind, policy
        self._lock, self._numbered = threading.Lock(), kind != "ivf"
        path = folder / f"{name}.faiss"
        try:
            self.keys: Keys = np.fromfile(folder / f"{name}.keys", dtype="<i8")
            self._index: Any = faiss.read_index(str(path), faiss.IO_FLAG_MMAP if kind == "ivf" else 0)
        except (RuntimeError, OSError) as error:
            detail = str(error).splitlines()[0]
            raise StorageCorrupt(f"The dense index cannot be read: {detail}", got=str(path), hint=_REPAIR) from error
        if self._index.ntotal != len(self.keys) or type(self._index) is not _CLASS[kind]:
            raise StorageCorrupt(
                "The dense index is of another kind or length than noted.", got=str(path), hint=_REPAIR
            )

    @property
    def dimension(self) -> int:
        """Length of one vector."""
        return int(self._index.d)

    @property
    def trained_rows(self) -> int:
        """About how many rows the lists of an IVF segment were trained for; 0 for other kinds."""
        return int((self._index.nlist / self._policy.ivf_lists_factor) ** 2) if self.kind == "ivf" else 0

    def __len__(self) -> int:
        return len(self.keys)

    def rows_of(self, keys: Keys) -> Rows:
        """Return the row of each of the ``keys`` that is held; the others are left out."""
        rows = np.searchsorted(self.keys, keys)
        inside = rows < len(self.keys)
        rows, keys = rows[inside], keys[inside]
        return np.asarray(rows[self.keys[rows] == keys], dtype=np.int64)

    def search(self, vector: Vectors, k: int, among: Among | None) -> tuple[Rows, NDArray[np.float32]]:
        """Return (rows, scores) of the best ``k`` by inner product, among all rows or only those.

        Exactly min(k, rows to choose from) come back: the narrower the choice, the larger the share of
        the segment that is compared, up to all of it.
        """
        choice = len(self) if among is None else among.count
        k = min(k, choice)
        if k < 1:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
        scores, rows = self._search(vector, k, choice / len(self), None if among is None else among.selector)
        found = rows >= 0
        return rows[found], scores[found]

    def _search(self, vector: Vectors, k: int, share: float, selector: Any) -> tuple[Any, Any]:
        searches = {"flat": self._search_all, "hnsw": self._search_graph, "ivf": self._search_lists}
        scores, rows = searches[self.kind](vector, k, share, selector)
        return scores[0], rows[0]

    def _search_all(self, vector: Vectors, k: int, _share: float, selector: Any) -> Any:
        storage = faiss.downcast_index(self._index.storage) if self.kind == "hnsw" else self._index
        return storage.search(vector, k, params=faiss.SearchParameters(sel=selector))

    def _search_graph(self, vector: Vectors, k: int, share: float, selector: Any) -> Any:
        """Walk the graph, wider for a narrower choice; past the point where comparing all is cheaper, do that."""
        width = int(max(self._policy.hnsw_search, 2 * k) / share)
        if width * self._policy.hnsw_links > len(self):
            return self._search_all(vector, k, share, selector)
        found = self._index.search(vector, k, params=faiss.SearchParametersHNSW(efSearch=width, sel=selector))
        return found if (found[1] >= 0).all() else self._search_all(vector, k, share, selector)

    def _search_lists(self, vector: Vectors, k: int, share: float, selector: Any) -> Any:
        """Visit more lists for a narrower choice, so that as many vectors are compared as without one."""
        lists = self._index.nlist
        wanted = max(self._policy.ivf_probes, _DEPTH * k * lists / len(self)) / share
        while True:
            probes = min(lists, int(np.ceil(wanted)))
            found = self._index.search(vector, k, params=faiss.SearchParametersIVF(nprobe=probes, sel=selector))
            if probes == lists or (found[1] >= 0).all():
                return found
            wanted *= _DEPTH

    def vectors(self, rows: Rows) -> Vectors:
        """Return the vectors of ``rows``, decoded from what is kept; shape (len(rows), dimension)."""
        with self._lock:
            if not self._numbered:  # Where in which list a row lies: 8 bytes each, for searches that ask.
                self._index.make_direct_map()
                self._numbered = True
        found: Vectors = self._index.reconstruct_batch(np.ascontiguousarray(rows, dtype=np.int64))
        return found

    def blocks(self) -> Iterator[tuple[Rows, Vectors]]:
        """Yield (row numbers, vectors), each row once, decoded from what is kept."""
        if self.kind == "ivf":
            yield from self._lists()
            return
        for start in range(0, len(self), _BLOCK):
            count = min(_BLOCK, len(self) - start)
            yield np.arange(start, start + count), self._index.reconstruct_n(start, count)

    def _lists(self) -> Iterator[tuple[Rows, Vectors]]:
        lists, width = self._index.invlists, self._index.code_size
        for number in range(self._index.nlist):
            count = lists.list_size(number)
            if count:
                ids, codes = lists.get_ids(number), lists.get_codes(number)
                rows = faiss.rev_swig_ptr(ids, count).copy()
                encoded = faiss.rev_swig_ptr(codes, count * width).reshape(count, width).copy()
                lists.release_ids(number, ids)
                lists.release_codes(number, codes)
                yield rows, self._index.sq.decode(encoded)

    def holds(self, vectors: Vectors) -> bool:
        """Say whether the 8-bit ranges of an IVF segment hold these ``vectors``, nearly.

        A component beyond the range it was trained on is cut off. What is cut off a vector is shorter
        than ``_CUT``, so no inner product with a unit vector is off by more.
        """
        low, width = faiss.vector_to_array(self._index.sq.trained).reshape(2, -1)
        cut = vectors - np.clip(vectors, low, low + width)
        return bool((np.linalg.norm(cut, axis=1) <= _CUT).all())

    def trained(self) -> Any:
        """Return an empty copy of an IVF index: its lists and the ranges of its components."""
        empty = _ivf(self._index.d, self._index.nlist, faiss.clone_index(faiss.downcast_index(self._index.quantizer)))
        empty.sq = self._index.sq
        empty.is_trained = True
        return empty


_CLASS: dict[str, type] = {
    "flat": faiss.IndexFlatIP,
    "hnsw": faiss.IndexHNSWSQ,
    "ivf": faiss.IndexIVFScalarQuantizer,
}


class Among:
    """A choice of a segment's rows, made once and good for many searches."""

    def __init__(self, mask: Mask) -> None:
        self.count = int(np.count_nonzero(mask))
        self.selector = faiss.IDSelectorBitmap(np.packbits(mask, bitorder="little"))


def write_segment(
    folder: Path, name: str, kind: Kind, blocks: Blocks, policy: Policy, *, base: Segment | None = None
) -> None:
    """Build a segment from the rows of ``blocks``, and sync its files to the disk.

    Vectors pass through in blocks: an IVF segment is never held as floats. ``base``, an IVF segment,
    lends its training.

    Raises:
        InsufficientStorage: the disk is full.
    """
    if kind == "ivf":
        index = _train(blocks, policy) if base is None else base.trained()
        for rows, vectors in blocks:
            index.add_with_ids(vectors, rows)
    else:
        vectors = blocks.gather()
        index = _graph(vectors, policy) if kind == "hnsw" else faiss.IndexFlatIP(vectors.shape[1])
        index.add(vectors)
    _write(folder / f"{name}.keys", lambda stream: stream.write(blocks.keys.astype("<i8").tobytes()))
    # Through Python: faiss's own writer only prints a failure to write the last buffer.
    _write(folder / f"{name}.faiss", lambda stream: faiss.write_index(index, faiss.PyCallbackIOWriter(stream.write)))


class Blocks:
    """The rows of several sources, which together have ``keys`` (ascending), numbered as in the new segment."""

    def __init__(self, sources: Sequence[Source], keys: Keys) -> None:
        self._sources, self.keys = sources, keys

    def __len__(self) -> int:
        return len(self.keys)

    def __iter__(self) -> Iterator[tuple[Rows, Vectors]]:
        for source in self._sources:
            keys = source.keys
            for rows, vectors in source.blocks():
                target = np.searchsorted(self.keys, keys[rows])
                yield np.asarray(target, dtype=np.int64), vectors

    def gather(self, chosen: Rows | None = None) -> Vectors:
        """Return the vectors of the ``chosen`` rows (ascending), or of all, in the order of the rows."""
        gathered: Vectors | None = None
        for rows, vectors in self:
            place, kept = rows, vectors
            if chosen is not None:
                place = np.searchsorted(chosen, rows)
                held = (place < len(chosen)) & (chosen[np.minimum(place, len(chosen) - 1)] == rows)
                place, kept = place[held], vectors[held]
            if gathered is None:
                gathered = np.empty((len(self) if chosen is None else len(chosen), vectors.shape[1]), dtype=np.float32)
            gathered[place] = kept
        assert gathered is not None, "a segment of no rows"
        return gathered


def _ivf(dimension: int, lists: int, quantizer: Any) -> Any:
    index = faiss.IndexIVFScalarQuantizer(quantizer, dimension, lists, _SQ8, faiss.METRIC_INNER_PRODUCT, False)
    # The wrapper must own what it was given: neither side keeps the other alive by itself.
    index.own_fields = True
    quantizer.this.disown()
    return index


def _train(blocks: Blocks, policy: Policy) -> Any:
    lists = max(1, int(policy.ivf_lists_factor * len(blocks) ** 0.5))
    wanted = min(len(blocks), max(lists * policy.ivf_train_rows, 1000))
    chosen = np.sort(np.random.default_rng(0).choice(len(blocks), wanted, replace=False))
    sample = blocks.gather(chosen)
    index = _ivf(sample.shape[1], lists, faiss.IndexFlatIP(sample.shape[1]))
    index.cp.niter, index.cp.spherical, index.cp.seed = _ITERATIONS, True, 0
    index.cp.min_points_per_centroid, index.cp.max_points_per_centroid = 1, policy.ivf_train_rows
    index.train(sample)
    return index


def _graph(vectors: Vectors, policy: Policy) -> Any:
    index = faiss.IndexHNSWSQ(vectors.shape[1], _SQ8, policy.hnsw_links, faiss.METRIC_INNER_PRODUCT)
    index.hnsw.efConstruction = policy.hnsw_build
    index.train(vectors)
    return index


def _write(path: Path, write: Callable[[BinaryIO], object]) -> None:
    try:
        path.unlink(missing_ok=True)  # Never into a file that another generation may share.
        with path.open("wb") as stream:
            write(stream)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        path.unlink(missing_ok=True)
        raise map_os_error(error, path) from error
