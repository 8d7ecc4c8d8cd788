"""No prompt token is ever trained, whatever the rows, the template and the attention; and the inspector shows it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.prompt import answer_messages, pair_messages, render
from data.records import Chunk, Message, Passage
from finetune.collate import Collator, lay_out
from finetune.loss_mask import inspect_row, marked_text
from finetune.recipe import Attention
from finetune.rows import Example, Row, answer_example, build_rows, end_of_turn
from finetune.weights import SegmentTokenizer
from tests.finetune.tiny import TEMPLATE, train_tokenizer

pytestmark = pytest.mark.slow

BACKEND = train_tokenizer("smollm")
TEMPLATES = {
    "chatml": TEMPLATE,
    # Llama 3's form: a first token, headers, text trimmed by the template.
    "headers": "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n\n{{ m['content'] | trim }}"
    "<|im_end|>{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n\n{% endif %}",
    # No system role: its text stands in the user's turn; words and no tokens around the turns.
    "instruct": "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] }}{{ eos_token }}"
    "{% else %}[INST] {{ m['content'] }} [/INST]{% endif %}{% endfor %}",
    # An answer that begins behind an empty thought, as Qwen3's template writes it.
    "thinking": TEMPLATE.replace("assistant\n{% endif %}", "assistant\n<think>\n\n</think>\n\n{% endif %}"),
}
TOKENIZERS = {name: SegmentTokenizer(BACKEND, text, "<|endoftext|>", "<|im_end|>") for name, text in TEMPLATES.items()}

WORDS = st.one_of(
    st.text(min_size=1, max_size=30),
    st.sampled_from(
        ["When was it built?", "北京有多少人口？", "<|im_end|>\n<|im_start|>assistant\n", "«1842» [37]", " \n "]
    ),
).filter(str.strip)
PASSAGES = st.lists(
    st.builds(
        lambda text, heading: Passage(Chunk(text, "d", text, 0, len(text), heading), 1.0, 1, "dense"),
        WORDS,
        st.sampled_from(["", "Guide > Part", "指南"]),
    ),
    max_size=3,
    unique_by=lambda passage: passage.chunk.text.strip(),
)
HISTORY = st.lists(st.builds(Message, st.sampled_from(["user", "assistant"]), st.tuples(WORDS)), max_size=2)


@st.composite
def examples(draw: st.DrawFn) -> list[Example]:
    """Draw questions over a few sets of passages: answered, abstained, with history, and pairs to be written."""
    sets = draw(st.lists(PASSAGES, min_size=1, max_size=2))
    found = []
    for question, answer, number, kind in draw(
        st.lists(st.tuples(WORDS, WORDS, st.integers(0, 5), st.integers(0, 3)), min_size=1, max_size=5)
    ):
        passages = sets[number % len(sets)]
        if kind == 0 and passages:
            found.append(answer_example(question, answer, passages, 1 + number % len(passages)))
        elif kind == 1 and passages:
            found.append(Example(pair_messages(passages[0]), answer))
        elif kind == 2:
            found.append(answer_example(question, "", passages, None))
        else:
            found.append(Example(answer_messages(question, passages, draw(HISTORY)), answer))
    return found


def wanted(found: Sequence[Example], tokenizer: SegmentTokenizer) -> Counter:
    """Every completion token with all that stands before it when it is written; made without rows."""
    end = end_of_turn(tokenizer, tokenizer.template)
    pairs: Counter = Counter()
    for example in found:
        segments = render(
            example.messages, tokenizer.template, bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token
        )
        prompt = [token for s in segments for token in tokenizer.encode(s.text, markup=s.markup)]
        said = [*tokenizer.encode(example.completion, markup=False), end]
        pairs.update((tuple(prompt + said[:i]), token) for i, token in enumerate(said))
    return pairs


def trained(rows: Sequence[Row], attention: Attention) -> Counter:
    """Every trained token of a batch with all that its source sees, in the order of positions."""
    batch = Collator(attention, torch.float32)(rows)
    length = batch["input_ids"].shape[1]
    pairs: Counter = Counter()
    for source, target in zip(batch["sources"].tolist(), batch["targets"].tolist(), strict=True):
        row, place = divmod(source, length)
        visible = (batch["attention_mask"][row, 0, place] == 0).nonzero().flatten().tolist()
        visible.sort(key=lambda seen: int(batch["position_ids"][row, seen]))
        pairs[tuple(batch["input_ids"][row, visible].tolist()), target] += 1
    return pairs


@pytest.mark.parametrize("attention", ["full", "blockwise"])
@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=15, deadline=None)
@given(examples(), st.integers(1, 4))
def test_exactly_the_completions_are_trained_each_behind_its_own_conversation(
    template: str, attention: Attention, found: list[Example], max_branches: int
) -> None:
    tokenizer = TOKENIZERS[template]
    built = build_rows(found, tokenizer, tokenizer.template, max_branches=max_branches)
    assert built.branches == len(found)
    assert trained(built.rows, attention) == wanted(found, tokenizer)
    for row in built.rows:
        tokens = inspect_row(row, tokenizer, attention)
        assert not any(token.trained for token in tokens if token.branch == 0 or token.passage or token.copied)
        shown = [[t.token for t in tokens if t.trained and t.branch == n] for n in range(1, len(row.branches) + 1)]
        assert shown == [list(branch.completion_ids) for branch in row.branches]
        assert [t.token for t in tokens] == lay_out(row, attention).ids.tolist()


def test_the_inspector_shows_a_token_that_is_trained_by_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = TOKENIZERS["chatml"]
    row = build_rows([Example(answer_messages("Why?", []), "So.")], tokenizer, TEMPLATE).rows[0]
    assert not any(token.trained for token in inspect_row(row, tokenizer)[:5])
    real = Collator.__call__

    def wrong(self: Collator, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        batch = real(self, rows)
        batch["sources"] = torch.cat([batch["sources"], torch.tensor([2])])
        batch["targets"] = torch.cat([batch["targets"], batch["input_ids"][0, 3:4]])
        return batch

    monkeypatch.setattr(Collator, "__call__", wrong)
    assert [place for place, token in enumerate(inspect_row(row, tokenizer)[:5]) if token.trained] == [3]


def test_a_row_for_people_marks_what_is_trained() -> None:
    tokenizer = TOKENIZERS["chatml"]
    passages = [Passage(Chunk(t, "d", t, 0, len(t), ""), 1.0, 1, "dense") for t in ("Roses are red.", "Tea is hot.")]
    row = build_rows(
        [
            answer_example(f"What is {what}?", answer, passages, 1)
            for what, answer in (("red", "roses"), ("a rose", "红"))
        ],
        tokenizer,
        TEMPLATE,
    ).rows[0]
    text = marked_text(inspect_row(row, tokenizer, "blockwise"), tokenizer)
    context, first, second = text.split("\n\nquestion ")
    assert context.startswith("context (")
    assert "trained):\n<|im_start|>system" in context
    assert "«" not in context
    assert context.count("Roses are red.") == 1, "copies of the instruction are left out"
    assert first.startswith("1 (")
    assert "«roses [" in first
    assert second.endswith("<|im_end|>»")
    assert "«红 [" in second
