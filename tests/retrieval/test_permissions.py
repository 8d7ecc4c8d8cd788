"""Files and folders that this user may not read. Root may read everything, so root becomes nobody here."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from data.errors import UnreadableDocument
from data.state import StateDirectory
from data.store import Store
from retrieval.ingest import Ingestor
from retrieval.load import find_files
from tests.retrieval.hashing import HashingEmbedder, Settings

NOBODY = 65534


@contextmanager
def as_ordinary_user(*folders: Path) -> Iterator[None]:
    """Give the folders away to nobody and become nobody, if this is root."""
    if os.geteuid() != 0:
        yield
        return
    for path in [path for folder in folders for path in (folder, *folder.rglob("*"))]:
        os.chown(path, NOBODY, -1)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def root() -> Iterator[Path]:
    """A folder that others can reach (pytest's own are closed to them)."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)
        for folder in Path(name).rglob("closed"):
            folder.chmod(0o700)


@pytest.fixture
def documents(root: Path) -> Path:
    folder = root / "documents"
    (folder / "closed").mkdir(parents=True)
    (folder / "open.md").write_text("# Open\n\nAmber is traded in the harbour.\n")
    (folder / "closed" / "inside.md").write_text("# Inside\n\nJet is traded in the market.\n")
    return folder


def test_a_folder_that_cannot_be_listed_fails_and_hides_nothing_else(root: Path, documents: Path) -> None:
    state = StateDirectory(root / "state")
    state.create()
    with Store.open(state.db) as store:
        ingestor = Ingestor(store, state, HashingEmbedder(), Settings())
        assert len(ingestor.ingest("default", [documents]).indexed) == 2
        with as_ordinary_user(state.root, documents):
            (documents / "closed").chmod(0)
            done = ingestor.ingest("default", [documents], sync=True)
            (documents / "closed").chmod(0o400)  # its names can be read, its files cannot
            again = ingestor.ingest("default", [documents], sync=True)
        kept = set(store.documents.by_source("default"))
    assert [row["source"] for row in done.unchanged] == ["open.md"]
    (failed,) = done.failed
    assert (failed["source"], failed["type"]) == ("closed", "unreadable-document")
    assert "Permission denied" in failed["detail"]
    assert done.deleted == [], "what cannot be seen is not gone"
    assert kept == {"open.md", "closed/inside.md"}
    (failed,) = again.failed
    assert (failed["source"], failed["type"]) == ("closed/inside.md", "unreadable-document")


@pytest.mark.parametrize("inside", ["closed", "closed/inside.md"])
def test_a_path_that_cannot_be_reached_is_told(documents: Path, inside: str) -> None:
    (documents / "closed").chmod(0)
    with (
        as_ordinary_user(documents),
        pytest.raises(UnreadableDocument, match=r"Permission denied.*closed.*permissions"),
    ):
        find_files([documents / inside])
