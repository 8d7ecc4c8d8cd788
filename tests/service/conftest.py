from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from service.app import create_app
from service.settings import Settings
from service.workspace import Workspace
from tests.service.parts import MODEL, HashEmbedder, ScriptedGenerator

DOCUMENTS = {
    "lighthouse.md": "# Lighthouse\n\nThe lighthouse of Orrin was built in 1842. Its keeper was Mara Venn. "
    "It stands on a red cliff above the bay.\n",
    "garden.md": "# Garden\n\nThe garden of Tolm grows blue roses. It was planted by the brothers Ask and Embla.\n",
}


@pytest.fixture
def generator() -> ScriptedGenerator:
    return ScriptedGenerator()


@pytest.fixture
def make_workspace(tmp_path: Path, generator: ScriptedGenerator) -> Iterator[Callable[..., Workspace]]:
    made: list[Workspace] = []

    def make(**settings: object) -> Workspace:
        chosen = Settings.load(**{"state_dir": tmp_path / "state", "log_level": "WARNING", **settings})
        made.append(Workspace(chosen, embedder=HashEmbedder(), generator=generator, model=MODEL))
        return made[-1]

    yield make
    for workspace in made:
        workspace.close()


@pytest.fixture
def workspace(make_workspace: Callable[..., Workspace]) -> Workspace:
    return make_workspace()


@pytest.fixture
def indexed(workspace: Workspace, tmp_path: Path) -> Workspace:
    folder = tmp_path / "documents"
    folder.mkdir()
    for name, text in DOCUMENTS.items():
        (folder / name).write_text(text, encoding="utf-8")
    done = workspace.ingestor.ingest("default", [folder], report=lambda _: None)
    assert len(done.indexed) == 2
    return workspace


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
