"""A few questions about houses, and a quick recipe: what training tests train on."""

from __future__ import annotations

from pathlib import Path

from data.records import Chunk, Model, Passage, Progress
from finetune.recipe import Recipe
from finetune.rows import Example, RowSet, answer_example, build_rows

FACTS = [("Anna", "red"), ("Ben", "blue"), ("Cleo", "green"), ("Dan", "grey"), ("Eve", "pink"), ("Fay", "brown")]

QUICK = Recipe(
    learning_rate=1e-2,
    num_train_epochs=4,
    gradient_accumulation_steps=1,
    warmup_steps=1,
    save_steps=3,
    r=4,
    lora_alpha=8,
)


def examples(group_size: int = 2) -> list[Example]:
    found = []
    for start in range(0, len(FACTS), group_size):
        group = FACTS[start : start + group_size]
        texts = [f"The house of {name} is {colour}." for name, colour in group]
        passages = [Passage(Chunk(t, "d", t, 0, len(t), "Houses"), 1.0, i, "dense") for i, t in enumerate(texts, 1)]
        for number, (name, colour) in enumerate(group, 1):
            found.append(answer_example(f"Which colour is {name}'s house?", colour, passages, number))
    return found


def rows_for(folder: Path | str, group_size: int = 2) -> RowSet:
    from finetune.weights import load_tokenizer  # imports torch

    tokenizer = load_tokenizer(folder)
    return build_rows(examples(group_size), tokenizer, tokenizer.template)


def named(folder: Path | str) -> Model:
    return Model("tiny", str(folder), "", str(folder), "sha", "llama")


def ignore(_progress: Progress) -> None:
    pass
