import random
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.errors import InvalidRequest, SplitLeak
from data.records import Question
from data.splits import QuestionIndex, assert_disjoint, split_by_document, split_without_leaks


@dataclass(frozen=True)
class Row:
    id: str
    question: str
    document: str


def rows(documents, each):
    return [Row(f"{d}-{n}", f"Question {n} about {d}?", f"doc{d}") for d in range(documents) for n in range(each)]


def test_no_document_is_on_both_sides():
    split = split_by_document(rows(20, 5), lambda row: row.document, 0.2, seed=1)
    assert len(split.evaluation) == 20
    assert len(split.train) == 80
    assert {row.document for row in split.train}.isdisjoint(row.document for row in split.evaluation)
    assert sorted(split.train + split.evaluation, key=lambda row: row.id) == sorted(rows(20, 5), key=lambda row: row.id)


def test_split_depends_on_names_and_seed_not_on_order():
    given_rows = rows(20, 3)
    shuffled = random.Random(0).sample(given_rows, len(given_rows))

    def held(some, seed):
        return {row.id for row in split_by_document(some, lambda row: row.document, 0.3, seed).evaluation}

    assert held(given_rows, 1) == held(shuffled, 1)
    assert held(given_rows, 1) != held(given_rows, 2)


def test_documents_that_share_a_row_stay_together():
    pairs = [{"a"}, {"a", "b"}, {"b", "c"}, {"d"}, {"e"}, {"f"}]
    for seed in range(10):
        split = split_by_document(pairs, lambda row: row, 0.5, seed)
        assert len([row for row in split.evaluation if row & {"a", "b", "c"}]) in (0, 3)


@given(
    st.lists(st.sampled_from("abcdef"), min_size=1, max_size=40),
    st.floats(0, 1, exclude_min=True, exclude_max=True),
    st.integers(0, 5),
)
def test_both_sides_get_rows_if_there_are_two_documents(documents, share, seed):
    split = split_by_document(documents, lambda row: row, share, seed)
    assert sorted(split.train + split.evaluation) == sorted(documents)
    assert not set(split.train) & set(split.evaluation)
    if len(set(documents)) > 1:
        assert split.train
        assert split.evaluation


@pytest.mark.parametrize(("share", "sizes"), [(0, (6, 0)), (1, (0, 6))])
def test_extreme_shares(share, sizes):
    split = split_by_document(rows(3, 2), lambda row: row.document, share, 0)
    assert (len(split.train), len(split.evaluation)) == sizes


def test_impossible_splits_are_refused():
    for share in (-0.1, 1.1, float("nan")):
        with pytest.raises(InvalidRequest):
            split_by_document(rows(2, 2), lambda row: row.document, share, 0)
    with pytest.raises(InvalidRequest):
        split_by_document(["x"], lambda row: [], 0.5, 0)
    assert split_by_document([], lambda row: "d", 0.5, 0).train == []


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Who won Super Bowl XLIX?", "who won  super bowl xlix"),
        ("Where did the Norman invaders settle first?", "Where did the Norman invaders settle at first?"),
        ("国际足联的总部在哪个城市？", "国际足联的总部在哪个城市"),
        ("国际足球联合会的总部设在瑞士的哪一个城市？", "国际足球联合会的总部在瑞士的哪一个城市？"),
        ("Ｗｈａｔ is oxygen?", "What is oxygen?"),
    ],
)
def test_near_duplicates_are_leaks(one, other):
    with pytest.raises(SplitLeak) as caught:
        assert_disjoint([Row("t1", one, "d")], [Question("e1", other, ("x",))])
    assert "t1" in str(caught.value.got)
    assert "e1" in str(caught.value.got)
    assert one in str(caught.value)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What is the population of Fresno?", "What is the population of Madrid?"),
        (
            "What was the company's revenue in the fiscal year 2019?",
            "What was the company's revenue in the fiscal year 2020?",
        ),
        ("Who discovered oxygen?", "When was oxygen discovered?"),
        ("中国的首都是哪里？", "法国的首都是哪里？"),
        ("", "What?"),
    ],
)
def test_different_questions_are_no_leak(one, other):
    assert_disjoint([one], [other])


def test_documents_that_ask_the_same_stay_together_and_no_row_is_lost():
    given = [
        *rows(6, 3),
        Row("a", "Which team won the Super Bowl XLIX in the last minute?", "doc0"),
        Row("b", "which team won Super Bowl XLIX in the last minute?", "doc5"),
    ]
    for seed in range(10):
        split = split_without_leaks(given, lambda row: row.document, 0.4, seed)
        assert_disjoint(split.train, split.evaluation)
        assert len(split.train) + len(split.evaluation) == len(given)
        assert split.train
        assert split.evaluation
        sides = {row.document: side for side in ("train", "evaluation") for row in getattr(split, side)}
        assert sides["doc0"] == sides["doc5"]


def test_where_near_duplicates_leave_no_two_sides_both_rows_are_named():
    given = [
        Row("a", "Which team won the Super Bowl XLIX in the last minute?", "doc0"),
        Row("b", "which team won Super Bowl XLIX in the last minute?", "doc1"),
    ]
    with pytest.raises(SplitLeak, match=r"a 'Which team .* and b 'which team "):
        split_without_leaks(given, lambda row: row.document, 0.5, 1)
    assert len(split_without_leaks(given, lambda row: row.document, 0, 1).train) == 2
    one_document = [Row("a", "Same?", "doc"), Row("b", "Same?", "doc")]
    for alone in (given[:1], one_document):
        split = split_without_leaks(alone, lambda row: row.document, 0.5, 1)
        assert split.train + split.evaluation == alone


def test_matches_are_all_near_duplicates():
    index = QuestionIndex()
    for question in (
        "Which team won the Super Bowl XLIX in the last minute?",
        "Who discovered oxygen?",
        "which team won Super Bowl XLIX in the last minute?",
    ):
        index.add(question)
    assert index.matches("which team won the super bowl XLIX in the last minute") == [
        "Which team won the Super Bowl XLIX in the last minute?",
        "which team won Super Bowl XLIX in the last minute?",
    ]
    assert index.matches("Why?") == []


def test_match_returns_the_most_similar_row():
    index = QuestionIndex(0.5)
    index.add("What is the boiling point of oxygen in air", 1)
    index.add("What is the boiling point of oxygen?", 2)
    index.add("Unrelated words entirely")
    assert index.match("what is the boiling point of oxygen") == 2
    assert index.match("unrelated words, entirely") == "Unrelated words entirely"
    assert index.match("something else") is None
    assert len(index) == 3
    with pytest.raises(InvalidRequest):
        QuestionIndex(0)


def trigrams(text):
    padded = f" {' '.join(text.split())} "
    return {padded[i : i + 3] for i in range(max(1, len(padded) - 2))}


@given(
    st.lists(st.text(alphabet="ab c", min_size=1, max_size=12), min_size=1, max_size=15),
    st.text(alphabet="ab c", min_size=1, max_size=12),
    st.sampled_from([0.3, 0.5, 0.8, 1.0]),
)
def test_index_finds_exactly_what_comparing_with_each_finds(questions, asked, threshold):
    index = QuestionIndex(threshold)
    for question in questions:
        index.add(question)
    wanted = trigrams(asked)
    best = max(len(wanted & trigrams(q)) / len(wanted | trigrams(q)) for q in questions)
    found = index.match(asked)
    assert (found is not None) == (best >= threshold)
    if found is not None:
        assert len(wanted & trigrams(found)) / len(wanted | trigrams(found)) == best
