import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.fuse import found_by, reciprocal_rank_fusion

RANKING = st.lists(st.integers(0, 30), unique=True, max_size=15)


def test_scores_are_sums_of_reciprocal_ranks() -> None:
    fused = dict(reciprocal_rank_fusion([["a", "b"], ["b", "c"]], k=60))
    assert fused == pytest.approx({"b": 1 / 62 + 1 / 61, "a": 1 / 61, "c": 1 / 62})


def test_what_both_found_comes_first() -> None:
    assert [key for key, _ in reciprocal_rank_fusion([["a", "b"], ["c", "b"]])] == ["b", "a", "c"]


def test_nothing_fuses_to_nothing() -> None:
    assert reciprocal_rank_fusion([]) == []
    assert reciprocal_rank_fusion([[], []]) == []


@given(st.lists(RANKING, max_size=4))
def test_every_key_comes_once_and_best_first(rankings: list[list[int]]) -> None:
    fused = reciprocal_rank_fusion(rankings)
    assert sorted(key for key, _ in fused) == sorted({key for ranking in rankings for key in ranking})
    assert [score for _, score in fused] == sorted((score for _, score in fused), reverse=True)


@given(RANKING)
def test_one_ranking_keeps_its_order(ranking: list[int]) -> None:
    assert [key for key, _ in reciprocal_rank_fusion([ranking])] == ranking


def test_the_finders_are_named() -> None:
    rankings = {"dense": ["a", "b"], "lexical": ["b"]}
    assert found_by(rankings, "a") == "dense"
    assert found_by(rankings, "b") == "dense+lexical"
