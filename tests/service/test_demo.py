"""The demo over real parts, with a scripted generator in place of the engine and a scripted training."""

from __future__ import annotations

import io
import json
import re
import socket
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
from rich.console import Console

from data.errors import NoAcceptedPairs, PortTaken
from service.demo import Demo, DemoPlan, curl_command, run_demo
from service.settings import Settings
from service.workspace import Workspace
from tests.service.parts import MODEL, HashEmbedder, adapter

pytestmark = pytest.mark.slow

ASKED = "ships.md"
OTHERS = {
    "lighthouse.md": "# Lighthouse\n\nThe lighthouse of Orrin was built in 1842. Its keeper was Mara Venn.\n",
    ASKED: "# Ships\n\nThe ship Halcyon sank in 1911 near the bay of Tolm. Her captain was Ivo Brand.\n",
}
PAIR = '{"question": "When was the lighthouse of Orrin built?", "answer": "1842"}'


@pytest.fixture
def plan(tmp_path):
    corpus = tmp_path / "samples" / "corpus"
    corpus.mkdir(parents=True)
    for name, text in OTHERS.items():
        (corpus / name).write_text(text, encoding="utf-8")
    question = {"id": "sank", "question": "When did the ship Halcyon sink?", "answers": ["1911"], "document": ASKED}
    (tmp_path / "samples" / "questions.jsonl").write_text(json.dumps(question) + "\n")
    return DemoPlan(proposals=4, samples=tmp_path / "samples")


@pytest.fixture
def trainings(monkeypatch):
    """Stand in for the training job: it registers an adapter, as the real one does."""
    made = []

    def run(workspace, inputs, report):
        version = workspace.store.adapters.next_version(inputs["name"])
        workspace.store.adapters.add(adapter(inputs["name"], version))
        made.append(inputs)
        return {"name": inputs["name"], "version": version, "metrics": {"loss_first": 1.5, "loss_last": 0.5}}

    monkeypatch.setitem(sys.modules, "service.work.train", SimpleNamespace(run=run))
    return made


@pytest.fixture
def factory(generator, tmp_path):
    (tmp_path / "scripted.gguf").write_bytes(b"GGUF")
    model = replace(MODEL, gguf=str(tmp_path / "scripted.gguf"))

    def reply(request):
        if request.grammar:
            return PAIR
        return "1911 [1]" if request.adapter else "I think it was long ago"

    generator.reply = reply
    return lambda settings: Workspace(settings, embedder=HashEmbedder(), generator=generator, model=model)


@pytest.fixture
def settings(tmp_path):
    return Settings.load(state_dir=tmp_path / "state", demo_serve=False)


def test_the_loop_runs_once_and_is_kept(factory, settings, plan, trainings, generator, capsys):
    run_demo(settings, factory, plan)
    first = capsys.readouterr().out
    assert re.findall(r"^(\d)/6 (\w+)", first, re.M) == [
        ("1", "models"), ("2", "ingest"), ("3", "pairs"), ("4", "train"), ("5", "promote"), ("6", "compare"),
    ]  # fmt: skip
    assert "loss 1.500 → 0.500" in first
    assert "curl -s http://127.0.0.1:8000/v1/answers" in first
    assert '"answer": "1911 [1]"' in first
    result = json.loads((settings.state_dir / "reports" / "demo" / "result.json").read_text())
    assert result["arms"]["combined"]["f1"] == 100.0
    assert result["arms"]["rag"]["f1"] < 50
    assert set(result["seconds"]) == {"models", "ingest", "pairs", "train", "promote", "compare"}
    assert (settings.state_dir / "reports" / "demo" / "index.html").exists()

    asked = len(generator.requests)
    run_demo(settings, factory, plan)
    assert capsys.readouterr().out.count("(kept)") == 6
    assert len(generator.requests) == asked + 1  # the worked question
    assert len(trainings) == 1


def test_pairs_come_only_from_documents_that_no_question_is_about(factory, settings, plan, trainings):
    run_demo(settings, factory, plan)
    with factory(settings) as workspace:
        pairs = workspace.store.pairs.all("default")
        sources = {
            workspace.store.documents.get(workspace.store.chunks.get(i).document_id).source
            for pair in pairs
            for i in pair.chunk_ids
        }
    assert sources == {"lighthouse.md"}
    assert trainings[0]["top_k"] == plan.top_k


def test_a_changed_document_runs_again_what_rests_on_it(factory, settings, plan, trainings, capsys):
    run_demo(settings, factory, plan)
    (plan.corpus / "lighthouse.md").write_text(OTHERS["lighthouse.md"] + "\nIt has 214 steps.\n", encoding="utf-8")
    capsys.readouterr()
    run_demo(settings, factory, plan)
    again = capsys.readouterr().out
    assert "models" in next(line for line in again.splitlines() if "(kept)" in line)
    assert again.count("(kept)") < 4
    assert len(trainings) == 2


def test_a_stage_that_fails_is_where_the_next_run_goes_on(factory, settings, plan, trainings, monkeypatch, capsys):
    def fail(workspace, inputs, report):
        raise NoAcceptedPairs("None were accepted", hint="Ask for more.")

    working = sys.modules["service.work.train"]
    monkeypatch.setitem(sys.modules, "service.work.train", SimpleNamespace(run=fail))
    with pytest.raises(NoAcceptedPairs, match="Ask for more"):
        run_demo(settings, factory, plan)
    monkeypatch.setitem(sys.modules, "service.work.train", working)
    capsys.readouterr()
    run_demo(settings, factory, plan)
    assert capsys.readouterr().out.count("(kept)") == 3


def test_a_deleted_adapter_is_trained_again(factory, settings, plan, trainings):
    run_demo(settings, factory, plan)
    with factory(settings) as workspace:
        workspace.store.adapters.delete("demo")
    run_demo(settings, factory, plan)
    assert len(trainings) == 2


def test_a_damaged_state_file_costs_time_and_nothing_else(factory, settings, plan, trainings):
    run_demo(settings, factory, plan)
    (settings.state_dir / "reports" / "demo" / "state.json").write_text("{half")
    run_demo(settings, factory, plan)
    with factory(settings) as workspace, workspace.lock():
        assert Demo(workspace, plan, Console(file=io.StringIO())).run()["arms"]["combined"]["f1"] == 100.0


def test_a_port_in_use_is_told_before_any_work(factory, settings, plan, trainings, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PortTaken, match=str(port)):
            run_demo(Settings.load(state_dir=tmp_path / "other", port=port, demo_serve=True), factory, plan)
    assert trainings == []
    assert not (tmp_path / "other").exists()


def test_the_environment_can_switch_serving_off(monkeypatch):
    monkeypatch.setenv("DEMO_SERVE", "0")
    assert not Settings.load().demo_serve
    assert Settings.load(demo_serve=True).demo_serve


def test_the_curl_command_survives_quotes(settings, plan):
    command = curl_command(settings, "Who is Orrin's keeper?", plan)
    import shlex

    words = shlex.split(command)
    assert json.loads(words[-1]) == {"question": "Who is Orrin's keeper?", "top_k": 3}


def test_the_samples_leave_documents_to_make_pairs_from():
    plan = DemoPlan()
    rows = [json.loads(line) for line in plan.questions_file.read_text().splitlines()]
    asked = {row["document"] for row in rows}
    present = {path.name for path in plan.corpus.iterdir()}
    assert asked < present
    assert len(rows) >= 60
