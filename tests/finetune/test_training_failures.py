"""A training that goes wrong says so, and leaves what was good: no numbers, no memory, no disk."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data.errors import InsufficientMemory, InsufficientStorage, RecipeInvalid, TrainingDiverged
from data.records import Progress
from finetune import trainer as trainer_module
from finetune.memory import smaller
from finetune.recipe import Recipe
from finetune.train import train
from finetune.train_log import read_log
from tests.finetune.houses import QUICK, ignore, named, rows_for
from tests.finetune.tiny import save_model

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("tiny"), "llama", max_position_embeddings=512)


def when(calls: Callable[[int, Any], bool], instead: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """Stand in for ``trained_logits``: its result goes through ``instead`` where ``calls`` says so."""
    real, count = trainer_module.trained_logits, 0

    def logits(model: Any, inputs: Any) -> torch.Tensor:
        nonlocal count
        count += 1
        found = real(model, inputs)
        return instead(found) if calls(count, inputs) else found

    return logits


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_last_good_adapter(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(QUICK, save_steps=2)
    broken = when(lambda count, _: count == 7, lambda logits: logits * float("nan"))
    with monkeypatch.context() as patched:
        patched.setattr(trainer_module, "trained_logits", broken)
        with pytest.raises(TrainingDiverged, match="loss is infinite or no number in step 7") as caught:
            train(recipe, rows_for(tiny), named(tiny), tmp_path, ignore)
    assert "Lower learning_rate" in caught.value.hint
    assert str(tmp_path / "last_good") in caught.value.hint
    assert not (tmp_path / "adapter_model.safetensors").exists()
    # The checkpoint of step 6 is the one whose loss was no number: that of step 4 is kept, and goes on.
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-4"]
    kept = load_file(tmp_path / "last_good" / "adapter_model.safetensors")
    assert all(tensor.isfinite().all() for tensor in kept.values())
    more = replace(recipe, init_adapter=str(tmp_path / "last_good"), learning_rate=1e-3)
    assert train(more, rows_for(tiny), named(tiny), tmp_path, ignore).metrics["steps"] == 12
    assert not (tmp_path / "last_good").exists()


def test_a_gradient_that_is_no_number_changes_no_weight(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poison(logits: torch.Tensor) -> torch.Tensor:
        logits.register_hook(lambda gradient: gradient * float("inf"))
        return logits

    monkeypatch.setattr(trainer_module, "trained_logits", when(lambda count, _: count == 5, poison))
    with pytest.raises(TrainingDiverged, match="gradient"):
        train(replace(QUICK, save_steps=2), rows_for(tiny), named(tiny), tmp_path, ignore)
    assert (tmp_path / "checkpoints" / "checkpoint-4").is_dir()


def allocate_too_much(_logits: torch.Tensor) -> torch.Tensor:
    return torch.empty(2**58)  # torch's own error


def test_out_of_memory_goes_on_with_fewer_rows_from_the_newest_checkpoint(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = replace(QUICK, per_device_train_batch_size=2, num_train_epochs=8, save_steps=1)
    rows = rows_for(tiny)
    whole = train(recipe, rows, named(tiny), tmp_path / "whole", ignore)
    crowded = when(lambda count, inputs: count > 6 and len(inputs["input_ids"]) > 1, allocate_too_much)
    monkeypatch.setattr(trainer_module, "trained_logits", crowded)
    seen: list[Progress] = []
    result = train(recipe, rows, named(tiny), tmp_path / "small", seen.append)
    (said,) = [progress for progress in seen if progress.stage == "out of memory"]
    assert said.metrics == {"now": "1 row per pass"}
    assert said.done > 0, "it went on from a checkpoint"
    assert {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2}.items() <= result.metrics.items()
    assert seen[-1].metrics["out_of_memory"] == "1 row per pass"
    logs = [read_log(Path(done.files["log"])) for done in (whole, result)]
    assert [line["step"] for line in logs[0]] == [line["step"] for line in logs[1]]
    assert [line["loss"] for line in logs[0]] == pytest.approx([line["loss"] for line in logs[1]], rel=2e-2)
    assert Recipe.load(result.files["recipe"]) == recipe, "the recipe is what was asked for"


def test_memory_that_never_suffices_is_an_error(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer_module, "trained_logits", when(lambda *_: True, allocate_too_much))
    seen: list[Progress] = []
    with pytest.raises(InsufficientMemory, match="does not fit into memory") as caught:
        train(QUICK, rows_for(tiny), named(tiny), tmp_path, seen.append)
    assert "1 row per pass, activations recomputed" in str(caught.value.got)
    assert [p.metrics["now"] for p in seen if p.stage == "out of memory"] == ["1 row per pass, activations recomputed"]


def test_pieces_get_smaller_until_nothing_is_left() -> None:
    recipe: Recipe | None = Recipe(per_device_train_batch_size=6, gradient_accumulation_steps=2)
    sizes = []
    while recipe is not None:
        step_rows = recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps
        sizes.append((recipe.per_device_train_batch_size, step_rows, recipe.gradient_checkpointing))
        recipe = smaller(recipe)
    assert sizes == [(6, 12, False), (3, 12, False), (1, 12, False), (1, 12, True)]


def test_a_full_disk_leaves_the_checkpoint_before(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, written = torch.save, 0

    def save(what: Any, where: Any, **settings: Any) -> None:
        nonlocal written
        written += str(where).endswith("optimizer.pt")
        # The device that is always full: torch's error is the real one.
        real(what, "/dev/full" if written == 2 else where, **settings)

    with monkeypatch.context() as patched:
        patched.setattr(torch, "save", save)
        with pytest.raises(InsufficientStorage, match="could not be written"):
            train(QUICK, rows_for(tiny), named(tiny), tmp_path, ignore)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["checkpoint-3"]
    assert train(QUICK, rows_for(tiny), named(tiny), tmp_path, ignore).metrics["resumed_from"] == 3


def test_early_stopping_without_held_out_rows_is_refused(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeInvalid, match="held-out"):
        train(replace(QUICK, early_stopping_patience=2), rows_for(tiny), named(tiny), tmp_path, ignore)
