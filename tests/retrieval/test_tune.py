from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from data.errors import InvalidRequest, JobCancelled
from retrieval import tune as module
from retrieval.tune import Contrast, TuneRecipe, tune

pytestmark = pytest.mark.slow

WORDS = [f"word{number}" for number in range(24)]
CONTRASTS = [
    Contrast(f"ask {word}", f"tell {word.upper()}", (f"tell {WORDS[place - 1].upper()}",))
    for place, word in enumerate(WORDS)
]
VOCABULARY = ["ask", "tell", "it", "A", "B", *WORDS, *(word.upper() for word in WORDS)]
RECIPE = TuneRecipe(epochs=4, batch_size=8, learning_rate=0.1)


class Bag:
    """A bag of words with a trainable direction for each of them."""

    def __init__(self) -> None:
        with torch.random.fork_rng():
            torch.manual_seed(7)
            self.below = torch.nn.Parameter(torch.randn(len(VOCABULARY), 16))
            self.top = torch.nn.Parameter(torch.eye(16))

    def named_parameters(self):
        return [("below", self.below), ("top", self.top)]

    def embed(self, texts, kind):
        rows = [[VOCABULARY.index(word) for word in text.split()] for text in texts]
        sums = torch.stack([self.below[row].mean(0) @ self.top for row in rows])
        return torch.nn.functional.normalize(sums, dim=1)


def nothing(_progress) -> None:
    pass


def found_share(model) -> float:
    """Return the share of the questions whose passage comes first among all."""
    with torch.no_grad():
        asked = model.embed([each.question for each in CONTRASTS], "query")
        told = model.embed([each.positive for each in CONTRASTS], "document")
    return float(((asked @ told.T).argmax(1) == torch.arange(len(CONTRASTS))).float().mean())


def test_questions_find_their_passages_after_tuning(tmp_path):
    model, seen = Bag(), []
    before = found_share(model)
    figures = tune(model, CONTRASTS, replace(RECIPE, epochs=16), tmp_path, seen.append, base="bag")
    assert before < 0.5
    assert found_share(model) > 0.9
    assert figures["loss_last"] < figures["loss_first"]
    assert figures["steps"] == len(seen) == 48
    assert (seen[-1].done, seen[-1].total, seen[-1].stage, seen[-1].eta_s) == (48, 48, "train", 0.0)
    assert {"loss", "epoch"} <= set(seen[-1].metrics)


def test_what_answers_too_is_no_negative(tmp_path):
    both = frozenset(("tell A", "tell B"))
    pair = [Contrast("ask", "tell A", ("tell B",), both), Contrast("ask it", "tell B", (), both)]
    figures = tune(Bag(), pair, TuneRecipe(epochs=1), tmp_path, nothing, base="bag")
    assert figures["loss_first"] == 0.0


def stop_at(step: int):
    def report(progress) -> None:
        if progress.done == step:
            raise JobCancelled("stop")

    return report


def test_a_stopped_run_goes_on_after_its_last_epoch_and_ends_alike(tmp_path):
    whole, stopped, again = Bag(), Bag(), Bag()
    tune(whole, CONTRASTS, RECIPE, tmp_path / "whole", nothing, base="bag")
    with pytest.raises(JobCancelled):
        tune(stopped, CONTRASTS, RECIPE, tmp_path / "part", stop_at(8), base="bag")
    seen = []
    figures = tune(again, CONTRASTS, RECIPE, tmp_path / "part", seen.append, base="bag")
    assert (figures["resumed_after_epoch"], seen[0].done) == (2, 7)
    assert torch.allclose(whole.below, again.below, atol=1e-6)


@pytest.mark.parametrize("changes", [{"base": "other"}, {"contrasts": CONTRASTS[:8]}, {"recipe": TuneRecipe(seed=1)}])
def test_a_checkpoint_of_another_run_is_not_taken_up(tmp_path, changes):
    given = {"contrasts": CONTRASTS, "recipe": RECIPE, "base": "bag"}
    tune(Bag(), folder=tmp_path, report=nothing, **given)
    assert tune(Bag(), folder=tmp_path, report=nothing, **given)["resumed_after_epoch"] == RECIPE.epochs
    assert tune(Bag(), folder=tmp_path, report=nothing, **{**given, **changes})["resumed_after_epoch"] == 0


def test_a_damaged_checkpoint_is_not_taken_up(tmp_path):
    (tmp_path / "checkpoint.safetensors").write_bytes(b"\0" * 64)
    assert tune(Bag(), CONTRASTS, RECIPE, tmp_path, nothing, base="bag")["resumed_after_epoch"] == 0


def test_of_a_large_model_only_the_last_weights_are_tuned(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FULL_PARAMETERS", 1000)
    monkeypatch.setattr(module, "LAST_PARAMETERS", 300)
    model = Bag()
    below, top = model.below.detach().clone(), model.top.detach().clone()
    figures = tune(model, CONTRASTS, RECIPE, tmp_path, nothing, base="bag")
    assert figures["tuned_parameters"] == 256
    assert torch.equal(below, model.below)
    assert not torch.equal(top, model.top)


def test_nothing_to_learn_from_is_refused(tmp_path):
    with pytest.raises(InvalidRequest, match="Nothing to tune on"):
        tune(Bag(), [], RECIPE, tmp_path, nothing, base="bag")
