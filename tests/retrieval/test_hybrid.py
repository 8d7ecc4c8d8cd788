import threading
from collections.abc import Sequence

import numpy as np
import pytest

from data.errors import StorageCorrupt
from data.protocols import Hit, Keys, Vectors
from retrieval.hybrid import Found, mix, search_legs, understands

VECTOR: Vectors = np.array([[1, 0]], dtype=np.float32)


class Fixed:
    """A leg whose scores are given."""

    def __init__(self, scores: dict[int, float], first: int = 100) -> None:
        self._scores, self._first = scores, first

    def add(self, keys: Sequence[int] | Keys, texts: Sequence[str], vectors: Vectors) -> None:
        raise AssertionError

    def remove(self, keys: Sequence[int] | Keys) -> None:
        raise AssertionError

    def search(self, query: str, vector: Vectors, k: int, allowed: Keys | None = None) -> list[Hit]:
        among = self._scores if allowed is None else set(allowed.tolist())
        hits = sorted((Hit(key, score) for key, score in self._scores.items() if key in among), key=lambda h: -h.score)
        return hits[: self._first] if allowed is None else hits

    def keys(self) -> Keys:
        return np.array(sorted(self._scores), dtype=np.int64)

    def save(self) -> None:
        raise AssertionError

    def close(self) -> None:
        raise AssertionError

    def __len__(self) -> int:
        return len(self._scores)


class English:
    def unknown_share(self, text: str) -> float:
        return sum(not letter.isascii() for letter in text) / len(text)


def test_a_candidate_gets_its_true_score_in_the_leg_that_did_not_find_it() -> None:
    lexical = Fixed({1: 10.0, 2: 9.0, 3: 8.0}, first=1)
    dense = Fixed({2: 0.9, 3: 0.5, 1: 0.1})
    found = search_legs({"dense": dense, "lexical": lexical}, "q", VECTOR, "hybrid", 3)
    assert [hit.key for hit in found] == [2, 3, 1]
    assert {hit.key: hit.origin for hit in found} == {1: "dense+lexical", 2: "dense", 3: "dense"}


class Meeting(Fixed):
    """A leg whose first search ends only once the other leg is searched too."""

    def __init__(self, scores: dict[int, float], barrier: threading.Barrier) -> None:
        super().__init__(scores)
        self._barriers = [barrier]

    def search(self, query: str, vector: Vectors, k: int, allowed: Keys | None = None) -> list[Hit]:
        if self._barriers:
            self._barriers.pop().wait(timeout=30)
        return super().search(query, vector, k, allowed)


def test_both_legs_are_searched_at_once() -> None:
    barrier = threading.Barrier(2)
    legs = {"dense": Meeting({1: 0.9, 2: 0.5}, barrier), "lexical": Meeting({2: 5.0, 3: 4.0}, barrier)}
    found = search_legs(legs, "q", VECTOR, "hybrid", 3)
    assert {hit.key: hit.origin for hit in found} == {1: "dense", 2: "dense+lexical", 3: "lexical"}


def test_what_a_leg_fails_with_is_raised() -> None:
    class Damaged(Fixed):
        def search(self, query: str, vector: Vectors, k: int, allowed: Keys | None = None) -> list[Hit]:
            raise StorageCorrupt("The dense index cannot be read.")

    with pytest.raises(StorageCorrupt):
        search_legs({"dense": Damaged({}), "lexical": Fixed({1: 1.0})}, "q", VECTOR, "hybrid", 3)


def test_candidates_are_scored_by_their_vectors() -> None:
    legs = {"dense": Fixed({1: 0.9, 2: 0.8}, first=1), "lexical": Fixed({1: 5.0, 2: 5.0})}
    vectors = {1: [0.9, 0.43], 2: [0.8, -0.6]}

    def vectors_of(keys: Sequence[int]) -> Vectors:
        return np.array([vectors[key] for key in keys], dtype=np.float32)

    found = search_legs(legs, "q", VECTOR, "hybrid", 2, vectors_of=vectors_of)
    assert [hit.key for hit in found] == [1, 2]
    assert found[0].score > found[1].score


def test_what_the_embedder_does_not_know_is_ranked_by_words() -> None:
    legs = {"dense": Fixed({1: 0.9, 2: 0.1, 4: 0.8}), "lexical": Fixed({2: 5.0, 3: 4.0, 1: 1.0})}
    found = search_legs(legs, "备份", VECTOR, "hybrid", 3, understood=understands(English(), "备份"))
    assert [hit.key for hit in found] == [2, 3, 1, 4]
    assert understands(English(), "backup")
    assert understands(object(), "备份")


def test_a_context_counts_by_its_share() -> None:
    alone = [Found(1, 1.0, "dense"), Found(2, 0.9, "dense")]
    together = [Found(3, 2.0, "lexical"), Found(2, 1.8, "lexical")]
    assert [hit.key for hit in mix(alone, together, 0.4)] == [2, 1, 3]
    assert [hit.key for hit in mix(alone, together, 0.0)][:2] == [1, 2]
    assert mix([], [], 0.4) == []
