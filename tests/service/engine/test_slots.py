"""Prefix reuse: what may be reused, by whom, and what is given up first."""

from __future__ import annotations

import numpy as np

from service.engine.slots import Slot, SlotTable

LOGITS = np.zeros(1, np.float32)


def fill(table: SlotTable, adapter: str | None, prompt: list[int]) -> tuple[Slot, int]:
    slot, reused = table.take(adapter, prompt)
    slot.forget()
    slot.adapter, slot.prompt, slot.logits = adapter, prompt, LOGITS
    return slot, reused


def test_the_same_prompt_is_reused_whole() -> None:
    table = SlotTable(2, chunk=4)
    first, cold = fill(table, None, [1, 2, 3, 4, 5])
    assert cold == 0
    assert table.take(None, [1, 2, 3, 4, 5]) == (first, 5)


def test_a_common_prefix_is_reused_in_whole_chunks() -> None:
    table = SlotTable(2, chunk=4)
    first, _ = fill(table, None, list(range(11)))
    assert table.take(None, [*range(10), 99, 98]) == (first, 8)
    assert table.take(None, [0, 1, 2, 99])[1] == 0


def test_the_last_token_is_always_decoded_unless_its_logits_are_kept() -> None:
    table = SlotTable(1, chunk=4)
    fill(table, None, list(range(12)))
    assert table.take(None, list(range(8)))[1] == 4


def test_an_adapter_never_sees_the_state_of_another() -> None:
    table = SlotTable(2, chunk=4)
    base, _ = fill(table, None, list(range(8)))
    tuned, reused = fill(table, "style", list(range(8)))
    assert reused == 0
    assert tuned is not base
    assert table.take("style", list(range(8))) == (tuned, 8)
    assert table.take(None, list(range(8))) == (base, 8)


def test_the_least_recently_used_slot_is_given_up() -> None:
    table = SlotTable(2, chunk=1)
    old, _ = fill(table, None, [1, 1])
    young, _ = fill(table, None, [2, 2])
    table.take(None, [1, 1])
    assert table.take(None, [3, 3]) == (young, 0)
    assert old.prompt == [1, 1]


def test_forgetting_an_adapter_leaves_the_others() -> None:
    table = SlotTable(2, chunk=1)
    fill(table, None, [1, 2])
    fill(table, "style", [1, 2])
    table.forget("style")
    assert table.take(None, [1, 2])[1] == 2
    assert table.take("style", [1, 2])[1] == 0
