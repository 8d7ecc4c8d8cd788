"""Keys and values of a run of tokens outside of llama.cpp: cut, moved to other positions, put together.

Reads and writes what llama.cpp calls a sequence's state (``llama_kv_cache::state_write`` in
``src/llama-kv-cache.cpp``). A block's keys can be turned to another position, because rotary position
embedding is a rotation: keys of position p, turned by d, are those of position p + d (Su et al., 2021,
RoFormer). Knows nothing of llama.cpp's library, of models, adapters or files.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]

F16 = 1
"""``GGML_TYPE_F16`` in ggml.h: the type of keys that can be turned."""

_HEADER = np.dtype([("magic", "<u4"), ("sequence", "<i4"), ("streams", "<u4")])
_CELL = np.dtype([("position", "<i4"), ("sequences", "<u4"), ("sequence", "<i4")])
_SHAPE = np.dtype([("transposed", "<u4"), ("layers", "<u4")])
_KEY_HEAD = np.dtype([("type", "<i4"), ("row", "<u8")])
_VALUE_HEAD = np.dtype([("type", "<i4"), ("row", "<u8")])
_TRANSPOSED_HEAD = np.dtype([("type", "<i4"), ("element", "<u4"), ("width", "<u4")])
_COUNT = np.dtype("<u4")


class StateMismatch(Exception):
    """A state that is not laid out as expected: another version of llama.cpp, or another kind of memory."""


class Rotation(Protocol):
    """How a model turns its keys, see ``service.engine.llama.Rope``."""

    @property
    def base(self) -> float:
        """Base of the frequencies."""

    @property
    def dimensions(self) -> int:
        """How many numbers of each head are turned."""

    @property
    def neighbours(self) -> bool:
        """Whether a pair is two neighbouring numbers, not one from each half."""


@dataclass(frozen=True, slots=True)
class Block:
    """Keys and values of ``len(block)`` neighbouring tokens.

    Attributes:
        position: of the first token.
        keys: shape (layers, tokens, bytes of a token's keys).
        values: shape (layers, tokens, bytes), or transposed (layers, width, tokens * bytes of an element).
    """

    position: int
    keys: Bytes
    values: Bytes

    def __len__(self) -> int:
        return int(self.keys.shape[1])

    @property
    def size(self) -> int:
        """Bytes of memory."""
        return self.keys.nbytes + self.values.nbytes


class StateLayout:
    """What a context's states look like; made from one of them."""

    def __init__(self, state: Bytes) -> None:
        """Read the layout off a state of at least one token.

        Raises:
            StateMismatch: it is not laid out as expected.
        """
        self._buffer = np.empty(0, np.uint8)
        try:
            self._read_layout(state)
        except (ValueError, IndexError) as error:
            raise StateMismatch(f"a state of {len(state)} bytes ends early") from error
        if self._size(self._count(state)[1]) != len(state):
            raise StateMismatch(
                f"a state of {len(state)} bytes is not the {self._size(self._count(state)[1])} expected"
            )

    def _read_layout(self, state: Bytes) -> None:
        header = state[: _HEADER.itemsize].view(_HEADER)[0]
        self._magic, self._streams = header["magic"], int(header["streams"])
        at, count = self._count(state)
        at += count * _CELL.itemsize
        shape = state[at : at + _SHAPE.itemsize].view(_SHAPE)[0]
        at += _SHAPE.itemsize
        self.transposed, self.layers = bool(shape["transposed"]), int(shape["layers"])
        self._key_head = state[at : at + _KEY_HEAD.itemsize].copy()
        key = self._key_head.view(_KEY_HEAD)[0]
        self.key_type, self._key_row = int(key["type"]), int(key["row"])
        at += self.layers * (_KEY_HEAD.itemsize + count * self._key_row)
        kind = _TRANSPOSED_HEAD if self.transposed else _VALUE_HEAD
        self._value_head = state[at : at + kind.itemsize].copy()
        value = self._value_head.view(kind)[0]
        if self.transposed:
            self._element, self._width = int(value["element"]), int(value["width"])
        else:
            self._element, self._width = int(value["row"]), 1

    def _count(self, state: Bytes) -> tuple[int, int]:
        """Return where the cells of the one stream that has some begin, and how many there are."""
        at = _HEADER.itemsize
        for _ in range(self._streams):
            count = int(state[at : at + 4].view(_COUNT)[0])
            at += 4
            if count:
                return at, count
        raise StateMismatch("a state without tokens")

    def _size(self, count: int) -> int:
        cell = _CELL.itemsize + self.layers * (self._key_row + self._width * self._element)
        heads = self.layers * (len(self._key_head) + len(self._value_head))
        return _HEADER.itemsize + 4 * self._streams + _SHAPE.itemsize + heads + count * cell

    def _arrays(self, state: Bytes, count: int, at: int) -> tuple[Bytes, Bytes, Bytes, Bytes]:
        """Return views of the keys, their headers, the values and their headers of a state of ``count`` tokens."""
        key_head, value_head = len(self._key_head), len(self._value_head)
        keys_size, values_size = count * self._key_row, count * self._width * self._element
        at += count * _CELL.itemsize + _SHAPE.itemsize
        keys = state[at : at + self.layers * (key_head + keys_size)].reshape(self.layers, -1)
        at += keys.size
        values = state[at : at + self.layers * (value_head + values_size)].reshape(self.layers, -1)
        return keys[:, key_head:], keys[:, :key_head], values[:, value_head:], values[:, :value_head]

    def token_bytes(self) -> int:
        """Return how many bytes one token's keys and values take."""
        return self.layers * (self._key_row + self._width * self._element)

    def read(self, state: Bytes) -> Block:
        """Return the keys and values of a state whose tokens stand in order, as views of it.

        Raises:
            StateMismatch: another layout, or positions that are not neighbours.
        """
        at, count = self._count(state)
        if len(state) != self._size(count):
            raise StateMismatch(f"a state of {len(state)} bytes for {count} tokens")
        positions = state[at : at + count * _CELL.itemsize].view(_CELL)["position"]
        if (np.diff(positions) != 1).any():
            raise StateMismatch("the tokens of a state are not in order")
        keys, _, values, _ = self._arrays(state, count, at)
        shape = (self.layers, self._width, -1) if self.transposed else (self.layers, count, -1)
        return Block(int(positions[0]), keys.reshape(self.layers, count, -1), values.reshape(shape))

    def cut(self, block: Block, start: int, end: int) -> Block:
        """Return a copy of the tokens from ``start`` to ``end`` of a block."""
        step = self._element
        values = block.values[:, :, start * step : end * step] if self.transposed else block.values[:, start:end]
        return Block(block.position + start, block.keys[:, start:end].copy(), values.copy())

    def write(self, blocks: Sequence[Block]) -> Bytes:
        """Return the state of a sequence that holds ``blocks`` one after the other, the first at position 0.

        A view that the next call overwrites: fresh memory for each would cost more than filling it.
        """
        count = sum(map(len, blocks))
        size = self._size(count)
        if len(self._buffer) < size:
            self._buffer = np.empty(size, np.uint8)
        state = self._buffer[:size]
        state[: _HEADER.itemsize].view(_HEADER)[0] = (self._magic, 0, self._streams)
        at = _HEADER.itemsize + 4
        state[at - 4 : at].view(_COUNT)[0] = count
        cells = state[at : at + count * _CELL.itemsize].view(_CELL)
        cells["position"], cells["sequences"], cells["sequence"] = np.arange(count), 1, 0
        shape_at = at + count * _CELL.itemsize
        state[shape_at : shape_at + _SHAPE.itemsize].view(_SHAPE)[0] = (self.transposed, self.layers)
        keys, key_heads, values, value_heads = self._arrays(state, count, at)
        key_heads[:], value_heads[:] = self._key_head, self._value_head
        row, step = self._key_row, self._element
        start = 0
        for block in blocks:
            end = start + len(block)
            keys[:, start * row : end * row] = block.keys.reshape(self.layers, -1)
            if self.transposed:
                each = np.lib.stride_tricks.as_strided(
                    values, (self.layers, self._width, count * step), (values.strides[0], count * step, 1)
                )
                each[:, :, start * step : end * step] = block.values
            else:
                values[:, start * step : end * step] = block.values.reshape(self.layers, -1)
            start = end
        state[len(state) - 4 * (self._streams - 1) :] = 0  # the other streams hold nothing
        return state


def turn(block: Block, position: int, rotation: Rotation, heads: int) -> Block:
    """Return ``block`` as it is when its first token stands at ``position``.

    Args:
        block: with keys of 16-bit floats.
        position: of the first token.
        rotation: the model's.
        heads: that keys have.
    """
    distance = position - block.position
    if not distance:
        return block
    n = rotation.dimensions
    # ggml_rope_ext: theta_i = position * base^(-2i/n).
    angles = distance * rotation.base ** (-np.arange(0, n, 2, dtype=np.float64) / n)
    cos, sin = np.cos(angles).astype(np.float32), np.sin(angles).astype(np.float32)
    keys = block.keys.view(np.float16).astype(np.float32)
    layers, tokens, _ = keys.shape
    turned = keys.reshape(layers, tokens, heads, -1)
    if rotation.neighbours:
        pairs = turned[..., :n].view(np.complex64) if n == turned.shape[-1] else None
        if pairs is not None:
            pairs *= cos + np.complex64(1j) * sin
        else:
            _rotate(turned[..., 0:n:2], turned[..., 1:n:2], cos, sin)
    else:
        _rotate(turned[..., : n // 2], turned[..., n // 2 : n], cos, sin)
    return Block(position, keys.astype(np.float16).view(np.uint8), block.values)


def _rotate(
    first: NDArray[np.float32], second: NDArray[np.float32], cos: NDArray[np.float32], sin: NDArray[np.float32]
) -> None:
    kept = first.copy()
    first *= cos
    first -= second * sin
    second *= cos
    second += kept * sin
