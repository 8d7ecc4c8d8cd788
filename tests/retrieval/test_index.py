import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from data.errors import IndexMismatch, InsufficientStorage, StorageCorrupt
from data.protocols import Keys, Vectors
from retrieval.index import FaissIndex
from retrieval.segments import Policy

pytestmark = pytest.mark.slow

DIMENSION = 16
FLAT = Policy()
# The limits are parameters so that small tests have large indexes' segments; the graph is searched so
# widely, and so many lists are visited, that both must find what comparing everything finds.
GRAPH = Policy(flat_max=8, hnsw_max=10**6, hnsw_search=512)
LISTS = Policy(flat_max=8, hnsw_max=8, ivf_probes=10**6)
ALL = Policy(flat_max=30, hnsw_max=90, hnsw_search=512, ivf_probes=10**6)
KINDS = pytest.mark.parametrize(
    ("policy", "kind"), [(FLAT, "flat"), (GRAPH, "hnsw"), (LISTS, "ivf")], ids=["flat", "hnsw", "ivf"]
)


def unit(rows: int, dimension: int = DIMENSION, seed: int = 0) -> Vectors:
    vectors = np.random.default_rng(seed).standard_normal((rows, dimension)).astype(np.float32)
    return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def filled(folder: Path, rows: int, policy: Policy, first: int = 1000) -> FaissIndex:
    index = FaissIndex(folder, DIMENSION, policy)
    index.add(range(first, first + rows), [""] * rows, unit(rows))
    index.save()
    return index


def nearest(vectors: Vectors, query: Vectors, k: int, among: Keys) -> set[int]:
    scores = vectors[among] @ query[0]
    return {int(among[row]) for row in np.argsort(-scores)[:k]}


def found(index: FaissIndex, query: Vectors, k: int, allowed: Keys | None = None) -> set[int]:
    return {hit.key - 1000 for hit in index.search("", query, k, allowed)}


def test_flat_search_is_exact(tmp_path: Path) -> None:
    vectors, query = unit(500), unit(1, seed=1)
    hits = filled(tmp_path, 500, FLAT).search("", query, 10)
    expected = np.argsort(-(vectors @ query[0]))[:10]
    assert [hit.key - 1000 for hit in hits] == list(expected)
    assert hits[0].score == pytest.approx(float(vectors[expected[0]] @ query[0]), abs=1e-6)


@KINDS
def test_each_kind_finds_nearly_what_comparing_everything_finds(tmp_path: Path, policy: Policy, kind: str) -> None:
    vectors, index = unit(2000), filled(tmp_path, 2000, policy)
    assert [row[0] for row in index.kinds()] == [kind]
    shared = [
        len(found(index, query, 10) & nearest(vectors, query, 10, np.arange(2000)))
        for query in (unit(1, seed=seed) for seed in range(1, 21))
    ]
    assert sum(shared) >= 0.95 * 200


@KINDS
@pytest.mark.parametrize("share", [0.002, 0.05, 0.4, 1.0])
def test_a_filter_holds_inside_the_search(tmp_path: Path, policy: Policy, kind: str, share: float) -> None:
    vectors, index = unit(2000), filled(tmp_path, 2000, policy)
    allowed = np.sort(np.random.default_rng(2).choice(2000, int(2000 * share), replace=False))
    shared = wanted = 0
    for seed in range(1, 21):
        query = unit(1, seed=seed)
        got = found(index, query, 10, allowed + 1000)
        assert len(got) == min(10, len(allowed)), kind
        assert got <= set(allowed.tolist())
        exact = nearest(vectors, query, 10, allowed)
        shared, wanted = shared + len(got & exact), wanted + len(exact)
    assert shared >= 0.95 * wanted


@pytest.mark.parametrize("policy", [Policy(flat_max=8, hnsw_max=10**6, hnsw_search=4), Policy(8, 8, ivf_probes=1)])
def test_a_narrow_filter_makes_an_approximate_search_exact(tmp_path: Path, policy: Policy) -> None:
    vectors, index = unit(2000), filled(tmp_path, 2000, policy)
    allowed = np.arange(7, 2000, 200)
    for seed in range(1, 11):
        query = unit(1, seed=seed)
        assert found(index, query, 4, allowed + 1000) == nearest(vectors, query, 4, allowed)


@KINDS
def test_keys_that_are_not_held_allow_nothing(tmp_path: Path, policy: Policy, kind: str) -> None:
    index = filled(tmp_path, 100, policy)
    assert index.search("", unit(1), 5, np.array([1, 999, 1100, 2**40])) == [], kind
    assert index.search("", unit(1), 5, np.zeros(0, dtype=np.int64)) == []


