"""Masks, positions and losses of packed rows, against the definition token by token."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from finetune.collate import Collator, allowed, lay_out, losses
from finetune.rows import Branch, Row

pytestmark = pytest.mark.slow  # for torch's import alone

# instruction, label, passage 1, label, passage 2 | branches with and without a tail
ROW = Row((10, 11, 12, 13, 14, 15, 16), (0, 0, 1, 1, 0, 2, 2), (Branch((20, 21), (22, 23)), Branch((), (30, 31))))
SHORT = Row((10, 11), (0, 0), (Branch((20,), (22,)),))


def sees(row: Row, viewer: int, seen: int) -> bool:
    """The definition under full attention: who sees whom."""
    branch = [0] * len(row.context_ids) + [n for n, b in enumerate(row.branches, 1) for _ in range(len(b))]
    return seen <= viewer and branch[seen] in (0, branch[viewer])


def test_every_token_sees_exactly_whom_it_may() -> None:
    mask = allowed(lay_out(ROW), "full")
    assert mask.tolist() == [[sees(ROW, i, j) for j in range(len(ROW))] for i in range(len(ROW))]


def test_blockwise_each_passage_has_the_instruction_right_before_it_and_nothing_else() -> None:
    layout = lay_out(ROW, "blockwise")
    mask = allowed(layout, "blockwise")
    copies = 2  # of the two tokens of the instruction, before the second passage, which begins at position 5
    assert layout.ids.tolist()[: copies + 2] == [10, 11, 10, 11]
    assert layout.position.tolist() == [3, 4, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 7, 8]

    def seen(place: int) -> list[int]:
        return mask[copies + place].nonzero().flatten().sub(copies).tolist()

    assert seen(-1) == [-2, -1]  # a copy sees itself
    assert seen(1) == [0, 1]
    assert seen(2) == [0, 1, 2]
    assert seen(3) == [0, 1, 2, 3]
    assert seen(4) == [0, 1, 2, 3, 4]  # what stands between passages sees all before it but copies
    assert seen(6) == [-2, -1, 5, 6]
    assert seen(8) == list(range(9))
    assert seen(12) == [*range(7), 11, 12]


def test_blockwise_a_row_of_one_passage_is_read_as_with_full_attention() -> None:
    row = Row((10, 11, 12, 13), (0, 0, 1, 1), (Branch((20,), (22,)),))
    assert lay_out(row, "blockwise").ids.tolist() == lay_out(row).ids.tolist()
    assert allowed(lay_out(row, "blockwise"), "blockwise").equal(allowed(lay_out(row), "full"))
    assert allowed(lay_out(SHORT, "blockwise"), "blockwise").equal(allowed(lay_out(SHORT), "full"))


def test_a_share_of_the_rows_is_read_with_full_attention_the_same_ones_each_time() -> None:
    rows = [replace(ROW, context_ids=(n, *ROW.context_ids[1:])) for n in range(200)]
    collate = Collator("blockwise", torch.float32, full_share=0.25)

    def full(row: Row) -> bool:
        return len(collate([row])["input_ids"][0]) == len(row)  # no copies of the instruction

    drawn = [full(row) for row in rows]
    assert 25 <= sum(drawn) <= 75
    assert drawn == [full(row) for row in rows]
    collate = Collator("blockwise", torch.float32)
    assert not any(map(full, rows))


def test_the_full_context_is_plainly_causal() -> None:
    context = len(ROW.context_ids)
    assert allowed(lay_out(ROW), "full")[:context, :context].equal(torch.ones(context, context).tril().bool())


def test_each_branch_continues_the_positions_of_the_context() -> None:
    assert lay_out(ROW).position.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 7, 8]


def test_a_completion_is_predicted_from_its_own_prompt() -> None:
    # Branch 1 from its tail's end; branch 2 has no tail: from the context's end.
    assert losses(ROW) == ([8, 9, 6, 11], [22, 23, 30, 31])


def test_copies_move_what_is_trained() -> None:
    batch = Collator("blockwise", torch.float32)([SHORT, ROW])
    length = len(ROW) + 2
    assert batch["input_ids"].shape == (2, length)
    assert batch["sources"].tolist() == [2, *(length + 2 + place for place in (8, 9, 6, 11))]
    assert batch["counts"].tolist() == [len(SHORT) + len(ROW), 3]


def test_no_prompt_token_is_trained() -> None:
    targets = Collator("full", torch.float32)([ROW, SHORT])["targets"].tolist()
    assert targets == [22, 23, 30, 31, 22]


def test_a_batch_pads_without_touching_its_rows() -> None:
    batch = Collator("full", torch.bfloat16, pad_id=9)([ROW, SHORT])
    length, short = len(ROW), len(SHORT)
    assert batch["input_ids"].shape == batch["position_ids"].shape == (2, length)
    assert batch["attention_mask"].shape == (2, 1, length, length)
    assert batch["attention_mask"].dtype == torch.bfloat16
    assert batch["input_ids"][1, short:].tolist() == [9] * (length - short)
    alone = Collator("full", torch.bfloat16)([SHORT])
    assert batch["attention_mask"][1, 0, :short, :short].equal(alone["attention_mask"][0, 0])
    # Nobody sees padding, and padding sees something: a softmax over nothing is NaN.
    visible = batch["attention_mask"][1, 0] == 0
    assert not visible[:short, short:].any()
    assert visible.any(dim=1).all()
    assert batch["counts"].tolist() == [length + short, 3]
    predicted_from = batch["input_ids"].flatten()[batch["sources"]].tolist()
    assert predicted_from == [21, 22, 16, 30, 20]
