"""What every ``Index`` promises, whatever it searches by."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.protocols import Index, Vectors
from retrieval.index import FaissIndex
from retrieval.lexical import TantivyIndex
from retrieval.milvus import MilvusLegs

TEXTS = {
    3: "Apples are red fruit",
    7: "Pears are green fruit",
    11: "Trains run on rails",
    2**40: "苹果是红色的水果",
}
DIMENSION = len(TEXTS)
Open = Callable[[], Index]


def vectors(*keys: int) -> Vectors:
    order = list(TEXTS)
    return np.eye(DIMENSION, dtype=np.float32)[[order.index(key) for key in keys]]


@pytest.fixture(params=["faiss", "tantivy", pytest.param("milvus", marks=pytest.mark.slow)])
def open_index(request: pytest.FixtureRequest, tmp_path: Path) -> Open:
    folder = tmp_path / "index" / "1"
    if request.param == "milvus":
        legs = MilvusLegs(request.getfixturevalue("milvus"), tmp_path)
        return lambda: legs.open(folder, DIMENSION)
    return (lambda: FaissIndex(folder, DIMENSION)) if request.param == "faiss" else (lambda: TantivyIndex(folder))


@pytest.fixture
def filled(open_index: Open) -> Index:
    index = open_index()
    index.add(list(TEXTS), list(TEXTS.values()), vectors(*TEXTS))
    return index


def found(index: Index, key: int, k: int = 1) -> list[int]:
    return [hit.key for hit in index.search(TEXTS[key], vectors(key), k)]


def test_a_new_index_is_empty(open_index: Open) -> None:
    index = open_index()
    assert len(index) == 0
    assert list(index.keys()) == []
    assert index.search("apples", vectors(3), 5) == []


@pytest.mark.parametrize("key", TEXTS)
def test_each_entry_is_the_best_hit_for_itself(filled: Index, key: int) -> None:
    assert found(filled, key) == [key]


def test_hits_come_best_first_and_at_most_k(filled: Index) -> None:
    hits = filled.search("red apples or green fruit", vectors(3), 2)
    assert len(hits) == 2
    assert hits[0].key == 3
    assert hits[0].score >= hits[1].score


def test_no_hit_is_returned_for_k_zero(filled: Index) -> None:
    assert filled.search("apples", vectors(3), 0) == []


def test_more_hits_than_entries_cannot_be_had(filled: Index) -> None:
    assert len(filled.search("apples pears trains 苹果", vectors(3), 100)) <= len(TEXTS)


def test_a_removed_entry_is_gone_and_absent_keys_are_ignored(filled: Index) -> None:
    filled.remove([3, 99])
    assert list(filled.keys()) == sorted(set(TEXTS) - {3})
    assert len(filled) == len(TEXTS) - 1
    assert 3 not in found(filled, 3, 10)


def test_adding_a_held_key_replaces_its_entry(filled: Index) -> None:
    filled.add([3], ["Ships sail"], vectors(11))
    assert list(filled.keys()) == sorted(set(TEXTS))
    assert len(filled) == len(TEXTS)
    assert 3 in {hit.key for hit in filled.search("ships", vectors(11), 2)}


def test_adding_nothing_changes_nothing(filled: Index) -> None:
    filled.add([], [], np.zeros((0, DIMENSION), dtype=np.float32))
    filled.remove([])
    assert list(filled.keys()) == sorted(set(TEXTS))


def test_what_was_saved_is_there_after_reopening(filled: Index, open_index: Open) -> None:
    filled.remove([7])
    filled.save()
    filled.close()
    again = open_index()
    assert list(again.keys()) == sorted(set(TEXTS) - {7})
    assert found(again, 11) == [11]


def test_a_reopened_index_can_be_changed_further(filled: Index, open_index: Open) -> None:
    filled.save()
    filled.close()
    again = open_index()
    again.remove([3])
    again.add([5], ["Boats float"], vectors(3))
    again.save()
    again.close()
    last = open_index()
    assert list(last.keys()) == sorted(set(TEXTS) - {3} | {5})
    assert [hit.key for hit in last.search("boats", vectors(3), 1)] == [5]


def test_saving_twice_is_harmless(filled: Index) -> None:
    filled.save()
    filled.save()
    assert list(filled.keys()) == sorted(set(TEXTS))


def test_equal_scores_are_ordered_by_key(open_index: Open) -> None:
    index = open_index()
    index.add([9, 4, 6], ["same words"] * 3, np.repeat(vectors(3), 3, axis=0))
    assert [hit.key for hit in index.search("same words", vectors(3), 3)] == [4, 6, 9]


def test_only_allowed_keys_are_found_and_they_fill_the_hits(filled: Index) -> None:
    query, vector = "apples pears trains fruit 苹果 水果", vectors(3)
    everywhere = [hit.key for hit in filled.search(query, vector, 4)]
    assert sorted(everywhere) == sorted(TEXTS)
    allowed = np.array([7, 11, 12, 2**40], dtype=np.int64)
    assert {hit.key for hit in filled.search(query, vector, 4, allowed)} == {7, 11, 2**40}
    assert len(filled.search(query, vector, 2, allowed)) == 2


def test_a_filter_does_not_change_scores(filled: Index) -> None:
    query, vector = "red apples or green fruit", vectors(3)
    free = {hit.key: hit.score for hit in filled.search(query, vector, 4)}
    for hit in filled.search(query, vector, 4, np.array([3, 7], dtype=np.int64)):
        assert hit.score == pytest.approx(free[hit.key], abs=1e-5)


def test_what_is_allowed_but_was_removed_is_not_found(filled: Index) -> None:
    filled.remove([3])
    assert filled.search(TEXTS[3], vectors(3), 4, np.array([3], dtype=np.int64)) == []


def test_nothing_is_found_when_nothing_is_allowed(filled: Index) -> None:
    assert filled.search(TEXTS[3], vectors(3), 4, np.zeros(0, dtype=np.int64)) == []


def test_keys_may_come_as_an_array(filled: Index) -> None:
    filled.add(np.array([5, 6]), ["Boats float", "Rafts float"], vectors(3, 7))
    filled.remove(np.array([6, 7]))
    assert filled.keys().tolist() == sorted(set(TEXTS) - {7} | {5})
