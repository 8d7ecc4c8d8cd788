"""Blocks of keys and values: read from a state, cut, put together, turned, kept, lost."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from service.engine.kv import Block, StateLayout, StateMismatch, turn
from service.engine.kvstore import KVStore, block_key, prefix_keys

LAYERS, ROW, WIDTH, STREAMS = 3, 16, 8, 4


def state(tokens: int, *, transposed: bool, stream: int = 2, first: int = 0) -> np.ndarray:
    """Write what llama_kv_cache::state_write would, field by field."""
    random = np.random.default_rng(tokens)
    parts = [np.array([0xABCD], "<u4"), np.array([stream], "<i4"), np.array([STREAMS], "<u4")]
    for number in range(STREAMS):
        parts.append(np.array([tokens if number == stream else 0], "<u4"))
        if number != stream:
            continue
        for position in range(first, first + tokens):
            parts += [np.array([position], "<i4"), np.array([1], "<u4"), np.array([stream], "<i4")]
        parts.append(np.array([transposed, LAYERS], "<u4"))
        for _ in range(LAYERS):
            keys = random.standard_normal(tokens * ROW // 2).astype("<f2")
            parts += [np.array([1], "<i4"), np.array([ROW], "<u8"), keys]
        for _ in range(LAYERS):
            head = np.array([2, WIDTH], "<u4") if transposed else np.array([WIDTH * 2], "<u8")
            parts += [np.array([1], "<i4"), head, random.standard_normal(tokens * WIDTH).astype("<f2")]
    return np.concatenate([part.view(np.uint8) for part in parts])


@pytest.mark.parametrize("transposed", [False, True])
def test_what_is_read_cut_and_written_again_is_the_same(transposed: bool) -> None:
    whole = state(7, transposed=transposed)
    layout = StateLayout(whole)
    block = layout.read(whole)
    assert (len(block), block.position) == (7, 0)
    assert layout.token_bytes() * 7 == block.size
    parts = [layout.cut(block, 0, 2), layout.cut(block, 2, 3), layout.cut(block, 3, 7)]
    assert [part.position for part in parts] == [0, 2, 3]
    again = layout.read(layout.write(parts))
    assert (again.keys == block.keys).all()
    assert (again.values == block.values).all()


@pytest.mark.parametrize("cut", [-1, 40, 100])
def test_a_state_of_another_shape_is_refused(cut: int) -> None:
    whole = state(5, transposed=False)
    with pytest.raises(StateMismatch):
        StateLayout(whole[:cut])
    with pytest.raises(StateMismatch):
        StateLayout(whole).read(np.concatenate([whole, whole[:4]]))


def test_an_empty_state_is_refused() -> None:
    with pytest.raises(StateMismatch, match="without tokens"):
        StateLayout(state(0, transposed=False))


@pytest.mark.parametrize("neighbours", [False, True])
@pytest.mark.parametrize("dimensions", [8, 6])
def test_keys_turn_as_rotary_embedding_does(neighbours: bool, dimensions: int) -> None:
    rotation = SimpleNamespace(base=100.0, dimensions=dimensions, neighbours=neighbours)
    raw = np.random.default_rng(0).standard_normal((2, 3, 2, 8))

    def at(position: int) -> np.ndarray:
        """Rotate each pair by position * base^(-2i/n), one number at a time."""
        out = raw.copy()
        for i in range(dimensions // 2):
            a, b = (2 * i, 2 * i + 1) if neighbours else (i, i + dimensions // 2)
            for token in range(3):
                angle = (position + token) * 100.0 ** (-2 * i / dimensions)
                x, y = raw[:, token, :, a], raw[:, token, :, b]
                out[:, token, :, a] = x * np.cos(angle) - y * np.sin(angle)
                out[:, token, :, b] = x * np.sin(angle) + y * np.cos(angle)
        return out

    keys = at(2).astype(np.float16).reshape(2, 3, -1).view(np.uint8)
    turned = turn(Block(2, keys, keys), 19, rotation, heads=2)
    assert turned.position == 19
    assert turned.keys.view(np.float16) == pytest.approx(at(19).reshape(2, 3, -1), abs=5e-3)
    assert (turn(turned, 19, rotation, heads=2).keys == turned.keys).all()


def block(seed: int, tokens: int = 4) -> Block:
    random = np.random.default_rng(seed)
    return Block(0, *(random.integers(0, 255, (2, tokens, 16), np.uint8) for _ in range(2)))


def equal(left: Block | None, right: Block) -> bool:
    return left is not None and bool((left.keys == right.keys).all() and (left.values == right.values).all())


def test_memory_keeps_what_was_used_last() -> None:
    store = KVStore(3 * block(0).size)
    for name in "abc":
        store.put(name, block(ord(name)))
    assert equal(store.get("a"), block(ord("a")))
    store.put("d", block(ord("d")))
    assert [name for name in "abcd" if store.get(name) is None] == ["b"]
    store.put("huge", block(1, tokens=100))
    assert store.get("huge") is None
    assert store.statistics.memory_bytes <= 3 * block(0).size


def test_files_survive_a_restart_within_their_limit(tmp_path: Path) -> None:
    store = KVStore(10**6, tmp_path, 4 * 350)
    for name in "abcdef":
        store.put(name, block(ord(name)), durable=True)
    store.put("light", block(0))
    again = KVStore(10**6, tmp_path, 4 * 350)
    found = [name for name in "abcdef" if equal(again.get(name), block(ord(name)))]
    assert found == list("abcdef")[-len(found) :]
    assert len(found) == 4  # a file is 256 bytes of numbers and a header
    assert again.get("light") is None
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 4 * 350
    assert again.statistics.disk_hits == len(found)


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "gone", "other"])
def test_a_damaged_file_is_a_miss_and_is_written_again(tmp_path: Path, damage: str) -> None:
    KVStore(10**6, tmp_path, 10**6).put("a", block(1), durable=True)
    store = KVStore(10**6, tmp_path, 10**6)
    (path,) = tmp_path.iterdir()
    raw = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        flipped = raw[:-3] + bytes([raw[-3] ^ 1]) + raw[-2:]
        path.write_bytes({"cut": raw[:-1], "flip": flipped, "empty": b"", "other": b"x" * len(raw)}[damage])
    assert store.get("a") is None
    store.put("a", block(1), durable=True)
    assert equal(KVStore(0, tmp_path, 10**6).get("a"), block(1))
    assert store.statistics.damaged == 1


def test_a_folder_that_cannot_be_used_costs_the_files_only(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    store = KVStore(10**6, tmp_path / "file", 10**6)
    store.put("a", block(1), durable=True)
    assert equal(store.get("a"), block(1))


def test_a_stopped_write_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "a.tmp").write_bytes(b"half")
    KVStore(10**6, tmp_path, 10**6)
    assert not list(tmp_path.iterdir())


def test_keys_depend_on_everything_before() -> None:
    tokens, ends = list(range(10)), (4, 7, 10)
    keys = list(prefix_keys("seed", tokens, ends))
    assert len(set(keys)) == 3
    assert keys[:2] == list(prefix_keys("seed", tokens[:7], ends[:2]))
    changed = [99, *tokens[1:]]
    assert not set(keys) & set(prefix_keys("seed", changed, ends))
    assert not set(keys) & set(prefix_keys("other", tokens, ends))
    assert block_key("ab", "c") != block_key("a", "bc")
