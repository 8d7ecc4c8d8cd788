from __future__ import annotations

import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from fastapi.testclient import TestClient

from service.app import create_app
from service.serve import bind, server_config
from service.settings import Settings
from service.workspace import Workspace
from tests.service.parts import DOCUMENTS, MODEL, HashEmbedder, ScriptedGenerator, wait_until
from tests.service.shells import filled, folder, questions, shell
from tests.service.tenants import service, shared

__all__ = ["filled", "folder", "questions", "service", "shared", "shell"]
"""Fixtures that more than one file asks for."""


@pytest.fixture
def generator() -> ScriptedGenerator:
    return ScriptedGenerator()


def small_workspace(state: Path, generator: ScriptedGenerator, **settings: object) -> Workspace:
    """Return a workspace over small real parts."""
    chosen = Settings.load(**{"state_dir": state, "log_level": "WARNING", **settings})
    return Workspace(chosen, embedder=HashEmbedder(), generator=generator, model=MODEL)


@pytest.fixture(scope="session")
def states(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with two states to copy: ``empty``, and ``indexed`` with the documents."""
    root = tmp_path_factory.mktemp("states")
    folder = root / "documents"
    folder.mkdir()
    for name, text in DOCUMENTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    for name in ("empty", "indexed"):
        with small_workspace(root / name, ScriptedGenerator()) as workspace:
            assert workspace.store.collections.names() == ["default"]
            if name == "indexed":
                assert len(workspace.ingestor.ingest("default", [folder]).indexed) == len(DOCUMENTS)
    return root


@pytest.fixture
def make_workspace(tmp_path: Path, generator: ScriptedGenerator, states: Path) -> Iterator[Callable[..., Workspace]]:
    made: list[Workspace] = []

    def make(state: str = "empty", **settings: object) -> Workspace:
        if not (tmp_path / "state").exists():
            shutil.copytree(states / state, tmp_path / "state")
        made.append(small_workspace(tmp_path / "state", generator, **settings))
        return made[-1]

    yield make
    for workspace in made:
        workspace.close()


@pytest.fixture
def workspace(make_workspace: Callable[..., Workspace]) -> Workspace:
    return make_workspace()


@pytest.fixture
def indexed(make_workspace: Callable[..., Workspace]) -> Workspace:
    return make_workspace("indexed")


def open_client(workspace: Workspace, *, run_jobs: bool = False, **options: object) -> TestClient:
    return TestClient(create_app(workspace, run_jobs=run_jobs), base_url="http://127.0.0.1", **options)


@pytest.fixture
def client(indexed: Workspace) -> Iterator[TestClient]:
    with open_client(indexed) as client:
        yield client


@pytest.fixture
def empty_client(workspace: Workspace) -> Iterator[TestClient]:
    with open_client(workspace) as client:
        yield client


@contextmanager
def real_server(workspace: Workspace, port: int = 0) -> Iterator[str]:
    """Serve in a thread; yields the URL once the server accepts requests."""
    with bind("127.0.0.1", port) as listener:
        server = uvicorn.Server(server_config(create_app(workspace, run_jobs=False)))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        try:
            wait_until(lambda: server.started)
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(20)
        assert not thread.is_alive()
