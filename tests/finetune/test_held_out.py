"""The held-out loss: measured, never trained on, and what stops a run that gets worse."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data.errors import JobCancelled
from data.records import Progress
from finetune import lora
from finetune.collate import Collator
from finetune.held_out import HeldOut
from finetune.kernels import TREE_ATTENTION
from finetune.rows import RowSet
from finetune.train import train
from finetune.train_log import read_log
from finetune.weights import load_model
from tests.finetune.houses import QUICK, ignore, named, rows_for
from tests.finetune.tiny import save_model

pytestmark = pytest.mark.slow
OFTEN = replace(QUICK, eval_steps=2)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("tiny"), "llama", max_position_embeddings=512)


@pytest.fixture(scope="module")
def split(tiny: Path) -> tuple[RowSet, RowSet]:
    """Two rows to train on, and one about other houses."""
    rows = rows_for(tiny).rows
    return RowSet(rows[:2]), RowSet(rows[2:])


def stop_at(step: int):
    def report(progress: Progress) -> None:
        if progress.stage == "train" and progress.done == step:
            raise JobCancelled("stop")

    return report


def loss_of(folder: Path, tiny: Path, rows: RowSet) -> float:
    base = load_model(tiny, device=torch.device("cpu"), dtype=torch.float32, attention=TREE_ATTENTION)
    collate = Collator("full", torch.float32)
    held_out = HeldOut(rows.rows, collate, every=1, patience=0, best=folder / "none", measured={})
    return held_out.measure(lora.load_adapter(base, folder), 0)


def test_it_is_logged_reported_and_kept_with_the_adapter(
    tiny: Path, split: tuple[RowSet, RowSet], tmp_path: Path
) -> None:
    rows, held_out = split
    seen: list[Progress] = []
    metrics = train(OFTEN, rows, named(tiny), tmp_path / "with", seen.append, held_out=held_out).metrics
    lines = [line for line in read_log(tmp_path / "with" / "train_log.jsonl") if "eval_loss" in line]
    assert [line["step"] for line in lines] == [0, 2, 4, 6, 8]
    losses = [line["eval_loss"] for line in lines]
    assert (metrics["eval_loss_first"], metrics["eval_loss_last"]) == (losses[0], losses[-1])
    assert metrics["eval_loss_best"] == min(losses)
    assert metrics["steps"] == 8
    assert seen[-1].metrics["eval_loss"] == losses[-2]
    assert loss_of(tmp_path / "with", tiny, held_out) == pytest.approx(losses[-1], rel=1e-2)
    without = train(OFTEN, rows, named(tiny), tmp_path / "without", ignore).metrics
    assert metrics["loss_last"] == pytest.approx(without["loss_last"], rel=1e-4), "it is measured, not trained on"


def test_a_run_that_gets_worse_stops_and_takes_the_best_adapter(
    tiny: Path, split: tuple[RowSet, RowSet], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # bfloat16 and the float32 of the check below lie further apart than the best loss and the last.
    monkeypatch.setattr("finetune.train.training_dtype", lambda _device: torch.float32)
    rows, held_out = split
    wild = replace(OFTEN, learning_rate=0.3, lr_scheduler_type="constant", num_train_epochs=20, eval_steps=1)
    patient = replace(wild, early_stopping_patience=3)
    result = train(patient, rows, named(tiny), tmp_path / "whole", ignore, held_out=held_out)
    best = int(result.metrics["eval_best_step"])
    assert result.metrics["steps"] == best + 3 < 40
    assert loss_of(tmp_path / "whole", tiny, held_out) == pytest.approx(result.metrics["eval_loss_best"], rel=2e-2)
    assert result.metrics["eval_loss_last"] > result.metrics["eval_loss_best"]
    short = replace(patient, save_steps=1)
    with pytest.raises(JobCancelled):
        train(short, rows, named(tiny), tmp_path / "stopped", stop_at(best + 2), held_out=held_out)
    again = train(short, rows, named(tiny), tmp_path / "stopped", ignore, held_out=held_out)
    assert again.metrics["resumed_from"] == best + 1
    for name in ("steps", "eval_best_step"):
        assert again.metrics[name] == result.metrics[name], "a stop in between changes nothing"
    assert again.metrics["eval_loss_best"] == pytest.approx(result.metrics["eval_loss_best"], rel=1e-3)
