"""Which base model a bundle names, and what a GGUF alone means for training."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from data.errors import RecipeInvalid
from service.bundling import choose_base, training_choice
from service.commands.bundle import bundle_lines
from service.commands.models import choice_text
from service.jobs import run_job, submit
from service.workspace import Workspace
from tests.finetune.test_twin import write
from tests.service.parts import MODEL


@pytest.fixture
def gguf(tmp_path: Path) -> Path:
    return write(tmp_path / "qwen2.5-3b-instruct-q4_k_m.gguf")


def test_a_model_from_a_hub_is_named_with_its_commit_and_its_hash(tmp_path: Path) -> None:
    folder = tmp_path / "snapshots" / ("a" * 40)
    folder.mkdir(parents=True)
    model = replace(MODEL, source="org/some", weights=str(folder))
    found = choose_base(model, None, with_model=False)
    assert (found.model, found.revision, found.sha256, found.is_served) == ("org/some", "a" * 40, MODEL.sha256, True)
    assert choose_base(model, "org/some@v1", with_model=False).revision == "v1"
    mirror = choose_base(model, "modelscope:org/some", with_model=False)
    assert (mirror.model, mirror.revision, mirror.sha256) == ("modelscope:org/some", "", MODEL.sha256)
    other = choose_base(model, "org/other@v1", with_model=False)
    assert (other.model, other.revision, other.sha256, other.is_served) == ("org/other", "v1", "", False)


def test_a_gguf_is_trained_as_its_twin(gguf: Path) -> None:
    model = replace(MODEL, source=str(gguf), weights=str(gguf), gguf=str(gguf))
    found = choose_base(model, None, with_model=False)
    assert (found.model, found.sha256, found.is_served) == ("Qwen/Qwen2.5-3B-Instruct", "", True)
    assert "guessed" in found.how
    assert choose_base(model, "Qwen/Qwen2.5-3B-Instruct", with_model=False).is_served
    assert not choose_base(model, "Qwen/Qwen2.5-3B", with_model=False).is_served


def test_a_recipe_that_names_the_served_model_asks_for_nothing_else(gguf: Path) -> None:
    model = replace(MODEL, source=str(gguf), weights=str(gguf), gguf=str(gguf))
    for asked in (model.name, model.source):
        assert choose_base(model, asked, with_model=False).model == "Qwen/Qwen2.5-3B-Instruct"
    for asked in ("Qwen/Qwen2.5-3B-Instruct-GGUF:q4_k_m", "model", "/tmp/x"):
        with pytest.raises(RecipeInvalid, match="from a hub"):
            choose_base(model, asked, with_model=False)
    there = choose_base(model, "modelscope:Qwen/Qwen2.5-3B-Instruct@v1", with_model=False)
    assert (there.model, there.revision) == ("modelscope:Qwen/Qwen2.5-3B-Instruct", "v1")
    assert there.is_served


def test_a_gguf_can_be_taken_along(gguf: Path) -> None:
    model = replace(MODEL, source=str(gguf), weights=str(gguf), gguf=str(gguf))
    found = choose_base(model, None, with_model=True)
    assert (found.gguf, found.sha256, found.is_served) == (gguf, MODEL.sha256, True)
    part = gguf.rename(gguf.with_name("m-00001-of-00002.gguf"))
    with pytest.raises(RecipeInvalid, match="one GGUF"):
        choose_base(replace(model, weights=str(part)), None, with_model=True)


def test_a_file_that_says_nothing_needs_an_answer(tmp_path: Path) -> None:
    path = str(write(tmp_path / "model.gguf"))
    with pytest.raises(RecipeInvalid) as caught:
        choose_base(replace(MODEL, source=path, weights=path), None, with_model=False)
    assert "--base-model" in caught.value.wanted
    assert "--with-model" in caught.value.hint


@pytest.mark.slow
def test_four_bits_are_refused_before_rows_are_made(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    inputs = {"name": "house", "collection": "default", "recipe": {"qlora": True}}
    job = run_job(workspace, submit(workspace.store, "train", inputs).id)
    assert job.error is not None
    assert job.error["type"] == "recipe-invalid"  # and not that there are no pairs
    assert "ragtune bundle colab" in job.error["hint"]


def test_pairs_that_were_left_out_are_told_with_the_reason(tmp_path: Path) -> None:
    made = {
        "examples": 1, "held_out": 0, "bytes": 200_000, "base_model": "org/some", "chosen": "as asked", "qlora": True,
        "is_served": True, "refused": {"not_evidenced": 2, "too_long": 1},
    }  # fmt: skip
    assert "Left out: not_evidenced: 2, too_long: 1." in bundle_lines(tmp_path, made)
    assert not any("Left out" in line for line in bundle_lines(tmp_path, {**made, "refused": {}}))


def test_what_training_on_a_gguf_costs_is_told(gguf: Path, tmp_path: Path) -> None:
    choice = training_choice(replace(MODEL, source=str(gguf), weights=str(gguf)))
    assert choice is not None
    assert (choice.file_type, choice.bytes_dequantized) == ("F32", 2 * 16)
    text = choice_text(choice)
    assert "stays lost" not in text, "nothing was rounded"
    assert "What Q4_K rounded away stays lost" in choice_text(replace(choice, file_type="Q4_K"))
    assert "Qwen/Qwen2.5-3B-Instruct" in text
    assert "ragtune bundle colab" in text
    silent = str(write(tmp_path / "model.gguf"))
    silent_choice = training_choice(replace(MODEL, source=silent, weights=silent))
    assert silent_choice is not None
    assert "--base-model ORG/NAME" in choice_text(silent_choice)
    assert training_choice(replace(MODEL, weights=str(tmp_path))) is None
