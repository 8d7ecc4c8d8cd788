"""The forgetting probe sees what is lost, and only that."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from data.errors import InvalidRequest
from data.protocols import TokenScores
from data.records import Message
from finetune.probe import GENERAL, MAX_DROP, ItemScore, ProbeItem, forgetting, load_items, probe

END, ABSTAIN, VOCAB = 0, 1, 300


def knows(item: ProbeItem, sureness: float, abstention: float = 0.0):
    """Return a scorer whose model prefers the right completion of ``item`` by ``sureness``."""

    def score(messages: tuple[Message, ...], completion: str) -> TokenScores:
        assert messages == (Message("user", (item.question,)),)
        ids = (*(2 + ord(letter) % 250 for letter in completion), END)
        logits = np.zeros((len(ids), VOCAB), np.float32)
        logits[:, ABSTAIN] = abstention
        if completion == item.right:
            logits[0, ids[0]] = sureness
        return TokenScores((7,), ids, logits)

    return score


ITEM = ProbeItem("en-1", "en", "Capital of France?", "Paris", ("Oslo!", "Vilna"))


def test_the_right_completion_is_weighed_against_the_wrong_ones() -> None:
    (sure,) = probe([ITEM], knows(ITEM, 3.0))
    (unsure,) = probe([ITEM], knows(ITEM, 0.0))
    assert (sure.correct, unsure.correct) == (True, False)
    assert (sure.tokens, unsure.choice) == (5, pytest.approx(1 / 3))
    # Against alternatives that share all else, e^3 : 1 : 1, whatever the vocabulary. The normalizer differs a little.
    assert sure.choice == pytest.approx(np.exp(3) / (np.exp(3) + 2), abs=0.02)
    assert sure.right > unsure.right


def test_to_learn_to_abstain_is_not_to_forget() -> None:
    before, after = probe([ITEM] * 2, knows(ITEM, 3.0)), probe([ITEM] * 2, knows(ITEM, 3.0, abstention=9.0))
    found = forgetting([ITEM] * 2, before, after)
    assert found["nats_per_token"]["after"] > found["nats_per_token"]["before"] + 1
    assert found["drop"] < MAX_DROP
    assert found["passed"]


def scores(choices: np.ndarray) -> list[ItemScore]:
    return [ItemScore(float(choice), -4.0, 2, choice > 0.5) for choice in choices]


def items(count: int) -> list[ProbeItem]:
    return [ProbeItem(f"{n}", "zh" if n % 2 else "en", "?", "a", ("b",)) for n in range(count)]


def test_a_loss_beyond_the_margin_fails_and_noise_does_not() -> None:
    random = np.random.default_rng(3)
    before = random.uniform(0.3, 0.9, 80)
    noise = random.normal(0, 0.1, 80)
    same = forgetting(items(80), scores(before), scores(before + noise - noise.mean()))
    assert same["passed"]
    assert same["ci"][0] < same["drop"] < same["ci"][1]
    lost = forgetting(items(80), scores(before), scores(before - 0.2 + noise))
    assert not lost["passed"]
    assert lost["drop"] == pytest.approx(0.2 - noise.mean())
    assert lost["ci"][0] > MAX_DROP
    assert lost["accuracy"]["after"] < lost["accuracy"]["before"]
    assert set(lost["by_language"]) == {"en", "zh"}
    assert lost["nats_per_token"] == {"before": 2.0, "after": 2.0}
    assert not forgetting(items(80), scores(before), scores(np.full(80, np.nan)))["passed"]
    unclear = forgetting(items(80), scores(before), scores(before - noise.mean() + 6 * (noise - noise.mean())))
    assert unclear["drop"] < MAX_DROP < unclear["ci"][1]
    assert not unclear["passed"], "not shown to keep what it knew"


def test_scores_of_other_items_are_refused() -> None:
    with pytest.raises(InvalidRequest):
        forgetting(items(3), scores(np.zeros(3)), scores(np.zeros(2)))


def test_the_committed_questions_are_forty_in_each_language_and_no_two_alike() -> None:
    found = load_items()
    assert [sum(item.language == language for item in found) for language in ("en", "zh")] == [40, 40]
    assert len({item.id for item in found}) == len({item.question for item in found}) == 80
    for item in found:
        assert len({item.right, *item.wrong}) == 3, item
        assert not any(text in item.question for text in (item.right, *item.wrong) if len(text) > 2), item


@pytest.mark.parametrize("line", ["{", "[]", '{"id": "a"}', json.dumps({"id": 1, "wrong": []})])
def test_bad_questions_are_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "general.jsonl"
    path.write_text(GENERAL.read_text(encoding="utf-8") + line, encoding="utf-8")
    with pytest.raises(InvalidRequest, match="cannot be read"):
        load_items(path)
    with pytest.raises(InvalidRequest):
        load_items(tmp_path / "none.jsonl")
