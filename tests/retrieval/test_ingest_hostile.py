"""One hostile or odd file fails alone, or is read: the others of its job are indexed all the same."""

from __future__ import annotations

import io
import json
import os
import warnings
import zipfile
from pathlib import Path

import pytest

from data.errors import StateError, StorageCorrupt
from data.protocols import Embedder
from data.state import StateDirectory
from data.store import Store
from retrieval.embedders import Embedders
from retrieval.ingest import Ingestor
from retrieval.parsers.archive import unpack
from retrieval.parsers.parsed import Budget
from tests.retrieval.hashing import HashingEmbedder, Settings


def packed(*members: tuple[str, str]) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as archive:
        warnings.simplefilter("ignore", UserWarning)  # of a name that comes twice, which is the point
        for name, text in members:
            archive.writestr(name, text)
    return out.getvalue()


def test_members_of_one_name_fail_and_the_rest_is_indexed(tmp_path: Path, ingestor: Ingestor) -> None:
    (tmp_path / "a.zip").write_bytes(packed(("a.txt", "amber"), ("./a.txt", "jet"), ("b.txt", "ivory")))
    (tmp_path / "z.md").write_text("# Z\n\nwords")
    done = ingestor.ingest("default", [tmp_path / "a.zip", tmp_path / "z.md"])
    assert sorted(row["source"] for row in done.indexed) == ["a.zip/a.txt", "a.zip/b.txt", "z.md"]
    (failed,) = done.failed
    assert (failed["source"], failed["type"]) == ("a.zip/a.txt", "damaged-document")
    assert "two members" in failed["detail"]


def test_a_file_name_of_a_legacy_encoding_is_read(tmp_path: Path, ingestor: Ingestor, store: Store) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "a.md").write_text("# A\n\nwords")
    legacy = Path(os.fsdecode("中文技术文档".encode("gb18030")))
    with (folder / legacy).with_suffix(".md").open("w") as file:
        file.write("# B\n\nwords")
    done = ingestor.ingest("default", [folder])
    assert sorted(row["source"] for row in done.indexed) == ["a.md", "中文技术文档.md"]
    assert not done.failed


def test_half_a_character_in_what_a_file_tells_of_itself_is_harmless(tmp_path: Path, ingestor: Ingestor) -> None:
    cells = [{"cell_type": "markdown", "source": "hi"}]
    notebook = {"cells": cells, "metadata": {"kernelspec": {"language": "\ud800"}}, "nbformat": 4}
    (tmp_path / "n.ipynb").write_text(json.dumps(notebook))
    (tmp_path / "z.md").write_text("# Z\n\nwords")
    done = ingestor.ingest("default", [tmp_path / "n.ipynb", tmp_path / "z.md"])
    assert sorted(row["source"] for row in done.indexed) == ["n.ipynb", "z.md"]


def test_members_go_when_their_archive_became_another_file(tmp_path: Path, ingestor: Ingestor, store: Store) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "a.zip").write_bytes(packed(("x.md", "# X\n\namber")))
    ingestor.ingest("default", [folder])
    (folder / "a.zip").write_text("plain words now")
    done = ingestor.ingest("default", [folder], sync=True)
    assert done.deleted == ["a.zip/x.md"]
    assert set(store.documents.by_source("default")) == {"a.zip"}


def test_a_damaged_embedder_does_not_lock_its_collection(
    store: Store, tmp_path: Path, ingestor: Ingestor, embedder: HashingEmbedder
) -> None:
    (tmp_path / "z.md").write_text("# Z\n\nwords")
    ingestor.ingest("default", [tmp_path / "z.md"])
    other = HashingEmbedder("another")

    def find(_fingerprint: str) -> Embedder | None:
        raise StorageCorrupt("The tuned embedder is damaged.")

    embedders = Embedders(store, other, find)
    assert embedders.indexed_with("default") == embedder.fingerprint != other.fingerprint
    assert embedders.of("default") is other


def test_a_disk_that_cannot_be_written_is_no_damage_of_the_archive(tmp_path: Path) -> None:
    budget = Budget(max_unpacked=1000, max_members=10, max_ratio=100, max_depth=2, max_text=1000, ends_at=0, ocr=False)
    with pytest.raises(StateError):
        unpack(packed(("a.txt", "amber")), tmp_path / "gone", budget)


def test_a_rebuild_with_another_embedder_embeds_with_that_one_only(
    tmp_path: Path, store: Store, state: StateDirectory, embedder: HashingEmbedder
) -> None:
    (tmp_path / "z.md").write_text("# Z\n\nMany words stand here. More of them stand there.")
    Ingestor(store, state, embedder, Settings()).ingest("default", [tmp_path / "z.md"])
    before = len(embedder.embedded)
    finer, other = Ingestor(store, state, embedder, Settings(chunk_size=5)), HashingEmbedder("another")
    assert finer.rebuild("default", embedder=other) == 2
    assert len(embedder.embedded) == before
    assert len(other.embedded) == len(set(other.embedded)) > 1
