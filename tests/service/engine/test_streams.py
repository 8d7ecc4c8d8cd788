"""Prefix reuse: what may be reused, by whom, and what is given up first."""

from __future__ import annotations

import numpy as np
import pytest

from service.engine.prompting import Prompt
from service.engine.streams import StreamTable, common_prefix

LOGITS = np.zeros(1, np.float32)
BATCH = 4


def fill(table: StreamTable, tokens: list[int], adapters: tuple = (), written: tuple[int, ...] = ()) -> int:
    prompt = Prompt(tuple(tokens))
    stream, _ = table.take(adapters, prompt, prompt.ends(BATCH), stitched=False)
    stream.adapters, stream.prompt, stream.logits = adapters, prompt, LOGITS
    stream.tokens, stream.exact, stream.busy = [*tokens, *written], len(tokens), False
    return stream.number


def reuse(table: StreamTable, prompt: Prompt, adapters: tuple = (), *, stitched: bool = False) -> tuple[int, int]:
    stream, reused = table.take(adapters, prompt, prompt.ends(BATCH), stitched=stitched)
    stream.busy = False
    return stream.number, reused


def test_stretches_follow_from_what_stands_before_them() -> None:
    prompt = Prompt(tuple(range(20)), turns=(3, 9))
    assert prompt.ends(4) == (3, 7, 9, 13, 17, 20)
    longer = Prompt(tuple(range(30)), turns=(3, 9, 22))
    assert longer.ends(4)[:5] == prompt.ends(4)[:5]
    assert Prompt((1, 2, 3)).ends(4) == (3,)


def test_whole_stretches_are_reused_and_the_last_is_read_again() -> None:
    table = StreamTable(2)
    number = fill(table, list(range(10)))
    assert reuse(table, Prompt((*range(9), 77, 78))) == (number, 8)
    assert reuse(table, Prompt(tuple(range(8)))) == (number, 4)
    assert reuse(table, Prompt((0, 1, 2, 77)))[1] == 0


def test_the_same_prompt_needs_nothing() -> None:
    table = StreamTable(1)
    fill(table, list(range(10)), written=(50, 51))
    assert reuse(table, Prompt(tuple(range(10)))) == (0, 10)


def test_what_was_written_is_reused_by_a_prompt_that_goes_on_from_it() -> None:
    table = StreamTable(1)
    fill(table, list(range(10)), written=(50, 51, 52))
    assert reuse(table, Prompt((*range(10), 50, 51, 52, 60))) == (0, 13)
    assert reuse(table, Prompt((*range(10), 50, 51, 99, 60))) == (0, 12)
    assert reuse(table, Prompt((*range(10), 99, 60))) == (0, 8)


def test_nothing_behind_what_was_written_counts_as_exact() -> None:
    table = StreamTable(1)
    fill(table, list(range(10)))
    table.streams[0].exact = 5
    assert reuse(table, Prompt((*range(9), 77, 78))) == (0, 4)
    assert reuse(table, Prompt(tuple(range(10)))) == (0, 10)


def test_the_same_tokens_with_other_passages_are_another_prompt() -> None:
    table = StreamTable(1)
    fill(table, list(range(10)))
    assert reuse(table, Prompt(tuple(range(10)), passages=((2, 5),)))[1] == 8


def test_adapters_do_not_share() -> None:
    table = StreamTable(2)
    fill(table, list(range(10)), (("a", 1.0),))
    for other in ((), (("b", 1.0),), (("a", 0.5),)):
        assert reuse(table, Prompt(tuple(range(10))), other)[1] == 0


def test_stitched_states_serve_their_own_prompt_only() -> None:
    table = StreamTable(1)
    prompt = Prompt(tuple(range(10)), (), ((2, 5), (5, 8)))
    stream, _ = table.take((), prompt, prompt.ends(BATCH), stitched=True)
    stream.prompt, stream.tokens, stream.logits, stream.stitched = prompt, list(range(10)), LOGITS, True
    stream.busy = False
    assert reuse(table, prompt)[1] == 0
    assert reuse(table, prompt, stitched=True)[1] == 10
    assert reuse(table, Prompt((*range(10), 11)), stitched=True)[1] == 0


def test_the_least_recently_used_goes_first_and_busy_ones_stay() -> None:
    table = StreamTable(3)
    numbers = [fill(table, [n] * 6) for n in range(3)]
    assert sorted(numbers) == [0, 1, 2]
    table.streams[numbers[0]].busy = True
    assert table.free == 2
    assert reuse(table, Prompt((9,) * 6)) == (numbers[1], 0)


def test_a_removed_adapter_leaves_no_state() -> None:
    table = StreamTable(2)
    fill(table, list(range(10)), (("a", 1.0), ("b", 1.0)))
    table.forget("b")
    assert reuse(table, Prompt(tuple(range(10))), (("a", 1.0), ("b", 1.0)))[1] == 0


@pytest.mark.parametrize(("left", "right", "length"), [([], [1], 0), ([1, 2], [1, 2, 3], 2), ([1, 2], [3, 2], 0)])
def test_common_prefix(left: list[int], right: list[int], length: int) -> None:
    assert common_prefix(left, right) == common_prefix(right, left) == length
