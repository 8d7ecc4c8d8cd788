import os
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from data.errors import InvalidRequest, JobCancelled, UnknownCollection, UnknownDocument
from data.records import Filter, Progress
from data.state import StateDirectory
from data.store import Store
from retrieval.ingest import Ingestor
from retrieval.retriever import Retriever
from retrieval.writer import Window
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
    assert sorted({progress.done for progress in loading} - {0}) == [1, 2, 3]
    assert [progress.done for progress in loading] == sorted(progress.done for progress in loading)
    assert {progress.total for progress in loading} == {3}
    assert told[-1].stage == "index"
    assert told[-1].done == told[-1].total


def cancel_at(count: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.done == count:
            raise JobCancelled("Stop.")

    return report


def test_a_cancelled_ingest_goes_on_where_it_stopped(
    store: Store, state: StateDirectory, embedder: HashingEmbedder, folder: Path
) -> None:
    ingestor = Ingestor(store, state, embedder, Settings(), Window(documents=1))
    with pytest.raises(JobCancelled):
        ingestor.ingest("default", [folder], report=cancel_at(2))
    assert store.documents.count("default") == 2
    again = ingestor.ingest("default", [folder])
    assert len(again.unchanged) == 2
    assert len(again.indexed) == 1
    assert ingestor.status("default")["up_to_date"] is True


def test_what_is_reported_is_stored(store: Store, ingestor: Ingestor, folder: Path) -> None:
    def report(progress: Progress) -> None:
        if progress.stage == "load":
            assert store.documents.count("default") >= progress.done

    assert len(ingestor.ingest("default", [folder], report=report).indexed) == 3


def test_sync_moves_what_has_the_same_bytes_elsewhere(
    ingestor: Ingestor, folder: Path, store: Store, retriever: Retriever, embedder: HashingEmbedder
) -> None:
    ingestor.ingest("default", [folder])
    before, keys = store.documents.by_source("default"), set(store.chunks.keys("default"))
    embedder.embedded.clear()
    (folder / "fruit").mkdir()
    (folder / "pears.txt").rename(folder / "fruit" / "green.txt")
    report = ingestor.ingest("default", [folder], sync=True)
    identity = before["pears.txt"].id
    assert report.moved == [{"from": "pears.txt", "to": "fruit/green.txt", "id": identity}]
    assert (report.indexed, report.deleted, report.failed, len(report.unchanged)) == ([], [], [], 2)
    assert (embedder.embedded, set(store.chunks.keys("default"))) == ([], keys)
    assert store.documents.by_source("default")["fruit/green.txt"].id == identity
    assert retriever.search("pears", top_k=1)[0].source == "fruit/green.txt"
    # The name is free again, and so is a text that had it before.
    (folder / "pears.txt").write_bytes((folder / "fruit" / "green.txt").read_bytes())
    assert [row["source"] for row in ingestor.ingest("default", [folder], sync=True).indexed] == ["pears.txt"]
    assert len({row.id for row in store.documents.by_source("default").values()}) == 4
    again = ingestor.ingest("default", [folder], sync=True)
    assert (len(again.unchanged), again.indexed, again.moved) == (4, [], [])


def test_without_sync_nothing_is_moved(ingestor: Ingestor, folder: Path, store: Store) -> None:
    ingestor.ingest("default", [folder])
    (folder / "pears.txt").rename(folder / "green.txt")
    report = ingestor.ingest("default", [folder])
    assert [row["source"] for row in report.indexed] == ["green.txt"]
    assert (report.moved, report.deleted) == ([], [])
    assert "pears.txt" in store.documents.by_source("default")


def test_another_suffix_is_read_anew(ingestor: Ingestor, folder: Path) -> None:
    ingestor.ingest("default", [folder])
    (folder / "apples.md").rename(folder / "apples.txt")
    report = ingestor.ingest("default", [folder], sync=True)
    assert (report.moved, report.deleted) == ([], ["apples.md"])
    assert [row["source"] for row in report.indexed] == ["apples.txt"]


def test_members_of_an_archive_are_documents_and_follow_it(ingestor: Ingestor, folder: Path, store: Store) -> None:
    def pack(*names: str) -> None:
        with zipfile.ZipFile(folder / "all.zip", "w") as archive:
            for name in names:
                archive.writestr(name, f"This is {name}, about kiwis.")

    pack("one.txt", "in/two.txt")
    report = ingestor.ingest("default", [folder], sync=True)
    inner = {"all.zip/one.txt", "all.zip/in/two.txt"}
    assert inner <= {row["source"] for row in report.indexed}
    again = ingestor.ingest("default", [folder], sync=True)
    assert (again.indexed, again.deleted, len(again.unchanged)) == ([], [], 5)
    (folder / "all.zip").write_bytes(b"PK\x03\x04broken")
    broken = ingestor.ingest("default", [folder], sync=True)
    assert [row["source"] for row in broken.failed] == ["all.zip"]
    assert inner <= store.documents.by_source("default").keys()
    pack("one.txt")
    assert ingestor.ingest("default", [folder], sync=True).deleted == ["all.zip/in/two.txt"]
    (folder / "all.zip").unlink()
    assert ingestor.ingest("default", [folder], sync=True).deleted == ["all.zip/one.txt"]


def test_tags_are_put_on_every_document_and_stay(ingestor: Ingestor, folder: Path, store: Store) -> None:
    ingestor.ingest("default", [folder], tags=["fruit", " fruit ", "2024"])
    assert {row.tags for row in store.documents.by_source("default").values()} == {("fruit", "2024")}
    (folder / "pears.txt").write_text("Pears are sour now.\n")
    ingestor.ingest("default", [folder])
    assert {row.tags for row in store.documents.by_source("default").values()} == {("fruit", "2024")}
    report = ingestor.ingest("default", [folder / "apples.md"], tags=["red"])
    assert len(report.unchanged) == 1
    assert store.documents.by_source("default")["apples.md"].tags == ("red",)
    fruit = store.documents.list("default", filter=Filter(tags=("fruit",)))[0]
    assert sorted(row.source for row in fruit) == ["more/plums.md", "pears.txt"]
    with pytest.raises(InvalidRequest):
        ingestor.ingest("default", [folder], tags=[" "])


def test_the_date_is_that_of_the_file(ingestor: Ingestor, folder: Path, store: Store) -> None:
    os.utime(folder / "pears.txt", (1_000_000_000, 1_000_000_000))
    ingestor.ingest("default", [folder])
    assert store.documents.by_source("default")["pears.txt"].modified_at == 1_000_000_000
    assert len(store.chunks.matching("default", Filter(until=1_000_000_000))) == 1


@pytest.mark.slow
def test_a_replaced_document_is_found_all_the_time(
    ingestor: Ingestor, folder: Path, retriever: Retriever, store: Store
) -> None:
    """Searches in another thread, while a document is replaced again and again, always see it."""
    ingestor.ingest("default", [folder])
    stop, seen, lost = threading.Event(), set[str](), list[object]()

    def search() -> None:
        chosen = Filter(sources=("pears.*",))
        while not stop.is_set():
            found = [passage for passage in retriever.search("pears", top_k=3) if passage.source == "pears.txt"]
            if not found:
                lost.append("search")
                continue
            chunk = found[0].chunk
            if store.documents.get(chunk.document_id).text[chunk.start : chunk.end] != chunk.text:
                lost.append(chunk)
            if not len(store.chunks.matching("default", chosen)):
                lost.append("filter")
            seen.add(chunk.text)

    thread = threading.Thread(target=search)
    thread.start()
    try:
        for number in range(8):
            (folder / "pears.txt").write_text(f"Pears are sweet in version {number}.\n")
            ingestor.ingest("default", [folder], sync=True)
    finally:
        stop.set()
        thread.join()
    assert lost == []
    assert len(seen) > 1


def test_what_was_replaced_is_found_until_the_index_follows(
    ingestor: Ingestor, folder: Path, retriever: Retriever, store: Store
) -> None:
    ingestor.ingest("default", [folder])
    (folder / "pears.txt").write_text("Pears are sour now.\n")

    def stop_before_the_index(progress: Progress) -> None:
        if progress.stage == "index":
            raise JobCancelled("Stop.")

    with pytest.raises(JobCancelled):
        ingestor.ingest("default", [folder], report=stop_before_the_index)
    found = retriever.search("pears", top_k=1)[0]
    assert found.chunk.text == "Pears are sweet and green."
    assert store.documents.get(found.chunk.document_id).text == "Pears are sweet and green.\n"
    assert store.documents.by_source("default")["pears.txt"].id != found.chunk.document_id
    ingestor.ingest("default", [folder])
    assert retriever.search("pears", top_k=1)[0].chunk.text == "Pears are sour now."
    ingestor.rollback("default")
    assert retriever.search("pears", top_k=1)[0].chunk.text == "Pears are sweet and green."
    # Deleting it means every version of it.
    ingestor.delete(store.documents.by_source("default")["pears.txt"].id)
    assert "pears.txt" not in {passage.source for passage in retriever.search("pears sweet", top_k=9)}


def test_a_rebuild_under_other_settings_serves_the_old_chunks_meanwhile(
    store: Store, state: StateDirectory, embedder: HashingEmbedder, ingestor: Ingestor, retriever: Retriever
) -> None:
    ingestor.ingest("default", [SAMPLES / "02-normans.md"])
    found: set[int] = set()

    def search(_: Progress) -> None:
        found.add(len(retriever.search("Normans in Normandy", top_k=3)))

    Ingestor(store, state, embedder, Settings(chunk_size=20)).rebuild("default", search)
    assert found == {3}


def test_status_tells_what_is_indexed(ingestor: Ingestor, folder: Path, store: Store) -> None:
    assert ingestor.status("default")["generation"] is None
    ingestor.ingest("default", [folder])
    status = ingestor.status("default")
    assert (status["generation"], status["documents"], status["chunks"], status["indexed_chunks"]) == (1, 3, 3, 3)
    ingestor.delete(store.documents.by_source("default")["pears.txt"].id)
    assert ingestor.status("default")["up_to_date"] is False
