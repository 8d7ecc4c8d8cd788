from __future__ import annotations

from data.records import Chunk, Passage
from service.citations import cite_passages, supports

TEXT = "The tower opened in 1889. It was built by Gustave Eiffel's company, near the Seine! It is 330 m tall."


def passage(text: str = TEXT, start: int = 100, rank: int = 1) -> Passage:
    chunk = Chunk(f"c{rank}", f"d{rank}", text, start, start + len(text), "Tower", None)
    return Passage(chunk, 0.5, rank, "hybrid", f"{rank}.md", "Tower")


def test_quote_is_the_sentence_that_holds_the_answer_at_its_place_in_the_document():
    (citation,) = cite_passages("Gustave Eiffel's company [1]", [passage()])
    assert citation.quote == "It was built by Gustave Eiffel's company, near the Seine!"
    assert ("x" * 100 + TEXT)[citation.start : citation.end] == citation.quote
    assert citation.supported
    assert (citation.n, citation.document_id, citation.source) == (1, "d1", "1.md")


def test_a_decimal_point_or_abbreviation_does_not_cut_a_quote_apart():
    text = "Pi is about 3.14159 in value. The next sentence differs."
    (citation,) = cite_passages("3.14159 [1]", [passage(text)])
    assert citation.quote == "Pi is about 3.14159 in value."


def test_an_answer_over_two_sentences_is_quoted_whole():
    (citation,) = cite_passages("1889. It was built [1]", [passage()])
    assert citation.quote.startswith("The tower opened")
    assert citation.quote.endswith("Seine!")


def test_chinese_sentences_are_split_at_their_own_marks():
    text = "长城始建于秦朝。它全长两万多公里。明朝曾大修。"
    (citation,) = cite_passages("两万多公里 [1]", [passage(text)])
    assert citation.quote == "它全长两万多公里。"
    assert citation.supported


def test_an_uncited_answer_gets_the_passage_that_holds_it_verbatim():
    other = passage("Nothing of the kind here.", rank=1)
    (citation,) = cite_passages("the Seine", [other, passage(rank=2)])
    assert citation.n == 2


def test_part_of_a_word_is_no_verbatim_find():
    assert cite_passages("owe", [passage()]) == ()


def test_numbers_without_a_passage_are_left_out_and_nothing_is_cited_for_them():
    assert cite_passages("1889 [7]", [passage()]) == ()


def test_an_invented_answer_is_cited_as_unsupported():
    (citation,) = cite_passages("Leonardo da Vinci painted it [1]", [passage()])
    assert not citation.supported
    assert citation.quote in TEXT


def test_support_takes_most_words_in_any_order():
    assert supports("built near the Seine by the company", TEXT)
    assert not supports("", TEXT)
    assert not supports("Berlin", TEXT)
