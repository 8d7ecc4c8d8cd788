from __future__ import annotations

import pytest

from data.errors import InvalidRequest
from data.records import Chunk, Passage
from service.answerer import AskRequest, Token
from service.support import find_support
from service.verification import CheckedMarks, check_marks, verify

TOWER = "The tower opened in 1889. It was built by Gustave Eiffel's company, near the Seine! It is 330 m tall."
WALL = "长城始建于秦朝。它全长两万多公里。明朝曾大修。"


def passages(*texts: str) -> list[Passage]:
    made = [Chunk(f"c{n}", f"d{n}", text, 50, 50 + len(text), "H", None) for n, text in enumerate(texts, 1)]
    return [Passage(chunk, 0.5, n, "hybrid", f"{n}.md", "H") for n, chunk in enumerate(made, 1)]


@pytest.mark.parametrize(
    ("claim", "text", "quote"),
    [
        ("in 1889", TOWER, "The tower opened in 1889."),
        ("Gustave Eiffel's company built it [1].", TOWER, "It was built by Gustave Eiffel's company, near the Seine!"),
        ("It opened in 1889, built by Eiffel's company.", TOWER, TOWER[: TOWER.index(" It is")]),
        ("全长两万多公里", WALL, "它全长两万多公里。"),
        ("明朝大修。", WALL, "明朝曾大修。"),
        ("清朝大修。", WALL, None),
        ("It opened in 1898.", TOWER, None),
        ("Alexandre built the tower near the Seine.", TOWER, None),
        ("It has 1,665 steps and a restaurant.", TOWER, None),
        ("Yes.", TOWER, None),
        ("", TOWER, None),
    ],
)
def test_a_claim_is_borne_out_by_its_words_names_and_numbers(claim, text, quote):
    found = find_support(claim, text)
    assert (None if found is None else text[found.start : found.end]) == quote


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("1889 [1]", "1889 [1]"),
        ("1889 [2]", "1889 [1]"),
        ("1889 [7]", "1889 [1]"),
        ("1901 [1]", "1901"),
        ("1889 [1] [2]", "1889 [1]"),
        ("It opened in 1889. [2] It was built in Berlin [1].", "It opened in 1889. [1] It was built in Berlin."),
        ("Opened in 1889 [2], the wall is 两万多公里 [1].", "Opened in 1889 [1], the wall is 两万多公里 [2]."),
        ("它全长两万多公里。 [1]明朝曾大修。 [1]", "它全长两万多公里。 [2]明朝曾大修。 [2]"),
        ("rows[1] is the second", "rows[1] is the second"),
        ("它全长两万多公里[1]。明朝曾大修[2]。", "它全长两万多公里[2]。明朝曾大修[2]。"),
        ("清朝大修[2]。", "清朝大修。"),
        ("它全长两万多公里。[1]明朝曾大修。", "它全长两万多公里。[2]明朝曾大修。"),
        ("1889[2]", "1889[1]"),
        ("Opened in 1889[2][1].", "Opened in 1889[1]."),
        ("1901[1]", "1901"),
        ("the array x2[1], v1.2[1] and rows[1][2]", "the array x2[1], v1.2[1] and rows[1][2]"),
        ("no mark", "no mark"),
    ],
)
def test_a_mark_stands_only_where_its_passage_bears_the_claim_out(written, shown):
    given = passages(TOWER, WALL)
    assert check_marks(written, given) == shown
    pieces = CheckedMarks(given)
    marks = ("".join(pieces.feed(piece) for piece in _pieces(written)), pieces)[0]
    assert marks == shown


def test_a_tight_mark_s_sentence_is_tied_and_cited():
    text = "它全长两万多公里[2]。清朝大修[2]。"
    found = verify(text, passages(TOWER, WALL), "keep")
    assert [(text[s.start : s.end], s.supported) for s in found.sentences] == [
        ("它全长两万多公里[2]。", True),
        ("清朝大修[2]。", False),
    ]
    assert [citation.n for citation in found.citations] == [2]


def _pieces(text: str) -> list[str]:
    """Cut a text anywhere but within a mark or before one, as the stream does."""
    import re

    return re.findall(r"(?:\s*\[\d+\])|\s+|[^\s]", text)


