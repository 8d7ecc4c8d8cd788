"""The split of a step: it follows what sizes have cost."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.engine.batching import StepCosts, draft_length, split


def costs(**by_size: float) -> StepCosts:
    known = StepCosts(by_size.pop("s1"))
    for name, seconds in by_size.items():
        for _ in range(9):
            known.add(int(name[1:]), seconds)
    return known


def test_large_batches_win_where_they_are_cheap_for_their_size() -> None:
    measured = costs(s1=8, s2=44, s3=50, s4=88, s5=70, s6=65, s7=62, s8=31)  # an AMX processor
    assert split(range(8), measured) == [range(8)]
    assert split([0, 1, 2], measured) == [range(1), range(1, 2), range(2, 3)]
    # Seven of eight: the whole span is decoded, with a token of no consequence in the eighth.
    assert split([0, 1, 2, 3, 4, 6, 7], measured) == [range(8)]


def test_even_costs_join_neighbours_alone() -> None:
    measured = costs(s1=10, s2=11, s3=12, s4=35, s5=50, s6=60, s7=70, s8=80)
    assert split([0, 1, 6, 7], measured) == [range(2), range(6, 8)]


def test_an_untimed_size_is_tried() -> None:
    assert split([0, 1, 2, 3], StepCosts()) == [range(4)]


def test_costs_follow_the_machine_and_survive_an_outlier() -> None:
    measured = costs(s1=10, s4=20)
    measured.add(4, 900)
    assert measured.expected(4) == 20
    for _ in range(9):
        measured.add(4, 60)
    assert measured.expected(4) == 60
    assert measured.table() == {1: 10_000.0, 4: 60_000.0}


@given(st.sets(st.integers(0, 9), min_size=1), st.lists(st.floats(1, 100), min_size=10, max_size=10))
def test_no_other_split_costs_less(sequences: set[int], prices: list[float]) -> None:
    measured = costs(**{f"s{size}": price for size, price in enumerate(prices, 1)})
    wanted = sorted(sequences)
    spans = split(wanted, measured)
    assert sorted(number for span in spans for number in span if number in sequences) == wanted
    assert all(span[0] in sequences and span[-1] in sequences for span in spans)

    def cost(parts: list[list[int]]) -> float:
        return sum(prices[part[-1] - part[0]] for part in parts)

    cuts = [c for n in range(len(wanted)) for c in combinations(range(1, len(wanted)), n)]
    others = [[wanted[a:b] for a, b in zip((0, *cut), (*cut, None), strict=True)] for cut in cuts]
    assert sum(prices[len(span) - 1] for span in spans) == pytest.approx(min(map(cost, others)))


def test_guesses_are_made_where_they_pay() -> None:
    cheap = costs(s1=10, s2=10.5, s3=11, s4=11.5, s5=12)
    assert draft_length(0.9, cheap, 4) == 4
    assert draft_length(0.0, cheap, 4) == 0
    assert draft_length(0.9, cheap, 0) == 0
    assert draft_length(0.6, costs(s1=8, s2=44, s3=50, s4=88, s5=70), 4) == 0
