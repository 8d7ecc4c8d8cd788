"""Bundles: complete, the same for the same content, and refused where a file is not the one that was written."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import tomllib
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from data.errors import InvalidRequest, RecipeInvalid
from data.state import sha256_file
from finetune.cloud.bundle import open_bundle
from finetune.cloud.examples import read_examples, write_examples
from finetune.cloud.make import PLATFORMS, Platform, repository_notebook
from finetune.cloud.requirements import BITSANDBYTES, requirements
from finetune.rows import Example
from tests.finetune.bundles import content, make
from tests.finetune.houses import QUICK, examples

ROOT = Path(__file__).resolve().parents[2]


def test_examples_keep_their_parts(tmp_path: Path) -> None:
    made = examples(3)
    assert write_examples(tmp_path / "rows.jsonl", made) == len(made)
    assert read_examples(tmp_path / "rows.jsonl") == made
    row = json.loads((tmp_path / "rows.jsonl").read_text().splitlines()[0])
    assert [message["role"] for message in row["messages"]] == ["system", "user", "assistant"]
    assert "".join(made[0].messages[1].parts) == row["messages"][1]["content"]


def test_rows_of_another_trainer_have_one_part_each(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"instruction": "Be brief.", "input": "你好？", "output": "好"}\n', encoding="utf-8")
    (found,) = read_examples(path)
    assert isinstance(found, Example)
    assert [(message.role, message.parts) for message in found.messages] == [
        ("system", ("Be brief.",)),
        ("user", ("你好？",)),
    ]
    assert found.completion == "好"


@pytest.mark.parametrize("parts", [[[1], [1]], [[8]], "x", [[8, 1], [5]], [[-1, 9], [5]], [[True, 7], [5]]])
def test_parts_that_do_not_fit_are_refused(tmp_path: Path, parts: object) -> None:
    turns = [{"role": "system", "content": "8 chars."}, {"role": "user", "content": "five?"}]
    row = {"messages": [*turns, {"role": "assistant", "content": "yes"}], "parts": parts}
    (tmp_path / "rows.jsonl").write_text(json.dumps(row) + "\n")
    with pytest.raises(InvalidRequest, match=r"rows.jsonl, row 1"):
        read_examples(tmp_path / "rows.jsonl")


@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_file_is_named_by_its_hash(tmp_path: Path, platform: Platform) -> None:
    out = tmp_path / "out"
    manifest = make(out, platform)
    bundle = open_bundle(out / "bundle")
    assert bundle.manifest == manifest
    assert (len(bundle.examples), len(bundle.held_out)) == (6, 2)
    named = {f"bundle/{name}": digest for name, digest in manifest.files.items()} | dict(manifest.platform_files)
    there = {path.relative_to(out).as_posix(): sha256_file(path) for path in out.rglob("*") if path.is_file()}
    del there["bundle/manifest.json"]
    there.pop("bundle.zip", None)  # it holds the manifest
    assert there == named
    assert "@" not in "".join(
        path.read_text(encoding="utf-8")
        for name in named
        if (path := out / name).suffix in {".md", ".py", ".yml", ".yaml", ".ipynb"}
    ).replace("ragtune @ git", "")
    assert "ragtune adapters import house.zip" in (out / "README.md").read_text(encoding="utf-8")


def test_the_same_content_gives_the_same_bundle(tmp_path: Path) -> None:
    first, second = make(tmp_path / "first"), make(tmp_path / "second")
    assert first == second
    assert first.id == second.id
    other = make(tmp_path / "other", examples=content().examples[:5])
    assert other.id != first.id
    with pytest.raises(InvalidRequest, match="already"):
        make(tmp_path / "first")


@pytest.mark.parametrize("name", ["train.jsonl", "eval.jsonl", "recipe.toml", "requirements.txt"])
def test_a_changed_file_is_refused(tmp_path: Path, name: str) -> None:
    make(tmp_path / "out")
    path = tmp_path / "out" / "bundle" / name
    path.write_text(path.read_text() + "\n")
    with pytest.raises(InvalidRequest, match=f"{name} is not the file"):
        open_bundle(path.parent)
    path.unlink()
    with pytest.raises(InvalidRequest, match="missing"):
        open_bundle(path.parent)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": "ragtune-bundle-1"}', '{"format": "other", "id": "x"}'])
def test_what_is_no_bundle_is_refused(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidRequest, match="no bundle"):
        open_bundle(tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InvalidRequest, match="no bundle"):
        open_bundle(tmp_path)


def test_a_manifest_cannot_name_files_elsewhere(tmp_path: Path) -> None:
    make(tmp_path / "out")
    path = tmp_path / "out" / "bundle" / "manifest.json"
    values = json.loads(path.read_text())
    values["files"]["../README.md"] = sha256_file(tmp_path / "out" / "README.md")
    path.write_text(json.dumps(values))
    with pytest.raises(InvalidRequest, match="missing"):
        open_bundle(path.parent)


def test_a_run_may_change_the_recipe_but_not_what_it_is_for(tmp_path: Path) -> None:
    make(tmp_path / "out")
    assert open_bundle(tmp_path / "out" / "bundle", {"max_steps": 3}).recipe.max_steps == 3
    for changes in ({"base_model": "other"}, {"init_adapter": "/x"}, {"learning": 1}):
        with pytest.raises(RecipeInvalid):
            open_bundle(tmp_path / "out" / "bundle", changes)


def test_requirements_are_the_versions_that_train_here() -> None:
    pinned = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
    lines = requirements(qlora=True).splitlines()[1:]
    assert BITSANDBYTES in lines
    assert not [line for line in lines if line.startswith("torch")]
    assert {line for line in lines if line != BITSANDBYTES} <= {f"{name}=={pinned[name]}" for name in pinned}
    assert BITSANDBYTES not in requirements(qlora=False)


def test_the_wheel_is_the_code_that_trains_here(tmp_path: Path) -> None:
    manifest = make(tmp_path / "out")
    (name,) = [name for name in manifest.files if name.endswith(".whl")]
    with zipfile.ZipFile(tmp_path / "out" / "bundle" / name) as wheel:
        names = wheel.namelist()
        for module in ("data/prompt.py", "finetune/train.py", "finetune/__main__.py", "finetune/presets/style.toml"):
            assert wheel.read(module) == (ROOT / module).read_bytes()
        records = list(csv.reader(io.StringIO(wheel.read(next(n for n in names if n.endswith("RECORD"))).decode())))
        assert [row[0] for row in records] == names
        for file, digest, size in records[:-1]:
            found = base64.urlsafe_b64encode(hashlib.sha256(wheel.read(file)).digest()).rstrip(b"=").decode()
            assert (digest, int(size)) == (f"sha256={found}", wheel.getinfo(file).file_size)
    assert not [name for name in names if "store" in name or "starter" in name or "samples" in name]


def test_the_committed_notebook_is_the_bundle_s_but_for_where_the_code_comes_from(tmp_path: Path) -> None:
    committed = (ROOT / "finetune" / "colab_finetune.ipynb").read_bytes()
    assert committed == repository_notebook(), "write repository_notebook() there again"
    make(tmp_path / "out")
    ours, theirs = (json.loads(c) for c in (committed, (tmp_path / "out" / "colab_finetune.ipynb").read_bytes()))
    assert {key: value for key, value in ours.items() if key != "cells"} == {
        key: value for key, value in theirs.items() if key != "cells"
    }
    code = [[cell for cell in book["cells"] if cell["cell_type"] == "code"] for book in (ours, theirs)]
    assert len(code[0]) == len(code[1]) == 7
    different = [
        (a, b)
        for one, other in zip(*code, strict=True)
        for a, b in zip(one["source"], other["source"], strict=True)
        if a != b.replace("out/house.zip", "out/adapter.zip")
    ]
    assert len(different) == 1
    assert "git+https" in different[0][0]
    assert "bundle/ragtune_training-0.1.0" in different[0][1]


def test_the_notebook_is_valid_and_its_cells_are_small(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat")
    make(tmp_path / "out")
    book = nbformat.read(tmp_path / "out" / "colab_finetune.ipynb", as_version=4)
    nbformat.validate(book)
    code = [cell["source"].splitlines() for cell in book["cells"] if cell["cell_type"] == "code"]
    assert max(map(len, code)) <= 10
    explained = "".join(cell["source"] for cell in book["cells"] if cell["cell_type"] == "markdown")
    assert "Qwen/Qwen2.5-1.5B-Instruct" in explained
    assert "训练" in explained


def test_each_platform_has_its_own_files(tmp_path: Path) -> None:
    """What the platforms' own packages say was looked at once, since they are too heavy for these tests.

    azure-ai-ml 1.35.2 (``load_job``, its validation passes), skypilot 0.14.1 (``Task.from_yaml``) and kaggle 2.2.5
    (names and lengths of its metadata).
    """
    for platform in PLATFORMS:
        make(tmp_path / platform, platform)
    kernel = json.loads((tmp_path / "kaggle" / "kernel" / "kernel-metadata.json").read_text())
    dataset = json.loads((tmp_path / "kaggle" / "bundle" / "dataset-metadata.json").read_text())
    assert kernel["dataset_sources"] == [dataset["id"]] == ["INSERT_YOUR_KAGGLE_USERNAME/ragtune-house-bundle"]
    assert 6 <= len(dataset["title"]) <= 50
    assert (tmp_path / "kaggle" / "kernel" / kernel["code_file"]).is_file()
    job = yaml.safe_load((tmp_path / "azureml" / "job.yml").read_text())
    assert (job["type"], job["inputs"]["bundle"]["path"]) == ("command", "./bundle")
    task = yaml.safe_load((tmp_path / "skypilot" / "task.yaml").read_text())
    assert task["name"] == "ragtune-house"
    lines = (tmp_path / "sagemaker" / "source" / "requirements.txt").read_text().splitlines()
    assert lines[-1] == "./ragtune_training-0.1.0-py3-none-any.whl"
    with zipfile.ZipFile(tmp_path / "colab" / "bundle.zip") as whole:
        assert set(whole.namelist()) == {path.name for path in (tmp_path / "colab" / "bundle").iterdir()}


def test_names_that_platforms_do_not_take_are_changed(tmp_path: Path) -> None:
    make(tmp_path / "out", "kaggle", name="Haus_Stil.2")
    kernel = json.loads((tmp_path / "out" / "kernel" / "kernel-metadata.json").read_text())
    assert kernel["id"].endswith("/ragtune-haus-stil-2")


def test_the_recipe_in_a_bundle_names_no_path_of_this_machine(tmp_path: Path) -> None:
    start = tmp_path / "start"
    start.mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        (start / name).write_bytes(b"{}")
    make(tmp_path / "out", recipe=replace(QUICK, init_adapter=str(start)), start=start, start_label="a@1")
    recipe = tomllib.loads((tmp_path / "out" / "bundle" / "recipe.toml").read_text())
    assert "init_adapter" not in recipe
    assert set(open_bundle(tmp_path / "out" / "bundle").start) == {"adapter_model.safetensors", "adapter_config.json"}
