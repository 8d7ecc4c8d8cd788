"""A question with one detail changed looks like the real one, and no passage holds what was put in."""

from __future__ import annotations

from random import Random

import pytest

from retrieval.altered import altered_question

PASSAGE = "Fresno was founded in 1872 by the Central Pacific Railroad. In March it was the largest station of 40."


def all_of(question: str, names: tuple[str, ...] = (), passage: str = PASSAGE) -> set[str | None]:
    return {altered_question(question, [passage], names, Random(seed)) for seed in range(40)}


def test_a_year_stays_in_its_century_and_is_not_one_of_the_passages() -> None:
    made = all_of("What was founded in 1872?")
    assert None not in made
    assert len(made) > 5
    for question in made:
        assert question is not None
        assert question.startswith("What was founded in 18")
        assert "1872" not in question


def test_a_name_gives_way_to_one_of_as_many_words_that_no_passage_holds() -> None:
    names = ("Southern Union Company", "Santa Fe", "Central Pacific Railroad")
    assert all_of("What did the Central Pacific Railroad found?", names) == {
        "What did the Southern Union Company found?"
    }


def test_a_month_gives_way_to_a_month() -> None:
    for question in all_of("What was it in March?", ("Santa", "Fe")):
        assert question is not None
        assert question.split()[-1] in {"January?", "February?", "April?", "May?", "June?", "July?", "August?"} | {
            "September?",
            "October?",
            "November?",
            "December?",
        }


@pytest.mark.parametrize(
    ("question", "passage", "wanted"),
    [
        ("Which was the largest station?", PASSAGE, "Which was the smallest station?"),
        ("哪个车站最大？", "弗雷斯诺站最大。", "哪个车站最小？"),
    ],
)
def test_a_word_gives_way_to_its_opposite(question: str, passage: str, wanted: str) -> None:
    assert all_of(question, (), passage) == {wanted}


def test_what_has_no_such_detail_is_left_alone() -> None:
    assert all_of("Who came here?", ("Santa Fe",)) == {None}
    assert all_of("Which was the largest?", (), "The largest and the smallest.") == {None}