def test_the_kind_is_chosen_again_as_it_grows(tmp_path: Path) -> None:
    index, kinds = FaissIndex(tmp_path, DIMENSION, ALL), []
    for start in range(0, 200, 20):
        index.add(range(start, start + 20), [""] * 20, unit(20, seed=start))
        index.save()
        kinds.append(index.kinds()[0][0])
    assert list(dict.fromkeys(kinds)) == ["flat", "hnsw", "ivf"]
    assert len(index.keys()) == 200


def test_a_large_segment_stays_when_a_little_is_added_and_removed(tmp_path: Path) -> None:
    index = filled(tmp_path, 40_000, Policy(flat_max=1000, hnsw_max=1000))
    large = next(tmp_path.glob("*.faiss"))
    identity = large.stat().st_ino, large.stat().st_mtime_ns
    index.remove(range(1000, 1400))
    index.add(range(90_000, 90_400), [""] * 400, unit(400, seed=5))
    index.save()
    assert index.kinds() == [("ivf", 40_000, 400), ("flat", 400, 0)]
    assert (large.stat().st_ino, large.stat().st_mtime_ns) == identity
    assert not {hit.key for hit in index.search("", unit(40_000)[:1], 50)} & set(range(1000, 1400))
    index.compact()
    assert index.kinds() == [("ivf", 40_000, 0)]


def test_a_segment_of_which_much_was_removed_is_rewritten(tmp_path: Path) -> None:
    index = filled(tmp_path, 400, FLAT)
    index.remove(range(1000, 1050))
    index.save()
    assert index.kinds() == [("flat", 400, 50)]
    index.remove(range(1050, 1150))
    index.save()
    assert index.kinds() == [("flat", 250, 0)]


def test_many_small_additions_make_few_segments(tmp_path: Path) -> None:
    index = filled(tmp_path, 60_000, Policy(flat_max=10**6))
    for start in range(100):
        index.add(range(10**6 + start * 700, 10**6 + (start + 1) * 700), [""] * 700, unit(700, seed=start))
        index.save()
    assert len(index) == 130_000
    assert len(index.kinds()) <= 4


def test_vectors_are_not_kept_in_memory_while_they_wait(tmp_path: Path) -> None:
    index = FaissIndex(tmp_path, DIMENSION)
    for start in range(0, 12_000, 1000):
        index.add(range(start, start + 1000), [""] * 1000, unit(1000, seed=start))
    waiting = tmp_path / "pending"
    assert waiting.stat().st_size >= 8000 * DIMENSION * 4
    index.add([500], [""], unit(1, seed=77))
    index.remove([501])
    index.save()
    assert not waiting.exists()
    assert len(index) == 11_999
    assert index.search("", unit(1, seed=77), 1)[0].key == 500


def test_searches_go_on_while_another_thread_writes(tmp_path: Path) -> None:
    index, stop, wrong = filled(tmp_path, 3000, ALL), threading.Event(), []
    vectors = unit(3000)

    def search() -> None:
        while not stop.is_set():
            for row in (0, 7, 2999):
                hits = index.search("", vectors[row : row + 1], 5)
                if len(hits) != 5 or hits[0].key != 1000 + row:
                    wrong.append(hits)

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(12):
        index.add(range(10_000 + number * 40, 10_040 + number * 40), [""] * 40, unit(40, seed=100 + number))
        index.remove(range(1010 + number * 100, 1100 + number * 100))
        index.save()
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize("shape", [(1, 5), (2, 4), (4,)])
def test_vectors_of_another_shape_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    with pytest.raises(IndexMismatch):
        FaissIndex(tmp_path, 4).add([1], ["a"], np.zeros(shape, dtype=np.float32))


def test_an_index_of_another_dimension_is_refused(tmp_path: Path) -> None:
    filled(tmp_path, 4, FLAT)
    with pytest.raises(IndexMismatch):
        FaissIndex(tmp_path, 8)


@KINDS
@pytest.mark.parametrize("keep", [0, 3, 60])
def test_a_truncated_file_is_corrupt(tmp_path: Path, policy: Policy, kind: str, keep: int) -> None:
    index = filled(tmp_path / kind, 40, policy)
    index.remove([1001])
    index.save()
    for file in sorted((tmp_path / kind).iterdir()):
        content = file.read_bytes()
        file.write_bytes(content[: min(keep, len(content) - 1)])
        with pytest.raises(StorageCorrupt):
            FaissIndex(tmp_path / kind, DIMENSION, policy)
        file.write_bytes(content)
    assert len(FaissIndex(tmp_path / kind, DIMENSION, policy)) == 39