def test_each_sentence_is_tied_to_a_span_of_its_document():
    text = "The tower opened in 1889 [1]. It is made of cheese. 它全长两万多公里 [2]。"
    found = verify(text, passages(TOWER, WALL), "mark")
    assert [text[s.start : s.end] for s in found.sentences] == [
        "The tower opened in 1889 [1].",
        "It is made of cheese.",
        "它全长两万多公里 [2]。",
    ]
    assert [(s.supported, s.n, s.document_id) for s in found.sentences] == [
        (True, 1, "d1"),
        (False, None, None),
        (True, 2, "d2"),
    ]
    for sentence, whole in zip((found.sentences[0], found.sentences[2]), (TOWER, WALL), strict=True):
        assert ("x" * 50 + whole)[sentence.quote_start : sentence.quote_end] == sentence.quote
    assert [(c.n, c.supported) for c in found.citations] == [(1, True), (2, True)]
    assert found.text == text


def test_of_several_passages_the_one_that_fits_the_question_is_cited():
    given = passages("The choir has three altos.", "Orrin has three harbours.", "Tolm has three gardens.")
    for question, n in (("How many harbours has Orrin?", 2), ("How many gardens has Tolm?", 3)):
        assert check_marks("three [1]", given, question) == f"three [{n}]"
        assert verify("three", given, "mark", question).citations[0].n == n
    # Where the question tells nothing the model's own mark does.
    assert check_marks("three [2]", given, "How many?") == "three [2]"


def test_what_no_passage_bears_out_is_removed():
    text = "The tower opened in 1889 [1]. It is made of cheese. It is 330 m tall [1]."
    found = verify(text, passages(TOWER), "remove")
    assert found.text == "The tower opened in 1889 [1]. It is 330 m tall [1]."
    assert [found.text[s.start : s.end] for s in found.sentences] == [
        "The tower opened in 1889 [1].",
        "It is 330 m tall [1].",
    ]
    assert verify("It is made of cheese.", passages(TOWER), "remove").sentences == ()


QUESTION = "When was the lighthouse of Orrin built?"


def test_an_answer_under_each_policy(indexed, generator):
    generator.reply = "It was built in 1842 [2]. It is made of cheese [1]."

    def ask(policy=None, mode="rag"):
        return indexed.answerer.answer(AskRequest(QUESTION, mode=mode, unsupported=policy))

    marked, kept, removed = ask(), ask("keep"), ask("remove")
    number = marked.sentences[0].n
    assert marked.text == f"It was built in 1842 [{number}]. It is made of cheese."
    assert [sentence.supported for sentence in marked.sentences] == [True, False]
    assert [citation.supported for citation in marked.citations] == [True]
    assert kept.text == generator.reply
    assert [sentence.supported for sentence in kept.sentences] == [True, False]
    assert removed.text == f"It was built in 1842 [{number}]."
    assert indexed.store.answers.get(marked.id).answer == marked
    generator.reply = "It is made of cheese [1]."
    nothing = ask("remove")
    assert (nothing.text, nothing.abstained, nothing.abstained_by) == ("I don't know.", True, "support")
    assert nothing.citations == nothing.sentences == ()
    assert ask(mode="base").sentences == ()
    with pytest.raises(InvalidRequest, match="reads no passages"):
        ask("remove", mode="base")


@pytest.mark.parametrize("policy", ["keep", "mark", "remove"])
def test_a_stream_says_what_the_answer_says(indexed, generator, policy):
    generator.reply = "It was built in 1842 [2]. It is made of cheese [1]."
    _, *tokens, answer = indexed.answerer.stream(AskRequest(QUESTION, mode="rag", unsupported=policy))
    assert all(isinstance(token, Token) for token in tokens)
    assert "".join(token.text for token in tokens) == answer.text


def test_the_setting_is_the_policy_where_a_request_names_none(make_workspace, generator):
    workspace = make_workspace("indexed", unsupported="keep")
    generator.reply = "It is made of cheese [1]."
    assert workspace.answerer.answer(AskRequest(QUESTION, mode="rag")).text == generator.reply
