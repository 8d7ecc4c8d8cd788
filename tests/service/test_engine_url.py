"""A server instead of the local engine: the whole service over it, and what needs weights says so."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from data.errors import BaseModelMismatch, EngineUnavailable, InvalidModel, InvalidRequest, UnknownAdapter
from data.records import Progress
from service.adapters import import_adapter
from service.answerer import AskRequest
from service.cli import app
from service.commands.session import Session
from service.jobs import run_job, submit
from service.parity import measure_parity
from service.settings import Settings
from service.work import pairs
from service.workspace import Workspace
from tests.service.conftest import open_client
from tests.service.engine.fake_server import FakeServer
from tests.service.parts import DOCUMENTS, MODEL, HashEmbedder, adapter

pytestmark = pytest.mark.slow

QUESTION = "When was the lighthouse of Orrin built?"
Open = Callable[..., Workspace]


@pytest.fixture
def server() -> Iterator[FakeServer]:
    with FakeServer("llama-server") as server:
        yield server


@pytest.fixture
def open_workspace(tmp_path: Path, server: FakeServer) -> Iterator[Open]:
    made: list[Workspace] = []

    def make(**values: object) -> Workspace:
        model = values.pop("known", None)
        settings = Settings.load(**{"state_dir": tmp_path / "state", "engine_url": server.url, **values})
        made.append(Workspace(settings, embedder=HashEmbedder(), model=model))
        return made[-1]

    yield make
    for workspace in made:
        workspace.close()


@pytest.fixture
def served(open_workspace: Open, tmp_path: Path) -> Workspace:
    """Return a workspace over the server, with the documents indexed."""
    folder = tmp_path / "documents"
    folder.mkdir()
    for name, text in DOCUMENTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    workspace = open_workspace()
    workspace.ingestor.ingest("default", [folder])
    return workspace


def ignore(_: Progress) -> None:
    pass


def test_a_question_is_answered_by_the_server(served: Workspace, server: FakeServer) -> None:
    answer = served.answerer.answer(AskRequest(QUESTION, max_tokens=8))
    assert (answer.model, answer.mode, answer.adapter) == ("toy", "rag", None)
    assert answer.text
    assert answer.confidence is None
    assert answer.usage.completion_tokens == 8
    assert answer.timings["prefill"] == 12.5
    assert "1842" in server.body["messages"][-1]["content"]
    with open_client(served) as client:
        assert client.post("/v1/answers", json={"question": QUESTION}).json()["model"] == "toy"
        said = {"model": "toy", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 3}
        assert client.post("/v1/chat/completions", json=said).json()["usage"]["completion_tokens"] == 3


def test_the_command_line_takes_it_from_the_environment(
    served: Workspace, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAGTUNE_ENGINE_URL", server.url)
    monkeypatch.setenv("RAGTUNE_ENGINE_MODEL", "house-model")
    session = Session(lambda settings: Workspace(settings, embedder=HashEmbedder()))
    words = ["--state-dir", str(served.settings.state_dir), "ask", QUESTION, "--json"]
    found = CliRunner().invoke(app, words, obj=session)
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["model"] == "house-model"
    assert server.body["model"] == "house-model"


def test_a_child_process_serves_from_the_same_server(served: Workspace, server: FakeServer) -> None:
    settings = Settings.load(engine_url=server.url, engine_api_key="sk-secret", engine_model="toy")
    read = "from service.settings import Settings; s = Settings.load(); "
    code = read + "print(s.engine_url, s.engine_model, s.engine_api_key.get_secret_value())"
    command = [sys.executable, "-c", code]
    found = subprocess.run(command, env=settings.environment(), capture_output=True, text=True, check=True)
    assert found.stdout.split() == [server.url, "toy", "sk-secret"]
    assert "sk-secret" not in repr(settings)


def test_doctor_shows_the_server_and_whether_it_answers(served: Workspace, server: FakeServer) -> None:
    from service.doctor import examine

    for engine in (True, False):
        finding = examine(served, engine=engine)[-1]
        assert (finding.check, finding.verdict) == ("engine", "ok")
        assert server.url in finding.found
        assert "llama-server" in finding.found
        assert "toy" in finding.found


def test_a_server_that_is_gone_is_told_everywhere(served: Workspace, tmp_path: Path) -> None:
    from service.doctor import examine

    values = {"state_dir": served.settings.state_dir, "engine_url": "http://me:pass-word@127.0.0.1:1/v1"}
    with Workspace(Settings.load(**values), embedder=HashEmbedder()) as workspace:
        for engine in (True, False):
            finding = examine(workspace, engine=engine)[-1]
            assert finding.verdict == "failed"
            assert "http://127.0.0.1:1/v1" in finding.found
            assert "pass-word" not in str(finding)
        with open_client(workspace) as client:
            ready = client.get("/readyz")
            assert ready.status_code == 503
            assert ready.json()["checks"]["engine"]["type"] == "engine-unavailable"
        with pytest.raises(EngineUnavailable):
            workspace.answerer.answer(AskRequest(QUESTION))


def test_what_needs_weights_says_what_to_do(served: Workspace, tmp_path: Path) -> None:
    (tmp_path / "lora").mkdir()
    with pytest.raises(InvalidModel, match="RAGTUNE_MODEL"):
        import_adapter(served, "brought", tmp_path / "lora", ignore)
    with pytest.raises(InvalidModel, match="RAGTUNE_MODEL"):
        measure_parity(served, tmp_path, (), ignore, "full")
    job = run_job(served, submit(served.store, "train", {"name": "house"}).id)
    assert job.status == "failed"
    assert job.error is not None
    assert job.error["type"] == "invalid-model"
    assert "RAGTUNE_ENGINE_URL" in job.error["hint"]
    with pytest.raises(InvalidRequest, match="RAGTUNE_ENGINE_URL"):
        served.reranker("likelihood")
    assert served.ensure_starter_adapters() == ()


def test_an_adapter_of_the_model_that_is_said_to_be_served_is_found_there(
    open_workspace: Open, server: FakeServer, tmp_path: Path
) -> None:
    workspace = open_workspace(known=MODEL)
    assert workspace.model is MODEL
    folder = workspace.state.adapters("house", 1)
    folder.mkdir(parents=True)
    file = folder / "adapter.gguf"
    file.write_bytes(b"GGUF")
    files = {"adapter.gguf": str(file.relative_to(workspace.state.root))}
    workspace.store.adapters.add(adapter("house", files=files))
    workspace.store.adapters.promote("house", 1)
    ask = AskRequest(QUESTION, mode="tuned", max_tokens=4)
    with pytest.raises(UnknownAdapter, match=f"--lora {file}"):
        workspace.answerer.answer(ask)
    server.adapters = {"a": "/other.gguf", "b": str(file)}
    answer = workspace.answerer.answer(ask)
    assert (answer.model, answer.adapter) == (MODEL.name, "house@1")
    assert server.body["lora"] == [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 1.0}]
    workspace.store.adapters.add(adapter("alien", base="9" * 64, files=files))
    with pytest.raises(BaseModelMismatch):
        workspace.answerer.answer(AskRequest(QUESTION, mode="tuned", adapter="alien"))
    workspace.forget_adapter(workspace.store.adapters.get("house", 1))


def test_a_teacher_without_grammars_is_held_to_a_schema(open_workspace: Open, served: Workspace) -> None:
    with FakeServer("openai") as teacher:
        workspace = open_workspace(teacher_model="toy")
        ledger = pairs.run(workspace, {"limit": 2, "teacher": teacher.url}, ignore)
        assert ledger["requested"] == 2
        schema = teacher.body["response_format"]["json_schema"]["schema"]
        assert set(schema["required"]) <= {"question", "answer"}
        assert ledger["failed"] == 0
