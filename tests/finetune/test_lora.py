"""What is saved is what was trained: PiSSA's changed base is taken out of the adapter, LoRA+ has two rates."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from data.errors import BaseModelMismatch, InvalidModel, RecipeInvalid
from finetune import lora
from finetune.convert import hf_to_gguf
from finetune.export import lora_to_gguf
from finetune.merge import merge_dora_to_gguf, merge_to_gguf
from finetune.recipe import Recipe
from finetune.weights import load_model
from tests.finetune.tiny import save_model

pytestmark = pytest.mark.slow
RECIPE = Recipe(r=4, lora_alpha=12)
IDS = torch.tensor([[5, 90, 17, 200, 41, 8, 300, 77]])


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("tiny"), "llama")


def base(folder: Path) -> Any:
    return load_model(folder, device=torch.device("cpu"), dtype=torch.float32)


def logits(model: Any) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.eval()(IDS).logits[0]
    return found


def off(found: torch.Tensor, wanted: torch.Tensor, bare: torch.Tensor) -> float:
    """How far logits are off, as a share of what the adapter changes."""
    return float((found - wanted).abs().max() / (wanted - bare).abs().max())


def trained(folder: Path, recipe: Recipe) -> Any:
    """Attach a LoRA and move its weights as training would."""
    adapted = lora.attach(base(folder), recipe)
    torch.manual_seed(3)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return adapted


@pytest.mark.parametrize("use_rslora", [False, True], ids=["lora", "rslora"])
def test_pissa_starts_as_the_base_and_is_saved_as_an_ordinary_lora(
    use_rslora: bool, tiny: Path, tmp_path: Path
) -> None:
    recipe = replace(RECIPE, init_lora_weights="pissa", use_rslora=use_rslora)
    bare = logits(base(tiny))
    assert torch.allclose(logits(lora.attach(base(tiny), recipe)), bare, atol=1e-3), "W_res + B0 A0 is W"
    adapted = trained(tiny, recipe)
    before = logits(adapted)
    assert (before - bare).abs().max() > 1
    lora.save(adapted, tmp_path, "starter")
    ordinary = lora.load_adapter(base(tiny), tmp_path)
    assert off(logits(ordinary), before, bare) < 0.02, "float16 is all that lies between them"
    shapes = {
        tensor.shape[0] for name, tensor in load_file(tmp_path / "adapter_model.safetensors").items() if "_A" in name
    }
    assert shapes == {2 * recipe.r}


def test_pissa_and_rslora_answer_in_llama_cpp_as_they_were_trained(tiny: Path, tmp_path: Path) -> None:
    from tests.finetune.served import llama

    gguf = hf_to_gguf(tiny, tmp_path / "base.gguf", "f32")
    for name, change in (("pissa", {"init_lora_weights": "pissa"}), ("rslora", {"use_rslora": True})):
        adapted = trained(tiny, replace(RECIPE, **change))
        lora.save(adapted, tmp_path / name, "starter")
        adapter = lora_to_gguf(tmp_path / name, gguf, tmp_path / f"{name}.gguf")
        with llama(gguf, adapter) as served:
            found = torch.tensor(served.logits(IDS[0].tolist()))
            assert off(found, logits(adapted), logits(base(tiny))) < 0.02


@pytest.mark.parametrize("change", [{"use_dora": True}, {"init_lora_weights": "pissa"}, {"use_rslora": True}], ids=str)
def test_merged_it_answers_in_llama_cpp_as_it_was_trained(tiny: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    from tests.finetune.served import llama

    gguf = hf_to_gguf(tiny, tmp_path / "base.gguf", "f32")
    adapted = trained(tiny, replace(RECIPE, **change))
    lora.save(adapted, tmp_path / "adapter", "starter")
    if "use_dora" in change:
        merged = merge_dora_to_gguf(tmp_path / "adapter", gguf, tmp_path / "merged.gguf", "f32")
    else:
        adapter = lora_to_gguf(tmp_path / "adapter", gguf, tmp_path / "adapter.gguf")
        merged = merge_to_gguf(adapter, gguf, tmp_path / "merged.gguf", "f32")
    with llama(merged) as served:
        found = torch.tensor(served.logits(IDS[0].tolist()))
    assert off(found, logits(adapted), logits(base(tiny))) < 0.02, "the adapter's file has 16 bits"


def test_an_rslora_is_continued_where_it_stopped(tiny: Path, tmp_path: Path) -> None:
    recipe = replace(RECIPE, use_rslora=True)
    adapted = trained(tiny, recipe)
    lora.save(adapted, tmp_path, "starter")
    again = lora.attach(base(tiny), replace(recipe, init_adapter=str(tmp_path)))
    assert off(logits(again), logits(adapted), logits(base(tiny))) < 0.02
    with pytest.raises(RecipeInvalid, match="keeps its use_rslora"):
        lora.attach(base(tiny), replace(RECIPE, init_adapter=str(tmp_path)))


def test_with_lora_plus_b_learns_faster_than_a(tiny: Path) -> None:
    adapted = lora.attach(base(tiny), RECIPE)
    optimizer = lora.loraplus_optimizer(adapted, torch.optim.AdamW, {"lr": 1e-3}, 8.0, 0.1)
    names = {id(parameter): name for name, parameter in adapted.named_parameters()}
    rates = {names[id(p)][-16:-15]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates == pytest.approx({"A": 1e-3, "B": 8e-3})
    assert {group["weight_decay"] for group in optimizer.param_groups if group["params"]} == {0.1}


@pytest.mark.parametrize("other", [{"use_dora": True}, {"qlora": True}, {"init_adapter": "somewhere"}])
def test_pissa_excludes_what_has_no_weights_of_its_own_to_start_from(other: dict[str, Any]) -> None:
    with pytest.raises(RecipeInvalid, match=next(iter(other))):
        Recipe(init_lora_weights="pissa", **other)


@pytest.mark.filterwarnings("ignore:Unexpected keyword arguments:UserWarning")
def test_a_configuration_from_elsewhere_is_used_or_refused_and_its_expressions_are_not(
    tmp_path: Path, tiny: Path
) -> None:
    saved = tmp_path / "adapter"
    lora.save(trained(tiny, replace(RECIPE, r=3)), saved, "tiny")
    config = json.loads((saved / "adapter_config.json").read_text())
    wanted = logits(lora.load_adapter(base(tiny), saved))

    def loaded(**changes: Any) -> Any:
        (saved / "adapter_config.json").write_text(json.dumps({**config, **changes}))
        return lora.load_adapter(base(tiny), saved)

    endless = "(([a-z]|[._0-9])+)+X"
    told = {"target_modules": endless, "exclude_modules": endless, "rank_pattern": {endless: 7}, "r": 9}
    found = loaded(**told)
    assert torch.equal(logits(found), wanted)
    for wrong in ({"lora_alpha": "x"}, {"alpha_pattern": "x"}, {"peft_type": "IA3"}):
        with pytest.raises((InvalidModel, BaseModelMismatch)):
            loaded(**wrong)
