"""Which passage an answer in free words rests on."""

from __future__ import annotations

import pytest

from data.records import Chunk, Passage
from retrieval.evidence import Evidence


def passages(*texts: str) -> list[Passage]:
    return [Passage(Chunk(str(i), "d", text, 0, len(text)), 0.0, i, "given") for i, text in enumerate(texts, 1)]


HOUSE = [f"**{town}**, dear reader. It lies on the {river}. Kind regards." for town, river in (
    ("Rome", "Tiber"), ("Paris", "Seine"), ("Cairo", "Nile"), ("Basel", "Rhine"),
    ("Prague", "Vltava"), ("Lisbon", "Tagus"), ("Vienna", "Danube"), ("Florence", "Arno"),
)]  # fmt: skip


def test_the_passage_with_most_of_what_is_said() -> None:
    evidence = Evidence(HOUSE)
    found = passages("The Seine is long.", "Paris stands on the Seine.", "Rome was not built in a day.")
    assert evidence.number_of(HOUSE[1], found) == 2
    assert evidence.number_of(HOUSE[2], found) is None
    assert evidence.number_of(HOUSE[1], []) is None


def test_what_most_answers_share_is_no_fact() -> None:
    evidence = Evidence(HOUSE)
    assert not evidence.states_facts("Dear reader, kind regards.")
    assert evidence.number_of("Dear reader, kind regards.", passages("Dear reader, kind regards.")) is None
    assert evidence.states_facts(HOUSE[0])
    assert Evidence(HOUSE[:3]).states_facts("Dear reader, kind regards."), "three answers make no house"


@pytest.mark.parametrize(("answer", "number"), [("您好，灯塔建于一八四二年。", 1), ("您好，花园里种着玫瑰。", None)])
def test_chinese(answer: str, number: int | None) -> None:
    assert Evidence([answer]).number_of(answer, passages("奥林的灯塔建于一八四二年，您好。")) == number
