import numpy as np
import pytest

from data.protocols import Hit
from retrieval.fuse import fuse, support

EVEN = {"dense": 0.5, "lexical": 0.5}


def test_scores_are_weighted_means_of_the_shares_of_the_best() -> None:
    legs = {"dense": [Hit(1, 0.8), Hit(2, 0.4)], "lexical": [Hit(2, 20.0), Hit(1, 5.0)]}
    assert dict(fuse(legs, EVEN)) == {1: pytest.approx(0.625), 2: pytest.approx(0.75)}
    assert [key for key, _ in fuse(legs, {"dense": 0.9, "lexical": 0.1})] == [1, 2]


def test_what_a_search_did_not_find_scores_as_its_last_hit() -> None:
    legs = {"dense": [Hit(1, 1.0), Hit(2, 0.5)], "lexical": [Hit(3, 2.0), Hit(1, 1.0)]}
    assert dict(fuse(legs, EVEN)) == {1: 0.75, 2: 0.5, 3: 0.75}


def test_a_search_without_hits_changes_nothing() -> None:
    hits = [Hit(1, 0.9), Hit(2, 0.3)]
    assert fuse({"dense": hits, "lexical": []}, EVEN) == [(1, pytest.approx(1.0)), (2, pytest.approx(1 / 3))]
    assert fuse({"dense": [], "lexical": []}, EVEN) == []


def test_negative_cosines_do_not_turn_the_order_around() -> None:
    legs = {"dense": [Hit(1, -0.1), Hit(2, -0.9)], "lexical": [Hit(2, 2.0), Hit(1, 1.0)]}
    assert [key for key, _ in fuse(legs, EVEN)] == [2, 1]


def test_ties_keep_the_order_of_first_appearance() -> None:
    assert [key for key, _ in fuse({"dense": [Hit(5, 1.0)], "lexical": [Hit(4, 7.0)]}, EVEN)] == [5, 4]


def test_alike_passages_support_each_other() -> None:
    near = np.array([[1, 0, 0], [0.96, 0.28, 0], [0, 0, 1]], dtype=np.float32)
    mixed = support([0.9, 0.4, 0.5], near)
    assert mixed[1] == pytest.approx(0.7 * 0.4 + 0.3 * 0.9)
    assert mixed[2] == pytest.approx(0.5)
    assert mixed[1] > mixed[2]


def test_an_unknown_vector_keeps_its_score() -> None:
    vectors = np.array([[1, 0], [0, 0], [0.6, 0.8]], dtype=np.float32)
    assert support([0.9, 0.5, 0.3], vectors)[1] == pytest.approx(0.5)


@pytest.mark.parametrize("scores", [[], [0.5]])
def test_a_lone_passage_has_no_neighbours(scores: list[float]) -> None:
    assert support(scores, np.ones((len(scores), 2), dtype=np.float32)).tolist() == scores
