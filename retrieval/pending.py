"""Vectors on their way into a segment: in memory while they are few, in a file when they are many.

Knows nothing of what is built from them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data.protocols import Keys, Vectors
from data.state import map_os_error
from retrieval.segments import Mask, Rows

_IN_MEMORY = 4096
_FILE = "pending"


class Pending:
    """Keys with vectors of ``dimension`` components, added in blocks and read once.

    Beyond some thousand, vectors are appended to a file in ``folder``, so a build holds keys in memory
    and no vectors. The file is scratch: it is cut at the first use and removed by ``clear``.
    """

    def __init__(self, folder: Path, dimension: int) -> None:
        self._path, self._dimension = folder / _FILE, dimension
        self._file: BinaryIO | None = None
        self._keys: list[Keys] = []
        self._alive: list[Mask] = []
        self._blocks: list[Vectors] = []
        self._held, self._last = 0, -1

    def add(self, keys: Keys, vectors: Vectors) -> None:
        """Take keys that are not pending, with their vectors.

        Raises:
            InsufficientStorage: the disk is full.
        """
        if not len(keys):
            return
        self._keys.append(keys)
        self._alive.append(np.ones(len(keys), dtype=np.bool_))
        self._last = max(self._last, int(keys.max()))
        self._blocks.append(np.array(vectors, dtype="<f4"))
        self._held += len(keys)
        if self._held > _IN_MEMORY:
            self._spill()

    def remove(self, keys: Keys) -> None:
        """Drop the pending ones among ``keys`` (ascending)."""
        if not len(keys) or not self._keys or keys[0] > self._last:
            return
        self._alive = [alive & ~np.isin(own, keys) for own, alive in zip(self._keys, self._alive, strict=True)]

    @property
    def keys(self) -> Keys:
        """The pending keys, in the order they came."""
        return self._all[self._mask] if self._keys else np.zeros(0, dtype=np.int64)

    def blocks(self) -> Iterator[tuple[Rows, Vectors]]:
        """Yield (positions in ``keys``, vectors)."""
        start = 0
        for (count, vectors), alive in zip(self._vectors(), self._alive, strict=True):
            kept = int(np.count_nonzero(alive))
            if kept:
                yield np.arange(start, start + kept, dtype=np.int64), vectors[alive] if kept < count else vectors
            start += kept

    def clear(self) -> None:
        """Forget everything, and remove the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
            with contextlib.suppress(FileNotFoundError):
                self._path.unlink()
        self._keys, self._alive, self._blocks = [], [], []
        self._held, self._last = 0, -1

    def __len__(self) -> int:
        return sum(int(np.count_nonzero(alive)) for alive in self._alive)

    @property
    def _all(self) -> Keys:
        return np.concatenate(self._keys)

    @property
    def _mask(self) -> Mask:
        return np.concatenate(self._alive)

    def _vectors(self) -> Iterator[tuple[int, Vectors]]:
        """Yield (rows, vectors) block by block as they came: first from the file, then from memory."""
        spilled = len(self._keys) - len(self._blocks)
        if self._file is not None:
            self._file.flush()
            with self._path.open("rb") as stream:
                for keys in self._keys[:spilled]:
                    block = np.fromfile(stream, dtype="<f4", count=len(keys) * self._dimension)
                    yield len(keys), block.reshape(len(keys), self._dimension)
        yield from ((len(block), block) for block in self._blocks)

    def _spill(self) -> None:
        try:
            if self._file is None:
                self._file = self._path.open("wb")
            for block in self._blocks:
                self._file.write(block.tobytes())
        except OSError as error:
            raise map_os_error(error, self._path) from error
        self._blocks, self._held = [], 0
