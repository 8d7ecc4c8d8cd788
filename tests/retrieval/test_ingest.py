from collections.abc import Callable
from pathlib import Path

import pytest

from data.errors import InvalidRequest, JobCancelled, UnknownCollection, UnknownDocument
from data.records import Progress
from data.state import StateDirectory
from data.store import Store
from retrieval.ingest import Ingestor
from retrieval.retriever import Retriever
from tests.retrieval.hashing import HashingEmbedder, Settings

SAMPLES = Path(__file__).resolve().parents[2] / "data" / "samples" / "corpus"


def test_every_file_is_accounted_for(ingestor: Ingestor, folder: Path, store: Store) -> None:
    (folder / "bad.pdf").write_text("no pdf")
    (folder / "empty.txt").write_text("")
    report = ingestor.ingest("default", [folder])
    assert sorted(row["source"] for row in report.indexed) == ["apples.md", "more/plums.md", "pears.txt"]
    assert {row["source"]: row["type"] for row in report.failed} == {
        "bad.pdf": "damaged-document",
        "empty.txt": "empty-document",
    }
    assert all(row["detail"] and row["hint"] for row in report.failed)
    assert all(row["chunks"] >= 1 for row in report.indexed)
    stored = store.documents.by_source("default")
    assert {row["id"] for row in report.indexed} == {row.id for row in stored.values()}


def test_unchanged_files_are_skipped(ingestor: Ingestor, folder: Path, embedder: HashingEmbedder) -> None:
    first = ingestor.ingest("default", [folder])
    embedder.embedded.clear()
    (folder / "pears.txt").write_text("Pears are sour now.\n")
    again = ingestor.ingest("default", [folder])
    assert [row["source"] for row in again.indexed] == ["pears.txt"]
    assert sorted(row["source"] for row in again.unchanged) == ["apples.md", "more/plums.md"]
    assert len(embedder.embedded) == 1
    assert len(first.indexed) == 3


def test_an_edited_document_replaces_the_old_one(
    ingestor: Ingestor, folder: Path, store: Store, retriever: Retriever
) -> None:
    ingestor.ingest("default", [folder])
    (folder / "pears.txt").write_text("Pears are sour now.\n")
    ingestor.ingest("default", [folder])
    assert store.documents.count("default") == 3
    assert [p.chunk.text for p in retriever.search("pears", method="lexical")] == ["Pears are sour now."]


def test_a_broken_edit_keeps_what_was_there(ingestor: Ingestor, folder: Path, retriever: Retriever) -> None:
    ingestor.ingest("default", [folder])
    (folder / "pears.txt").write_text("")
    report = ingestor.ingest("default", [folder], sync=True)
    assert [row["source"] for row in report.failed] == ["pears.txt"]
    assert retriever.search("pears", top_k=1)[0].source == "pears.txt"


def test_sync_deletes_what_is_gone(ingestor: Ingestor, folder: Path, store: Store) -> None:
    ingestor.ingest("default", [folder])
    (folder / "pears.txt").unlink()
    assert ingestor.ingest("default", [folder]).deleted == []
    assert ingestor.ingest("default", [folder], sync=True).deleted == ["pears.txt"]
    assert sorted(store.documents.by_source("default")) == ["apples.md", "more/plums.md"]


def test_the_same_text_at_two_places_gives_two_documents(ingestor: Ingestor, tmp_path: Path, store: Store) -> None:
    (tmp_path / "docs").mkdir()
    for name in ("a.txt", "b.txt"):
        (tmp_path / "docs" / name).write_text("The very same words.")
    ingestor.ingest("default", [tmp_path / "docs"])
    ingestor.ingest("other", [tmp_path / "docs"])
    ids = {row.id for name in ("default", "other") for row in store.documents.by_source(name).values()}
    assert len(ids) == 4


def test_collections_are_apart(ingestor: Ingestor, folder: Path, retriever: Retriever, tmp_path: Path) -> None:
    (tmp_path / "trains.txt").write_text("Trains run on rails.")
    ingestor.ingest("default", [folder])
    ingestor.ingest("trains", [tmp_path / "trains.txt"])
    assert {passage.source for passage in retriever.search("apples", "trains")} == {"trains.txt"}
    assert "trains.txt" not in {passage.source for passage in retriever.search("trains", top_k=9)}


