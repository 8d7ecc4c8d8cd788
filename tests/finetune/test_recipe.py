"""A recipe survives its file, and every impossible value is refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from data.errors import RecipeInvalid
from finetune.recipe import LINEAR_LAYERS, Recipe, about_preset, preset_values, presets, recipe_values


def test_the_default_recipe_adapts_all_seven_linear_layers_at_rank_8() -> None:
    recipe = Recipe()
    assert (recipe.r, recipe.lora_alpha, recipe.target_modules) == (8, 16, LINEAR_LAYERS)


def test_a_saved_recipe_loads_equal(tmp_path: Path) -> None:
    recipe = Recipe(
        base_model='a "quoted"\\name 模型', r=4, learning_rate=1e-5, use_rslora=True, init_adapter="some/folder"
    )
    recipe.save(tmp_path / "recipe.toml")
    assert Recipe.load(tmp_path / "recipe.toml") == recipe


def test_every_field_survives_its_file(tmp_path: Path) -> None:
    recipe = Recipe(
        init_lora_weights="pissa", loraplus_lr_ratio=8.0, gradient_checkpointing=True, eval_share=0.2, eval_steps=7,
        early_stopping_patience=3,
    )  # fmt: skip
    recipe.save(tmp_path / "recipe.toml")
    assert Recipe.load(tmp_path / "recipe.toml") == recipe
    assert Recipe.from_mapping(Recipe().to_mapping()) == Recipe()


def test_fields_left_out_of_the_file_keep_their_defaults(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('r = 16\ntarget_modules = ["q_proj"]\nnum_train_epochs = 2\n')
    recipe = Recipe.load(path)
    assert recipe == Recipe(r=16, target_modules=("q_proj",), num_train_epochs=2.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("r", 0), ("r", 8.5), ("r", True), ("r", "8"), ("lora_alpha", 0), ("lora_dropout", 1.0), ("learning_rate", 0.0),
        ("learning_rate", "fast"), ("num_train_epochs", 0), ("max_steps", 0), ("per_device_train_batch_size", 0),
        ("gradient_accumulation_steps", 0), ("max_length", 3), ("max_branches", 0), ("warmup_steps", -1),
        ("weight_decay", -0.1), ("max_grad_norm", -1.0), ("seed", -1), ("save_steps", 0), ("target_modules", []),
        ("target_modules", "q_proj"), ("attention", "sparse"), ("lr_scheduler_type", "zigzag"), ("qlora", 1),
        ("init_adapter", 3), ("base_model", 1), ("init_lora_weights", "gaussian"), ("init_lora_weights", False),
        ("init_lora_weights", 2), ("loraplus_lr_ratio", 0.5), ("gradient_checkpointing", 1), ("eval_share", 0.9),
        ("eval_steps", 0), ("early_stopping_patience", -1),
    ],
)  # fmt: skip
def test_an_impossible_value_is_refused_and_named(field: str, value: Any) -> None:
    with pytest.raises(RecipeInvalid) as caught:
        Recipe.from_mapping({field: value})
    assert field in caught.value.detail
    assert caught.value.wanted


def test_an_unknown_field_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RecipeInvalid) as caught:
        Recipe.from_mapping({"rank": 8})
    assert caught.value.got == "rank"
    assert "lora_alpha" in caught.value.wanted


@pytest.mark.parametrize(
    ("unknown", "near"),
    [
        ("lora_aplha", "lora_alpha"), ("LoRA-alpha", "lora_alpha"), ("batch_size", "per_device_train_batch_size"),
        ("learning_rates", "learning_rate"), ("epochs", "num_train_epochs"), ("target_module", "target_modules"),
    ],
)  # fmt: skip
def test_an_unknown_field_is_answered_with_the_nearest_one(unknown: str, near: str) -> None:
    with pytest.raises(RecipeInvalid) as caught:
        Recipe.from_mapping({unknown: 8})
    assert caught.value.hint == f"Did you mean {near} for {unknown}?"


def test_a_field_like_no_other_gets_no_hint() -> None:
    with pytest.raises(RecipeInvalid) as caught:
        Recipe.from_mapping({"colour": 8})
    assert caught.value.hint == ""


def test_nan_is_no_learning_rate(tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text("learning_rate = nan\n")
    with pytest.raises(RecipeInvalid):
        Recipe.load(path)


@pytest.mark.parametrize("content", [b"r = = 8", b"\xff\xfe\x00", None])
def test_an_unreadable_file_is_refused(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "recipe.toml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeInvalid):
        Recipe.load(path)


def test_every_packaged_recipe_is_valid_and_says_what_it_changes() -> None:
    assert {"domain", "reader", "style"} <= set(presets())
    for name in presets():
        values = recipe_values(name)
        assert values == preset_values(name) != {}
        Recipe.from_mapping(values)
        assert len(about_preset(name)) > 100, "why, not only what"
    for unknown in ("stlye", "../style"):
        with pytest.raises(RecipeInvalid, match="No such recipe"):
            preset_values(unknown)
        with pytest.raises(RecipeInvalid, match="No such recipe"):
            about_preset(unknown)


def test_a_recipe_is_a_file_or_a_packaged_name(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("r = 4\n", encoding="utf-8")
    assert recipe_values(path) == {"r": 4}
    with pytest.raises(RecipeInvalid, match=r"No such recipe.*style"):
        recipe_values("stlye")
