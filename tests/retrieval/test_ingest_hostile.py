"""One hostile or odd file fails alone, or is read: the others of its job are indexed all the same."""

from __future__ import annotations

import io
import json
import os
import warnings
import zipfile
from pathlib import Path

from data.errors import StorageCorrupt
from data.protocols import Embedder
from data.store import Store
from retrieval.embedders import Embedders
from retrieval.ingest import Ingestor
from tests.retrieval.hashing import HashingEmbedder


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