def test_a_missing_file_is_corrupt(tmp_path: Path) -> None:
    filled(tmp_path, 40, FLAT)
    next(tmp_path.glob("*.keys")).unlink()
    with pytest.raises(StorageCorrupt):
        FaissIndex(tmp_path, DIMENSION)


@KINDS
def test_a_file_is_never_changed_once_written(tmp_path: Path, policy: Policy, kind: str) -> None:
    index = filled(tmp_path / kind, 40, policy)
    links = {}
    for file in (tmp_path / kind).iterdir():
        link = tmp_path / file.name
        link.hardlink_to(file)
        links[link] = link.read_bytes()
    index.remove([1001])
    index.add([2], ["b"], unit(1))
    index.save()
    index.compact()
    assert {link: link.read_bytes() for link in links} == links


@KINDS
def test_a_full_disk_is_named(tmp_path: Path, policy: Policy, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    index, plain = FaissIndex(tmp_path / kind, DIMENSION, policy), Path.open

    def full(path: Path, *arguments: Any) -> Any:
        return plain(Path("/dev/full") if path.suffix == ".faiss" else path, *arguments)

    index.add(range(40), [""] * 40, unit(40))
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        with pytest.raises(InsufficientStorage):
            index.save()
    index.save()
    assert len(FaissIndex(tmp_path / kind, DIMENSION, policy)) == 40


def test_vectors_beyond_the_trained_ranges_are_not_cut_off(tmp_path: Path) -> None:
    """What is added later may lie elsewhere than everything that the lists were trained on."""
    narrow = np.zeros((60, DIMENSION), dtype=np.float32)
    narrow[:, 0], narrow[:, 1] = 1.0, np.linspace(0, 0.01, 60)
    index = FaissIndex(tmp_path, DIMENSION, LISTS)
    index.add(range(60), [""] * 60, narrow)
    index.save()
    other = unit(1)
    index.add([99], [""], other)
    best = index.search("", other, 1)[0]
    assert best.key == 99
    assert best.score == pytest.approx(1.0, abs=0.05)


POOL = unit(80, seed=9)
KEY = st.integers(0, 79)
STEPS: st.SearchStrategy[tuple[str, list[int]]] = st.one_of(
    st.tuples(st.just("add"), st.lists(KEY, unique=True, max_size=40)),
    st.tuples(st.just("remove"), st.lists(KEY, unique=True, max_size=40)),
    st.tuples(st.sampled_from(["save", "reopen", "compact"]), st.just([])),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEPS, max_size=10), st.sampled_from([FLAT, GRAPH, LISTS, ALL]), st.lists(KEY, unique=True))
def test_any_sequence_of_changes_equals_a_plain_table(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, list[int]]], policy: Policy, allowed: list[int]
) -> None:
    folder = tmp_path_factory.mktemp("index")
    index = FaissIndex(folder, DIMENSION, policy)
    held: set[int] = set()
    for step, keys in steps:
        if step == "add":
            index.add(keys, [""] * len(keys), POOL[keys])
            held.update(keys)
        elif step == "remove":
            index.remove(keys)
            held.difference_update(keys)
        elif step == "compact":
            index.compact()
        else:
            index.save()
        if step == "reopen":
            index.close()
            index = FaissIndex(folder, DIMENSION, policy)
        assert index.keys().tolist() == sorted(held)
        assert len(index) == len(held)
    narrow = np.array(sorted(allowed), dtype=np.int64)
    for choice, only in ((held, None), (held & set(allowed), narrow)):
        hits = index.search("", POOL[3:4], 80, only)
        assert {hit.key for hit in hits} == choice
        for hit in hits:
            assert hit.score == pytest.approx(float(POOL[hit.key] @ POOL[3]), abs=0.05)


@KINDS
def test_vectors_come_back_by_key(tmp_path: Path, policy: Policy, kind: str) -> None:
    vectors, index = unit(500), filled(tmp_path, 500, policy)
    index.add([5000], [""], unit(1, seed=1))
    index.remove([1003])
    index.save()
    assert kind in {row[0] for row in index.kinds()}
    held = index.vectors([1400, 5000, 7, 1003, 1001])
    wanted = np.stack([vectors[400], unit(1, seed=1)[0], vectors[1]])
    assert (held[[0, 1, 4]] * wanted).sum(axis=1) == pytest.approx(1, abs=0.01)
    assert not held[[2, 3]].any(), "neither unknown nor removed keys have a vector"
    again = FaissIndex(tmp_path, DIMENSION, policy)
    assert again.vectors([1400]) == pytest.approx(held[:1])
