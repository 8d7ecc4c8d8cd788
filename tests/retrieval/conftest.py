import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.state import StateDirectory
from data.store import Store
from retrieval.ingest import Ingestor
from retrieval.retriever import Retriever
from tests.retrieval.hashing import HashingEmbedder, Settings


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "ragtune.db"
    Store.open(path).close()
    return path


@pytest.fixture
def state(tmp_path: Path, migrated: Path) -> StateDirectory:
    state = StateDirectory(tmp_path / "var").create()
    shutil.copy(migrated, state.db)
    return state


@pytest.fixture
def store(state: StateDirectory) -> Iterator[Store]:
    store = Store.open(state.db)
    yield store
    store.close()


@pytest.fixture
def embedder() -> HashingEmbedder:
    return HashingEmbedder()


@pytest.fixture
def ingestor(store: Store, state: StateDirectory, embedder: HashingEmbedder) -> Ingestor:
    return Ingestor(store, state, embedder, Settings())


@pytest.fixture
def retriever(store: Store, state: StateDirectory, embedder: HashingEmbedder) -> Retriever:
    return Retriever(store, state, embedder)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three documents in a folder."""
    folder = tmp_path / "documents"
    (folder / "more").mkdir(parents=True)
    (folder / "apples.md").write_text("# Apples\n\nApples grow on trees.\n\n## Colour\n\nSome apples are red.\n")
    (folder / "pears.txt").write_text("Pears are sweet and green.\n")
    (folder / "more" / "plums.md").write_text("# Plums\n\nPlums are purple and have one stone.\n")
    return folder
