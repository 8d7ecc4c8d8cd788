"""Choosing tokens: greedy, cuts, seeds, grammars."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from service.engine.sampling import Sampler, SamplingOptions, likeliest, log_normalizers

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


def sampler(**options: object) -> Sampler:
    return Sampler(SamplingOptions(**options))


def shares(chooser: Sampler, grammar: Only | None = None, n: int = 4000) -> list[float]:
    counts = Counter(chooser.choose(LOGITS, grammar) for _ in range(n))
    return [counts[token] / n for token in range(len(LOGITS))]


def test_greedy_takes_the_likeliest() -> None:
    assert sampler().choose(LOGITS) == 0


def test_temperature_one_follows_the_distribution() -> None:
    assert shares(sampler(temperature=1.0, seed=0)) == pytest.approx([0.5, 0.3, 0.15, 0.05], abs=0.03)


def test_a_low_temperature_sharpens() -> None:
    squared = np.array([0.25, 0.09, 0.0225, 0.0025])
    assert shares(sampler(temperature=0.5, seed=0)) == pytest.approx(list(squared / squared.sum()), abs=0.03)


@pytest.mark.parametrize("temperature", [1e-308, 1e-30])
def test_a_temperature_next_to_nothing_takes_the_likeliest(temperature: float) -> None:
    chooser = sampler(temperature=temperature, seed=1)
    assert chooser.choose(LOGITS) == int(LOGITS.argmax())


def test_top_k_keeps_the_likeliest() -> None:
    assert shares(sampler(temperature=1.0, top_k=2, seed=0)) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)


@pytest.mark.parametrize(("top_p", "kept"), [(0.4, 1), (0.7, 2), (0.9, 3), (1.0, 4)])
def test_top_p_keeps_the_smallest_set_that_reaches_it(top_p: float, kept: int) -> None:
    assert sum(share > 0 for share in shares(sampler(temperature=1.0, top_p=top_p, seed=0))) == kept


def test_a_seed_repeats_and_another_differs() -> None:
    def draw(seed: int) -> list[int | None]:
        chooser = sampler(temperature=1.0, seed=seed)
        return [chooser.choose(LOGITS) for _ in range(50)]

    assert draw(1) == draw(1)
    assert draw(1) != draw(2)


def test_an_allowed_token_costs_no_look_at_the_vocabulary() -> None:
    grammar = Only(0)
    assert sampler().choose(LOGITS, grammar) == 0
    assert grammar.full_looks == 0


def test_a_grammar_gives_the_distribution_over_what_it_allows() -> None:
    grammar = Only(1, 3)
    assert shares(sampler(temperature=1.0, seed=0), grammar) == pytest.approx([0, 6 / 7, 0, 1 / 7], abs=0.03)
    assert grammar.full_looks > 0


def test_a_grammar_that_allows_nothing_ends_it() -> None:
    assert sampler().choose(LOGITS, Only()) is None


def test_logprobs_are_natural_and_of_temperature_one() -> None:
    rows = np.stack([LOGITS + 7, LOGITS[::-1]])
    assert log_normalizers(rows) == pytest.approx([7, 0], abs=1e-5)
    assert np.isnan(log_normalizers(np.array([[1.0, np.nan]], np.float32))).all()


def test_the_likeliest_come_in_order() -> None:
    assert likeliest(LOGITS[[3, 1, 0, 2]], 3) == [2, 1, 3]
    assert likeliest(LOGITS, 9) == [0, 1, 2, 3]


def test_min_p_is_a_share_of_the_likeliest() -> None:
    assert shares(sampler(temperature=1.0, min_p=0.31, seed=0)) == pytest.approx([0.625, 0.375, 0, 0], abs=0.03)
    assert shares(sampler(temperature=1.0, min_p=0.29, seed=0))[2] > 0.1


def test_a_bias_moves_a_token_and_can_forbid_it() -> None:
    assert sampler(logit_bias={3: 10.0}).choose(LOGITS) == 3
    assert sampler(logit_bias={0: -np.inf, 99: 5.0}).choose(LOGITS) == 1


def test_penalties_fall_on_what_was_written() -> None:
    for options in ({"presence_penalty": 1.0}, {"frequency_penalty": 1.0}, {"repeat_penalty": 2.0}):
        chooser = sampler(**options)
        chooser.accept(0)
        assert chooser.choose(LOGITS) == 1, options
    counting = sampler(frequency_penalty=0.3)
    counting.accept(0)
    assert counting.choose(LOGITS) == 0
    counting.accept(0)
    assert counting.choose(LOGITS) == 1


def test_any_integer_is_a_seed() -> None:
    for seed in (-5, -(2**70), 2**70):
        first, second = (sampler(temperature=1.0, seed=seed) for _ in range(2))
        assert [first.choose(LOGITS) for _ in range(20)] == [second.choose(LOGITS) for _ in range(20)]
