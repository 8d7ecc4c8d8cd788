"""The dense leg of an index generation: exact inner products in a FAISS index.

The importer of faiss. Knows nothing of text, generations or the store: vectors come with the integer
keys to return.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from data.errors import IndexMismatch, StorageCorrupt
from data.protocols import Hit, Vectors
from data.state import map_os_error

_FILE = "vectors.faiss"


class FaissIndex:
    """A flat inner-product ``Index`` in ``folder``, read from there if it was saved before.

    Exact search: every vector is compared, which is right to about 200,000 of them.

    Raises:
        StorageCorrupt: the file cannot be read.
        IndexMismatch: the saved vectors have another length than ``dimension``.
    """

    def __init__(self, folder: Path, dimension: int) -> None:
        self._path = folder / _FILE
        self._dimension = dimension
        self._lock = threading.RLock()
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise map_os_error(error, folder) from error
        self._index = self._read() if self._path.exists() else faiss.IndexIDMap2(faiss.IndexFlatIP(dimension))
        if self._index.d != dimension:
            raise IndexMismatch(
                "The index holds vectors of another length.",
                got=f"{self._index.d}",
                wanted=f"{dimension}",
                hint="Rebuild it: ragtune index rebuild.",
            )
        self._keys = {int(key) for key in faiss.vector_to_array(self._index.id_map)}

    def add(self, keys: Sequence[int], texts: Sequence[str], vectors: Vectors) -> None:  # noqa: ARG002
        """Add vectors of shape (len(keys), dimension), replacing those with the same keys."""
        if vectors.shape != (len(keys), self._dimension):
            raise IndexMismatch(
                "The vectors do not fit the index.",
                got=f"shape {vectors.shape}",
                wanted=f"shape ({len(keys)}, {self._dimension})",
            )
        if not keys:
            return
        with self._lock:
            self.remove(keys)
            self._index.add_with_ids(np.ascontiguousarray(vectors, dtype=np.float32), np.asarray(keys, dtype=np.int64))
            self._keys.update(keys)

    def remove(self, keys: Sequence[int]) -> None:
        """Remove entries; absent keys are ignored."""
        with self._lock:
            held = self._keys.intersection(keys)
            if held:
                self._index.remove_ids(faiss.IDSelectorBatch(np.fromiter(held, dtype=np.int64)))
                self._keys -= held

    def search(self, query: str, vector: Vectors, k: int) -> list[Hit]:  # noqa: ARG002
        """Return the ``k`` nearest by inner product, best first; ties by key."""
        with self._lock:
            k = min(k, len(self._keys))
            if k < 1:
                return []
            scores, keys = self._index.search(np.ascontiguousarray(vector, dtype=np.float32), k)
        hits = [Hit(int(key), float(score)) for score, key in zip(scores[0], keys[0], strict=True) if key >= 0]
        return sorted(hits, key=lambda hit: (-hit.score, hit.key))

    def keys(self) -> set[int]:
        """Return every key held."""
        return set(self._keys)

    def save(self) -> None:
        """Write the index beside its file, sync it and rename it into place."""
        temporary = self._path.with_suffix(".tmp")
        try:
            with self._lock, temporary.open("wb") as stream:
                stream.write(faiss.serialize_index(self._index).tobytes())
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(self._path)
        except OSError as error:
            raise map_os_error(error, self._path) from error

    def close(self) -> None:
        """Drop the vectors; unsaved changes are lost."""
        with self._lock:
            self._index.reset()
            self._keys.clear()

    def __len__(self) -> int:
        return len(self._keys)

    def _read(self) -> Any:
        try:
            index = faiss.read_index(str(self._path))
        except RuntimeError as error:
            raise StorageCorrupt(
                f"The dense index cannot be read: {str(error).splitlines()[0]}",
                got=str(self._path),
                hint="Rebuild it: ragtune index rebuild.",
            ) from error
        if not isinstance(index, faiss.IndexIDMap2):
            raise StorageCorrupt("The dense index is of an unknown kind.", got=type(index).__name__)
        return index
