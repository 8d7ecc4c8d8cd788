"""Rows hold exactly the tokens that serving sees, train completions only, and lose nothing silently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from data.errors import InvalidModel, InvalidRequest
from data.prompt import ABSTENTION, answer_messages, pair_messages, passage_labels, render
from data.records import Chunk, Message, Passage
from finetune.rows import Example, Row, answer_example, build_rows, end_of_turn
from tests.finetune.tiny import TEMPLATE, train_tokenizer


@dataclass
class Backend:
    tokenizer: Tokenizer
    bos_token: str = ""
    eos_token: str = "<|im_end|>"

    def encode(self, text: str, *, markup: bool) -> list[int]:
        self.tokenizer.encode_special_tokens = not markup
        return list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=False))


BACKEND = Backend(train_tokenizer("smollm"))


def passage(text: str, heading: str = "Guide > Part") -> Passage:
    return Passage(Chunk(text, "doc", text, 0, len(text), heading), 1.0, 1, "dense", "guide.md", "Guide")


PASSAGES = [
    passage("Roses are red in 1994."),
    passage("紫罗兰是蓝色的。", "指南"),
    passage("Sugar is sweet <|im_end|> so."),
]
LABELS = passage_labels(PASSAGES)


def served(example: Example) -> list[int]:
    """What the engine decodes: the prompt's segments one by one, then the completion and the turn's end."""
    segments = render(example.messages, TEMPLATE, eos_token="<|im_end|>")
    ids = [token for segment in segments for token in BACKEND.encode(segment.text, markup=segment.markup)]
    return [*ids, *BACKEND.encode(example.completion, markup=False), 2]


def unpacked(row: Row) -> list[list[int]]:
    return [[*row.context_ids, *branch.tail_ids, *branch.completion_ids] for branch in row.branches]


def questions(count: int, passages: Sequence[Passage] = PASSAGES) -> list[Example]:
    return [answer_example(f"What is number {i}?", f"answer {i}", passages, 1) for i in range(count)]


def test_a_branch_behind_its_context_is_what_the_engine_sees() -> None:
    examples = [*questions(4), answer_example("玫瑰是什么颜色？", "红色", PASSAGES, 1), *questions(2, PASSAGES[:1])]
    built = build_rows(examples, BACKEND, TEMPLATE)
    assert sorted(ids for row in built.rows for ids in unpacked(row)) == sorted(map(served, examples))


def test_questions_over_the_same_passages_share_one_row() -> None:
    built = build_rows([*questions(3), *questions(2, PASSAGES[::-1])], BACKEND, TEMPLATE)
    assert [len(row.branches) for row in built.rows] == [3, 2]
    shared = BACKEND.decode(built.rows[0].context_ids)
    assert "Roses are red in 1994." in shared
    assert "What is number" not in shared


def test_only_completions_and_their_end_are_trained() -> None:
    row = build_rows(questions(2), BACKEND, TEMPLATE).rows[0]
    trained = [BACKEND.decode(branch.completion_ids) for branch in row.branches]
    assert trained == [f"answer {i} [{LABELS[0]}]<|im_end|>" for i in range(2)]
    assert row.trained_tokens == sum(len(branch.completion_ids) for branch in row.branches)


def test_markup_in_a_passage_never_becomes_a_special_token() -> None:
    row = build_rows(questions(1), BACKEND, TEMPLATE).rows[0]
    # system and user turn end; the third "<|im_end|>" is text of a passage.
    assert (*row.context_ids, *row.branches[0].tail_ids).count(2) == 2
    assert BACKEND.decode(row.context_ids).count("<|im_end|>") == 3


def test_completions_of_one_prompt_share_all_of_it() -> None:
    messages = pair_messages(PASSAGES[0])
    row = build_rows([Example(messages, f'{{"question": "q{i}"}}') for i in range(3)], BACKEND, TEMPLATE).rows[0]
    assert [branch.tail_ids for branch in row.branches] == [(), (), ()]
    assert BACKEND.decode(row.context_ids).endswith("<|im_start|>assistant\n")


def test_group_keys_keep_examples_apart() -> None:
    messages = pair_messages(PASSAGES[0])
    built = build_rows([Example(messages, "a", "one"), Example(messages, "b", "two")], BACKEND, TEMPLATE)
    assert len(built.rows) == 2


def test_examples_of_one_key_that_differ_early_share_what_they_have_in_common() -> None:
    examples = [Example(answer_messages("Why?", [p]), "x", "same") for p in PASSAGES[:2]]
    built = build_rows(examples, BACKEND, TEMPLATE)
    assert sorted(unpacked(built.rows[0])) == sorted(map(served, examples))


def test_max_branches_splits_a_group() -> None:
    built = build_rows(questions(7), BACKEND, TEMPLATE, max_branches=3)
    assert [len(row.branches) for row in built.rows] == [3, 3, 1]
    assert len({row.context_ids for row in built.rows}) == 1


def test_a_long_group_is_split_and_an_example_that_never_fits_is_counted() -> None:
    examples = [*questions(4), answer_example("Why? " * 200, "x", PASSAGES, 1), Example(examples_end(), " ")]
    longest = max(len(served(example)) for example in examples[:4])
    built = build_rows(examples, BACKEND, TEMPLATE, max_length=longest + 3)
    assert [len(row.branches) for row in built.rows] == [1, 1, 1, 1]
    assert all(len(row) <= longest + 3 for row in built.rows)
    assert built.refused == {"too_long": 1, "empty_completion": 1}
    assert sorted(ids for row in built.rows for ids in unpacked(row)) == sorted(map(served, examples[:4]))


def examples_end() -> tuple[Message, ...]:
    return answer_messages("And?", PASSAGES)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.text(min_size=1, max_size=40), st.text(max_size=60), st.integers(0, 2)), max_size=12),
    st.integers(40, 400),
    st.integers(1, 4),
)
def test_every_example_is_in_a_row_whole_or_counted(
    drawn: list[tuple[str, str, int]], max_length: int, max_branches: int
) -> None:
    examples = [Example(answer_messages(q, PASSAGES[:n]), a) for q, a, n in drawn]
    built = build_rows(examples, BACKEND, TEMPLATE, max_length=max_length, max_branches=max_branches)
    assert built.branches + sum(built.refused.values()) == len(examples)
    wanted = sorted(map(served, examples))
    for ids in (ids for row in built.rows for ids in unpacked(row)):
        wanted.remove(ids)
    assert all(len(row) <= max_length and len(row.branches) <= max_branches for row in built.rows)


def test_passages_are_numbered_and_begin_with_their_labels() -> None:
    row = build_rows(questions(2), BACKEND, TEMPLATE).rows[0]
    for number, text in enumerate(["Guide > Part\nRoses are red in 1994.\n\n", "指南\n紫罗兰是蓝色的。\n\n"], 1):
        ids = [token for token, owner in zip(row.context_ids, row.passages, strict=True) if owner == number]
        assert BACKEND.decode(ids) == f"[{LABELS[number - 1]}]\n{text}"
    free = BACKEND.decode([t for t, owner in zip(row.context_ids, row.passages, strict=True) if owner == 0])
    assert free.endswith("user\n")


def test_a_missing_evidence_trains_the_abstention_in_the_language_of_the_question() -> None:
    assert answer_example("Who?", "ignored", PASSAGES, None).completion == ABSTENTION["en"]
    assert answer_example("谁写的这本书？", "", PASSAGES, None).completion == ABSTENTION["zh"]
    assert answer_example("Who?", "me", [], None).completion == "me"
    assert answer_example("Who?", "me", PASSAGES, 2).completion == f"me [{LABELS[1]}]"


@pytest.mark.parametrize(("answer", "gold"), [("x", 0), ("x", 4), ("  ", 1)])
def test_an_impossible_gold_passage_or_answer_is_refused(answer: str, gold: int) -> None:
    with pytest.raises(InvalidRequest):
        answer_example("Who?", answer, PASSAGES, gold)


def test_the_end_of_a_turn_is_the_token_after_an_assistants_message() -> None:
    assert end_of_turn(BACKEND, TEMPLATE) == 2
    # A template that ends no turn falls back on the end token.
    bare = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert end_of_turn(BACKEND, bare) == 2
    with pytest.raises(InvalidModel):
        end_of_turn(Backend(BACKEND.tokenizer, eos_token=""), bare)


def test_the_fingerprint_follows_every_token() -> None:
    one = build_rows(questions(3), BACKEND, TEMPLATE)
    assert one.sha256 == build_rows(questions(3), BACKEND, TEMPLATE).sha256
    other = [*questions(2), answer_example("What is number 2?", "answer 3", PASSAGES, 1)]
    assert one.sha256 != build_rows(other, BACKEND, TEMPLATE).sha256
