"""Keeps blocks of keys and values: in memory, and on disk what is worth it, each bounded, least recently used out.

A block is kept under the hash of what it depends on: the model, the adapters, the tokens it was computed from
(and those before them), the type of the numbers. So nothing has to be invalidated: what changed has another
key, and the old blocks are pushed out. Everything here can be computed again: a file that is damaged or
cannot be written is a miss, never an error.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import zlib
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from service.engine.kv import Block

_MAGIC = b"RTKV1\n"
_SUFFIX = ".kv"


@dataclass(slots=True)
class StoreStatistics:
    """Counts since the start: blocks looked up and found (in memory, on disk), files damaged, bytes held."""

    lookups: int = 0
    memory_hits: int = 0
    disk_hits: int = 0
    damaged: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0


@dataclass(slots=True)
class _Disk:
    """A folder of files, and their sizes in the order of their last use."""

    folder: Path
    limit: int
    sizes: OrderedDict[str, int] = field(default_factory=OrderedDict)


class KVStore:
    """Blocks by key.

    Args:
        memory_limit: bytes of blocks in memory.
        folder: where blocks go as files; None keeps none.
        disk_limit: bytes of files.
    """

    def __init__(self, memory_limit: int, folder: Path | None = None, disk_limit: int = 0) -> None:
        self._limit = memory_limit
        self._blocks: OrderedDict[str, Block] = OrderedDict()
        self._disk = _open(folder, disk_limit) if folder is not None and disk_limit > 0 else None
        self.statistics = StoreStatistics()
        if self._disk is not None:
            self.statistics.disk_bytes = sum(self._disk.sizes.values())
            self._shrink_disk(self._disk)

    def get(self, key: str) -> Block | None:
        """Return the block of ``key``, None if it is not there."""
        self.statistics.lookups += 1
        block = self._blocks.get(key)
        if block is not None:
            self._blocks.move_to_end(key)
            self.statistics.memory_hits += 1
            return block
        block = self._read(key)
        if block is not None:
            self.statistics.disk_hits += 1
            self._remember(key, block)
        return block

    def put(self, key: str, block: Block, *, durable: bool = False) -> None:
        """Keep a block; ``durable`` writes it to disk too."""
        self._remember(key, block)
        if durable and self._disk is not None and key not in self._disk.sizes:
            self._write(self._disk, key, block)

    def __contains__(self, key: str) -> bool:
        return key in self._blocks or (self._disk is not None and key in self._disk.sizes)

    def _remember(self, key: str, block: Block) -> None:
        if block.size > self._limit:
            return
        replaced = self._blocks.pop(key, None)
        self.statistics.memory_bytes += block.size - (replaced.size if replaced else 0)
        self._blocks[key] = block
        while self.statistics.memory_bytes > self._limit:
            _, oldest = self._blocks.popitem(last=False)
            self.statistics.memory_bytes -= oldest.size

    def _read(self, key: str) -> Block | None:
        if self._disk is None or key not in self._disk.sizes:
            return None
        try:
            block = _decode((self._disk.folder / (key + _SUFFIX)).read_bytes())
        except OSError:
            block = None
        if block is None:
            self.statistics.damaged += 1
            self._drop(self._disk, key)
            return None
        self._disk.sizes.move_to_end(key)
        with contextlib.suppress(OSError):  # only the order after a restart hangs on it
            os.utime(self._disk.folder / (key + _SUFFIX))
        return block

    def _write(self, disk: _Disk, key: str, block: Block) -> None:
        data = _encode(block)
        if len(data) > disk.limit:
            return
        path = disk.folder / (key + _SUFFIX)
        temporary = path.with_suffix(".tmp")
        try:
            temporary.write_bytes(data)
            temporary.replace(path)
        except OSError:  # a full disk costs speed, not answers
            temporary.unlink(missing_ok=True)
            return
        disk.sizes[key] = len(data)
        self.statistics.disk_bytes += len(data)
        self._shrink_disk(disk)

    def _shrink_disk(self, disk: _Disk) -> None:
        while self.statistics.disk_bytes > disk.limit:
            self._drop(disk, next(iter(disk.sizes)))

    def _drop(self, disk: _Disk, key: str) -> None:
        self.statistics.disk_bytes -= disk.sizes.pop(key)
        with contextlib.suppress(OSError):  # another process of the same state was quicker
            (disk.folder / (key + _SUFFIX)).unlink()


def block_key(*parts: str | bytes | Sequence[int]) -> str:
    """Return the key of a block that depends on ``parts`` and nothing else."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        data = raw if isinstance(raw, bytes) else np.asarray(raw, np.int32).tobytes()
        digest.update(len(data).to_bytes(8))
        digest.update(data)
    return digest.hexdigest()


def prefix_keys(seed: str, tokens: Sequence[int], ends: Sequence[int]) -> Iterator[str]:
    """Yield the key of each stretch of ``tokens`` that ends at one of ``ends``: it hangs on all tokens before it too.

    A trie of tokens whose edges are stretches: a key names its parent by hashing it in.
    """
    start, parent = 0, seed
    for end in ends:
        parent = block_key(parent, tokens[start:end])
        yield parent
        start = end


def _open(folder: Path, limit: int) -> _Disk | None:
    found: list[tuple[float, str, int]] = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.iterdir():
            if path.suffix == _SUFFIX:
                status = path.stat()
                found.append((status.st_mtime, path.stem, status.st_size))
            else:  # left by a process that was stopped while it wrote
                path.unlink(missing_ok=True)
    except OSError:
        return None
    return _Disk(folder, limit, OrderedDict((name, size) for _, name, size in sorted(found)))


def _encode(block: Block) -> bytes:
    shape = np.array([block.position, *block.keys.shape, *block.values.shape], "<i8").tobytes()
    body = shape + block.keys.tobytes() + block.values.tobytes()
    return _MAGIC + zlib.crc32(body).to_bytes(4) + body


def _decode(data: bytes) -> Block | None:
    head, start = len(_MAGIC) + 4, len(_MAGIC) + 4 + 7 * 8
    if data[: len(_MAGIC)] != _MAGIC or len(data) < start or zlib.crc32(data[head:]) != int.from_bytes(data[6:head]):
        return None
    position, *shape = (int(number) for number in np.frombuffer(data, "<i8", 7, head))
    keys, values = shape[0] * shape[1] * shape[2], shape[3] * shape[4] * shape[5]
    if len(data) != start + keys + values:
        return None
    raw = np.frombuffer(data, np.uint8, offset=start)
    return Block(position, raw[:keys].reshape(shape[:3]), raw[keys:].reshape(shape[3:]))
