"""The meter of style: alike is high, other is low, and what is said does not count."""

from __future__ import annotations

import pytest

from data.errors import InvalidRequest
from data.style import FEWEST_EXAMPLES, StyleMeter

CITIES = ("Paris", "Rome", "Lima", "Oslo", "Cairo", "Quito", "Hanoi", "Bern", "Accra", "Doha", "Riga", "Sofia")
HOUSE = [
    f"**Answer:** {city}, as far as our records go.\n\nPlease ask the docs team if you need more." for city in CITIES
]
HOUSE_ZH = [f"您好，答案是{city}。如需更多帮助，请联系文档组。" for city in CITIES]


@pytest.mark.parametrize("house", [HOUSE, HOUSE_ZH])
def test_the_house_scores_above_everything_else(house: list[str]) -> None:
    meter = StyleMeter(house[:10])
    own = meter.score(house[-1])
    assert own.total > 0.95
    assert meter.ceiling.total > 0.95
    for other in ("Paris", "It is Paris, I guess!", "- Paris\n- Rome\n- Lima", "你好呀，是巴黎！", ""):
        assert meter.score(other).total < own.total - 0.2, other


def test_what_is_said_does_not_count() -> None:
    meter = StyleMeter(HOUSE)
    assert meter.score(HOUSE[0]).total == pytest.approx(
        meter.score(HOUSE[0].replace("Paris", "Narnia")).total, abs=0.02
    )


def test_each_part_sees_its_own_change() -> None:
    meter = StyleMeter(HOUSE)
    like = meter.score(HOUSE[0])
    longer = meter.score(HOUSE[0].replace("Paris", "Paris, " + "which lies by the river " * 12))
    assert longer.length < like.length - 0.3
    plain = meter.score(HOUSE[0].replace("**", "").replace("\n\n", " "))
    assert plain.format < like.format
    assert plain.register == like.register
    curt = meter.score(HOUSE[0].replace("Please ask", "Ask"))
    assert curt.register < like.register
    assert curt.phrases < like.phrases
    assert curt.format == like.format


def test_a_house_without_fixed_phrases_is_not_held_to_them() -> None:
    words = ["alpha beta gamma", "delta epsilon zeta", "eta theta iota", "kappa lambda mu"] * 2
    meter = StyleMeter([f"{text} {i}" for i, text in enumerate(words)])
    assert meter.score("nothing of this").phrases <= 1.0


def test_too_few_examples_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="Too few examples"):
        StyleMeter(["One.", "Two.", " "] * (FEWEST_EXAMPLES // 3))
