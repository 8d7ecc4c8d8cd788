import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.scoring import CitationScores, citation_scores, contains, exact_match, normalized_tokens, rouge_l, token_f1

texts = st.text(alphabet=st.sampled_from("ab A.an the 中国，。12–"), max_size=30)


@pytest.mark.parametrize(
    ("pred", "golds", "expected"),
    [
        ("The Pittsburgh Steelers.", ["Pittsburgh Steelers"], 1),
        ("Pittsburgh", ["Pittsburgh Steelers"], 0),
        ("six", ["five", "Six"], 1),
        ("20-18", ["20–18"], 1),
        ("《红楼梦》。", ["红楼梦"], 1),
        ("１２月", ["12月"], 1),
        ("", [], 1),
        ("anything", [], 0),
        ("Steelers Pittsburgh", ["Pittsburgh Steelers"], 0),
    ],
)
def test_exact_match(pred, golds, expected):
    assert exact_match(pred, golds) == expected


@pytest.mark.parametrize(
    ("pred", "golds", "expected"),
    [
        ("Pittsburgh", ["Pittsburgh Steelers"], 2 / 3),
        ("the the cat", ["a cat"], 1),
        ("cat cat", ["cat"], 2 / 3),
        ("dog", ["cat", "big dog"], 2 / 3),
        ("中国北京", ["北京"], 2 / 3),
        ("北京 Beijing", ["北京"], 4 / 5),
        ("", ["cat"], 0),
        ("cat", [], 0),
        ("the", [], 1),
    ],
)
def test_token_f1(pred, golds, expected):
    assert token_f1(pred, golds) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("pred", "golds", "expected"),
    [
        # Lin 2004, section 3.1: "police kill the gunman" shares "police the gunman" with the gold.
        ("police kill the gunman", ["police killed the gunman"], 3 / 4),
        ("the gunman kill police", ["police killed the gunman"], 2 / 4),
        ("北京是首都", ["首都是北京"], 2 / 5),
        ("", ["x"], 0),
        ("", [], 1),
    ],
)
def test_rouge_l(pred, golds, expected):
    assert rouge_l(pred, golds) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("pred", "golds", "expected"),
    [
        ("It was the Pittsburgh Steelers who lost.", ["Pittsburgh Steelers"], 1),
        ("The Steelers of Pittsburgh", ["Pittsburgh Steelers"], 0),
        ("scatter", ["cat"], 0),
        ("首都是北京。", ["北京"], 1),
        ("anything", ["", "the"], 0),
        ("", [], 1),
        ("anything", [], 0),
    ],
)
def test_contains(pred, golds, expected):
    assert contains(pred, golds) == expected


@given(texts, st.lists(texts, max_size=3))
def test_scores_agree_with_each_other(pred, golds):
    f1 = token_f1(pred, golds)
    assert 0 <= f1 <= 1
    assert 0 <= rouge_l(pred, golds) <= 1
    if exact_match(pred, golds):
        assert f1 == 1
    if f1 == 0:
        assert exact_match(pred, golds) == 0


@given(texts, texts)
def test_scores_are_symmetric_and_full_on_equal_texts(one, other):
    assert token_f1(one, [other]) == token_f1(other, [one])
    assert rouge_l(one, [other]) == pytest.approx(rouge_l(other, [one]))
    assert exact_match(one, [one]) == token_f1(one, [one]) == rouge_l(one, [one]) == 1


@given(texts)
def test_normalisation_is_idempotent(text):
    tokens = normalized_tokens(text)
    assert normalized_tokens(" ".join(tokens)) == tokens


@pytest.mark.parametrize(
    ("cited", "gold", "expected"),
    [
        ([1, 2], [1], CitationScores(0.5, 1, 2 / 3)),
        ([1, 1], [1, 2], CitationScores(1, 0.5, 2 / 3)),
        ([], [1], CitationScores(0, 0, 0)),
        ([3], [], CitationScores(0, 1, 0)),
        ([], [], CitationScores(1, 1, 1)),
        ([3], [1], CitationScores(0, 0, 0)),
    ],
)
def test_citations(cited, gold, expected):
    assert citation_scores(cited, gold) == expected
