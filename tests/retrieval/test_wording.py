"""Where an answer stands in a text, to the character."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval.wording import span_of, terms

HAN = r"\u3400-\u9fff\uf900-\ufaff"


@pytest.mark.parametrize(
    ("answer", "text", "span"),
    [
        ("art", "the party had ART.", (14, 17)),
        ("art", "a party", None),
        ("art", "中art文", (1, 4)),
        ("a a", "xa a a", (3, 6)),
        ("Mara Venn", "by mara\n  venn, keeper", (3, 14)),
        ("1842.", "in 1842", (3, 7)),
        ("北京", "在北京大学", (1, 3)),
        ("?!", "what?!", None),
        ("x", "_x x_", (1, 2)),
    ],
)
def test_an_answer_stands_at_its_first_place_between_word_boundaries(answer, text, span):
    assert span_of(answer, text) == span


SHORT = st.text(alphabet="aAb 中_é-", max_size=12)


@given(SHORT, SHORT)
def test_it_is_what_one_pattern_with_both_boundaries_would_find(answer, text):
    edge = " \t\r\n.,;:!?\"'“”‘’。，；：！？、《》「」"
    words = answer.strip(edge).split()
    if not terms(answer):
        assert span_of(answer, text) is None
        return

    def letter(character: str) -> bool:
        return character.isalnum() and not re.match(f"[{HAN}]", character)

    before = rf"(?<![^\W_{HAN}])" if letter(words[0][0]) else ""
    after = rf"(?![^\W_{HAN}])" if letter(words[-1][-1]) else ""
    match = re.search(before + r"\s+".join(map(re.escape, words)) + after, text, re.IGNORECASE)
    assert span_of(answer, text) == (match.span() if match else None)
