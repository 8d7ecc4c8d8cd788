"""Choosing tokens: greedy, cuts, seeds, grammars."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from service.engine.sampling import Sampler, logprob

LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))


class Only:
    """A grammar that allows a fixed set of tokens and counts the expensive questions."""

    def __init__(self, *tokens: int) -> None:
        self.tokens, self.full_looks = tokens, 0

    def allows(self, token: int) -> bool:
        return token in self.tokens

    def allowed(self) -> NDArray[np.bool_]:
        self.full_looks += 1
        return np.isin(np.arange(len(LOGITS)), self.tokens)

    def accept(self, token: int) -> None:
        raise AssertionError("choosing is not accepting")


def shares(sampler: Sampler, grammar: Only | None = None, n: int = 4000) -> list[float]:
    counts = Counter(sampler.choose(LOGITS, grammar) for _ in range(n))
    return [counts[token] / n for token in range(len(LOGITS))]


def test_greedy_takes_the_likeliest() -> None:
    assert Sampler().choose(LOGITS) == 0


def test_temperature_one_follows_the_distribution() -> None:
    assert shares(Sampler(temperature=1.0, seed=0)) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)


def test_a_low_temperature_sharpens() -> None:
    squared = np.array([0.25, 0.09, 0.0225, 0.0025])
    assert shares(Sampler(temperature=0.5, seed=0)) == pytest.approx(list(squared / squared.sum()), abs=0.03)


def test_top_k_keeps_the_likeliest() -> None:
    assert shares(Sampler(temperature=1.0, top_k=2, seed=0)) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)


@pytest.mark.parametrize(("top_p", "kept"), [(0.4, 1), (0.7, 2), (0.9, 3), (1.0, 4)])
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: int) -> None:
    assert sum(share > 0 for share in shares(Sampler(temperature=1.0, top_p=top_p, seed=0))) == kept


def test_a_seed_repeats_and_another_differs() -> None:
    def draw(seed: int) -> list[int | None]:
        sampler = Sampler(temperature=1.0, seed=seed)
        return [sampler.choose(LOGITS) for _ in range(50)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_an_allowed_token_costs_no_look_at_the_vocabulary() -> None:
    grammar = Only(0)
    assert Sampler().choose(LOGITS, grammar) == 0
    assert grammar.full_looks == 0


def test_a_grammar_gives_the_distribution_over_what_it_allows() -> None:
    grammar = Only(1, 3)
    assert shares(Sampler(temperature=1.0, seed=0), grammar) == pytest.approx([0, 6 / 7, 0, 1 / 7], abs=0.03)
    assert grammar.full_looks > 0


def test_a_grammar_that_allows_nothing_ends_it() -> None:
    assert Sampler().choose(LOGITS, Only()) is None


def test_logprobs_are_natural_and_of_temperature_one() -> None:
    assert [logprob(LOGITS + 7, token) for token in range(4)] == pytest.approx(list(LOGITS), abs=1e-5)


def test_any_integer_is_a_seed() -> None:
    for seed in (-5, -(2**70), 2**70):
        first, second = (Sampler(temperature=1.0, seed=seed) for _ in range(2))
        assert [first.choose(LOGITS) for _ in range(20)] == [second.choose(LOGITS) for _ in range(20)]
