"""Claims: an answer is taken apart, and each part needs a passage that bears it out."""

from __future__ import annotations

import pytest

from retrieval.claims import bears_out, claims, superfluous, unsupported

FRESNO = "Fresno was founded in 1872 by the Central Pacific Railroad Company. Its hottest month is July."
OXYGEN = "Oxygen was isolated by Michael Sendivogius before 1604. Steel smelting consumes 55 percent of it."
CHINESE = "弗雷斯诺于1872年由中央太平洋铁路公司建立，其名称来自圣华金河畔的白蜡树。"


def test_sentences_and_clauses_are_claims_and_numbers_do_not_part_them() -> None:
    said = "Fresno was founded in 1872, and its hottest month is July. It has 3.5 rivers; Oxygen was isolated by 1604."
    assert claims(said) == [
        "Fresno was founded in 1872",
        "its hottest month is July.",
        "It has 3.5 rivers",
        "Oxygen was isolated by 1604.",
    ]
    assert claims("Fresno is hot while Oxygen is a gas.") == ["Fresno is hot", "Oxygen is a gas."]
    assert claims("Fresno is hot, and so it is.") == ["Fresno is hot so it is."], "no clause of its own"
    assert claims("该市建于1872年。名称来自白蜡树。") == ["该市建于1872年。", "名称来自白蜡树。"]
    assert claims("  ") == []


@pytest.mark.parametrize(
    ("claim", "text", "borne_out"),
    [
        ("The Central Pacific Railroad Company founded Fresno in 1872.", FRESNO, True),
        ("Fresno was founded by the Central Pacific Railroad in 1873.", FRESNO, False),
        ("Fresno was founded by the Southern Pacific Railroad Company.", FRESNO, False),
        ("The town has the largest harbour of the western coast.", FRESNO, False),
        ("Founding Fresno was the work of a railroad company.", FRESNO, True),
        ("弗雷斯诺由中央太平洋铁路公司于1872年建立。", CHINESE, True),
        ("弗雷斯诺由南太平洋铁路公司于1873年建立。", CHINESE, False),
        ("弗雷斯诺是美国最大的港口城市。", CHINESE, False),
    ],
)
def test_a_claim_needs_its_words_its_numbers_and_its_names(claim: str, text: str, borne_out: bool) -> None:
    assert bears_out(claim, text) is borne_out


def test_every_claim_needs_one_passage_of_its_own() -> None:
    answer = "Fresno was founded in 1872 by a railroad company. Oxygen was isolated by Michael Sendivogius before 1604."
    assert unsupported(answer, [FRESNO, OXYGEN]) == []
    assert unsupported(answer, [FRESNO]) == ["Oxygen was isolated by Michael Sendivogius before 1604."]
    mixed = "Fresno was founded by Michael Sendivogius."
    assert unsupported(mixed, [FRESNO, OXYGEN]) == [mixed], "half in one passage and half in the other is in neither"


def test_a_passage_that_the_answer_does_not_need_is_found() -> None:
    both = "Fresno was founded in 1872. Oxygen was isolated before 1604."
    assert superfluous(both, [FRESNO, OXYGEN]) is None
    assert superfluous("Fresno was founded in 1872.", [FRESNO, OXYGEN]) == 1
    assert superfluous("Oxygen was isolated before 1604.", [FRESNO, OXYGEN]) == 0


def test_an_answer_of_white_space_is_cut_in_linear_time() -> None:
    """A pattern that begins anew at every space would take minutes here."""
    assert claims(f"The tower is old,{' ' * 300_000}while the bridge is quite new.") == [
        "The tower is old",
        "the bridge is quite new.",
    ]
    assert len(claims(f"The tower is old{' ' * 300_000}and tall.")) == 1
