"""Masks, positions and losses of packed rows, against the definition token by token."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from finetune.collate import Collator, allowed, lay_out, losses
from finetune.recipe import Attention
from finetune.rows import Branch, Row

# instruction, label, passage 1, label, passage 2 | branches with and without a tail
ROW = Row((10, 11, 12, 13, 14, 15, 16), (0, 0, 1, 1, 0, 2, 2), (Branch((20, 21), (22, 23)), Branch((), (30, 31))))
SHORT = Row((10, 11), (0, 0), (Branch((20,), (22,)),))


def sees(row: Row, viewer: int, seen: int, attention: Attention) -> bool:
    """The definition: who sees whom."""
    branch = [0] * len(row.context_ids) + [n for n, b in enumerate(row.branches, 1) for _ in range(len(b))]
    passage = [*row.passages, *[0] * (len(row) - len(row.passages))]
    if seen > viewer or (branch[seen] and branch[seen] != branch[viewer]):
        return False
    instruction = not any(passage[: seen + 1])
    return not (attention == "blockwise" and passage[viewer]) or instruction or passage[seen] == passage[viewer]


@pytest.mark.parametrize("attention", ["full", "blockwise"])
def test_every_token_sees_exactly_whom_it_may(attention: Attention) -> None:
    mask = allowed(lay_out(ROW), attention)
    wanted = [[sees(ROW, i, j, attention) for j in range(len(ROW))] for i in range(len(ROW))]
    assert mask.tolist() == wanted


def test_blockwise_passages_are_blind_to_each_other_and_the_question_sees_all() -> None:
    mask = allowed(lay_out(ROW), "blockwise")
    passage_1, label_2, passage_2, question = 2, 4, 5, 7
    assert not mask[passage_2, passage_1]
    assert not mask[passage_2, label_2]
    assert mask[passage_2, 0]
    assert mask[label_2, passage_1]
    assert mask[question, : question + 1].all()


def test_a_share_of_the_rows_is_read_with_full_attention_the_same_ones_each_time() -> None:
    rows = [replace(ROW, context_ids=(n, *ROW.context_ids[1:])) for n in range(200)]
    collate = Collator("blockwise", torch.float32, full_share=0.25)

    def full(row: Row) -> bool:
        return bool(collate([row])["attention_mask"][0, 0, 5, 2] == 0)

    drawn = [full(row) for row in rows]
    assert 25 <= sum(drawn) <= 75
    assert drawn == [full(row) for row in rows]
    assert not any(bool(Collator("blockwise", torch.float32)([row])["attention_mask"][0, 0, 5, 2] == 0) for row in rows)


def test_the_full_context_is_plainly_causal() -> None:
    context = len(ROW.context_ids)
    assert allowed(lay_out(ROW), "full")[:context, :context].equal(torch.ones(context, context).tril().bool())


def test_each_branch_continues_the_positions_of_the_context() -> None:
    assert lay_out(ROW).position.tolist() == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 7, 8]


def test_a_completion_is_predicted_from_its_own_prompt() -> None:
    # Branch 1 from its tail's end; branch 2 has no tail: from the context's end.
    assert losses(ROW) == ([8, 9, 6, 11], [22, 23, 30, 31])


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
