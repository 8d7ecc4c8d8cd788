import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from data.records import Chunk, Document, content_id
from data.store import Store

# A busy machine is no failure.
settings.register_profile("data", deadline=None, max_examples=60)
settings.load_profile("data")

Made = tuple[Document, list[Chunk]]


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("migrated") / "ragtune.db"
    Store.open(path).close()
    return path


@pytest.fixture
def database_path(migrated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copy(migrated, tmp_path / "ragtune.db"))


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.slow)])
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    """The same store over either database: every test of it is one of both."""
    where = request.getfixturevalue("database_path" if request.param == "sqlite" else "database_url")
    with Store.open(where) as opened:
        yield opened


@pytest.fixture
def sqlite_store(database_path: Path) -> Iterator[Store]:
    with Store.open(database_path) as opened:
        yield opened


@pytest.fixture
def make() -> Callable[..., Made]:
    """Makes a document of one chunk for each sentence."""

    def made(source: str, text: str, *, collection: str = "default", title: str = "Title") -> Made:
        document = Document(content_id(collection, source, text), source, title, text, "text/plain")
        chunks, start = [], 0
        for sentence in text.split(" | "):
            end = start + len(sentence)
            identity = content_id(document.id, str(start))
            chunks.append(Chunk(identity, document.id, sentence, start, end, title))
            start = end + 3
        return document, chunks

    return made
