"""The commands of pairs, trainings, adapters, bundles and models, through the console script's own entry."""

from __future__ import annotations

import pytest

from tests.service.parts import adapter

pytestmark = pytest.mark.slow
PAIR_JSON = '{"question": "When was the lighthouse of Orrin built?", "answer": "1842"}'


def test_pairs(filled, generator, tmp_path):
    generator.reply = lambda request: PAIR_JSON if request.grammar else "1842 [1]"
    ledger = filled.json("pairs", "generate", "--limit", 4, "--exclude", "garden.md")
    assert ledger["requested"] == 4 == ledger["accepted"] + sum(ledger["rejected"].values()) + ledger["failed"]
    assert ledger["accepted"] >= 1
    assert "4 proposed" in filled("pairs", "generate", "--limit", 4, "--exclude", "garden.md").stdout  # the same run
    listed = filled.json("pairs", "list", "--status", "accepted")
    assert listed["pairs"][0]["answer"] == "1842"
    assert "1842" in filled("pairs", "list").stdout
    exported = filled.json("pairs", "export", "--out", tmp_path / "rows", "--format", "chat", "--eval-share", 0)
    assert exported["train"] >= 1
    assert (tmp_path / "rows" / "train.jsonl").exists()
    assert "rows to train on" in filled("pairs", "export", "--out", tmp_path / "rows").stdout
    filled("pairs", "export", "--out", tmp_path / "rows", "--format", "csv", code=2)
    assert "No document has this source" in filled("pairs", "generate", "--exclude", "absent.md", code=1).stderr
    filled("pairs", "list", "--status", "odd", code=2)


def test_pairs_import(filled, questions, tmp_path):
    assert filled.json("pairs", "import", questions)["imported"] == 2
    assert "2 known already" in filled("pairs", "import", questions).stdout
    bad = tmp_path / "bad.jsonl"
    bad.write_text("{not json\n")
    assert "failed" in filled("pairs", "import", bad, code=1).stderr
    assert filled.json("pairs", "import", bad, code=1)["imported"] == 0
    assert filled.json("jobs", "list")[0]["kind"] == "import_pairs"


@pytest.mark.parametrize("content", ["", "\n\n"])
def test_pairs_import_of_an_empty_file(filled, tmp_path, content):
    empty = tmp_path / "empty.jsonl"
    empty.write_text(content)
    told = filled("pairs", "import", empty, code=1).stderr
    assert "holds no rows" in told
    assert "got: empty.jsonl" in told
    assert "wanted: JSONL" in told
    assert '{"question"' in told


def test_train_without_pairs_says_how_to_get_some(filled):
    assert "ragtune pairs generate" in filled("train", "--name", "mine", code=1).stderr


def test_train_refuses_a_bad_recipe(filled, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text("rank = 8\n")
    assert "rank" in filled("train", "--recipe", recipe, code=1).stderr
    filled("train", "--recipe", tmp_path / "absent.toml", code=2)


def test_adapters(shell):
    with shell.open() as workspace:
        for name in ("house", "other"):
            workspace.store.adapters.add(adapter(name))
    assert {row["name"] for row in shell.json("adapters", "list")} == {"house", "other"}
    assert "candidate" in shell("adapters", "list").stdout
    shown = shell.json("adapters", "show", "house")
    assert {"name", "version", "stage", "base_model", "recipe", "parity", "metrics", "lineage", "stale"} <= set(shown)
    assert shown["parity"]["greedy_agreement"] == 1.0
    assert "parity" in shell("adapters", "show", "house").stdout
    assert shell.json("adapters", "promote", "house")["stage"] == "live"
    assert "in place of house@1" in shell("adapters", "promote", "other").stdout
    assert shell.json("adapters", "rollback")["name"] == "house"
    assert "was live before" in shell("adapters", "rollback", code=1).stderr
    assert shell.json("adapters", "delete", "other") == {"deleted": ["other@1"]}
    assert "No such adapter" in shell("adapters", "show", "other", code=1).stderr


def test_adapters_import_of_an_incomplete_folder(shell, tmp_path):
    folder = tmp_path / "lora"
    folder.mkdir()
    (folder / "adapter_config.json").write_text("{}")
    assert "missing" in shell("adapters", "import", folder, "--name", "mine", code=1).stderr
    assert shell.json("jobs", "list")[0]["kind"] == "import_adapter"
    shell("adapters", "import", tmp_path / "absent", code=2)
    page = tmp_path / "house.zip"
    page.write_text("<!doctype html>")
    assert "Download it again" in shell("adapters", "import", page, code=1).stderr


def test_bundle_says_what_is_missing(shell, tmp_path):
    bundle = ("bundle", "colab", "--out", tmp_path / "out")
    assert "--with-model" in shell(*bundle, code=1).stderr
    assert "ragtune pairs generate" in shell(*bundle, "--base-model", "Qwen/Qwen2.5-0.5B-Instruct", code=1).stderr
    assert not (tmp_path / "out").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    taken = ("bundle", "colab", "--out", tmp_path / "full", "--base-model", "Qwen/Qwen2.5-0.5B-Instruct")
    assert "a new folder" in shell(*taken, code=1).stderr, (
        "and not that there are no pairs, which takes long to find out"
    )
    shell("bundle", "moon", "--out", tmp_path / "out", code=2)
    shell("bundle", "colab", code=2)


def test_export_of_what_cannot_be_exported(shell):
    assert "No such adapter" in shell("export", "none", code=1).stderr
    with shell.open() as workspace:
        workspace.store.adapters.add(adapter())
        workspace.store.adapters.add(adapter("foreign", base="f" * 64))
    assert "Only a merged model" in shell("export", "house", "--quantize", "q8_0", code=1).stderr
    assert "No such quantization" in shell("export", "house", "--merge", "--quantize", "q9", code=1).stderr
    assert "another base model" in shell("export", "foreign", code=1).stderr


def test_export_copies_the_gguf(shell, tmp_path):
    with shell.open() as workspace:
        file = workspace.state.adapters("house", 1) / "adapter.gguf"
        file.parent.mkdir(parents=True)
        file.write_bytes(b"GGUF of the adapter")
        workspace.store.adapters.add(adapter(files={"adapter.gguf": str(file.relative_to(workspace.state.root))}))
    done = shell.json("export", "house", "--out", tmp_path / "new" / "house.gguf")
    assert (tmp_path / "new" / "house.gguf").read_bytes() == b"GGUF of the adapter"
    assert done["bytes"] == 19
    assert "sha256" in shell("export", "house@1").stdout


def test_models(shell, tmp_path):
    assert shell.json("models", "list") == []
    assert "starter" in shell("models", "list").stdout
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF")
    assert shell("models", "add", broken, "--name", "mine", code=1).stderr.startswith("error:")
    for words in (("add", broken, "--name", "starter"), ("pull", "someone/starter")):
        assert "got: starter" in shell("models", *words, code=1).stderr


def test_models_pull_does_nothing_behind_ones_back_when_offline(shell, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert shell("models", "pull", "nobody/no-such-model", code=1).stderr.startswith("error:")