def test_a_deleted_document_is_not_found_even_before_a_build(
    ingestor: Ingestor, folder: Path, store: Store, retriever: Retriever
) -> None:
    ingestor.ingest("default", [folder])
    gone = store.documents.by_source("default")["pears.txt"]
    ingestor.delete(gone.id)
    assert "pears.txt" not in {passage.source for passage in retriever.search("pears sweet green", top_k=9)}
    with pytest.raises(UnknownDocument):
        ingestor.delete(gone.id)


@pytest.mark.parametrize("name", ["../up", "", "a/b", ".hidden", "x" * 100])
def test_a_collection_name_cannot_be_a_path(ingestor: Ingestor, folder: Path, name: str) -> None:
    with pytest.raises(InvalidRequest):
        ingestor.ingest(name, [folder])


def test_an_empty_folder_is_an_error_and_deletes_nothing(
    ingestor: Ingestor, folder: Path, tmp_path: Path, store: Store
) -> None:
    ingestor.ingest("default", [folder])
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InvalidRequest):
        ingestor.ingest("default", [tmp_path / "nothing"], sync=True)
    assert store.documents.count("default") == 3


def test_other_chunk_settings_chunk_again(
    store: Store, state: StateDirectory, embedder: HashingEmbedder, ingestor: Ingestor
) -> None:
    few = ingestor.ingest("default", [SAMPLES / "02-normans.md"]).indexed[0]["chunks"]
    finer = Ingestor(store, state, embedder, Settings(chunk_size=20))
    assert finer.status("default")["up_to_date"] is False
    finer.rebuild("default")
    assert len(store.chunks.keys("default")) > few
    assert finer.status("default")["up_to_date"] is True
    assert finer.ingest("default", [SAMPLES / "02-normans.md"]).unchanged


def test_a_rebuild_takes_vectors_from_the_cache(ingestor: Ingestor, folder: Path, embedder: HashingEmbedder) -> None:
    ingestor.ingest("default", [folder])
    embedder.embedded.clear()
    assert ingestor.rebuild("default") == 2
    assert embedder.embedded == []


def test_rebuilding_an_unknown_collection_is_an_error(ingestor: Ingestor) -> None:
    with pytest.raises(UnknownCollection):
        ingestor.rebuild("nowhere")


def test_progress_counts_documents_then_chunks(ingestor: Ingestor, folder: Path) -> None:
    told: list[Progress] = []
    ingestor.ingest("default", [folder], report=told.append)
    loading = [progress for progress in told if progress.stage == "load"]
    assert [progress.done for progress in loading] == [1, 2, 3]
    assert {progress.total for progress in loading} == {3}
    assert told[-1].stage == "index"
    assert told[-1].done == told[-1].total


def test_a_cancelled_ingest_goes_on_where_it_stopped(ingestor: Ingestor, folder: Path, store: Store) -> None:
    def cancel_at(count: int) -> Callable[[Progress], None]:
        def report(progress: Progress) -> None:
            if progress.done == count:
                raise JobCancelled("Stop.")

        return report

    with pytest.raises(JobCancelled):
        ingestor.ingest("default", [folder], report=cancel_at(2))
    assert store.documents.count("default") == 2
    again = ingestor.ingest("default", [folder])
    assert len(again.unchanged) == 2
    assert len(again.indexed) == 1
    assert ingestor.status("default")["up_to_date"] is True


def test_status_tells_what_is_indexed(ingestor: Ingestor, folder: Path, store: Store) -> None:
    assert ingestor.status("default")["generation"] is None
    ingestor.ingest("default", [folder])
    status = ingestor.status("default")
    assert (status["generation"], status["documents"], status["chunks"], status["indexed_chunks"]) == (1, 3, 3, 3)
    ingestor.delete(store.documents.by_source("default")["pears.txt"].id)
    assert ingestor.status("default")["up_to_date"] is False
