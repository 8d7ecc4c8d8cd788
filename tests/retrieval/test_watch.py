import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

import pytest

from data.errors import InvalidRequest
from retrieval.ingest import Ingestor
from retrieval.retriever import Retriever
from retrieval.watch import Batch, follow

pytestmark = pytest.mark.slow

WAIT_S = 30.0


@contextmanager
def following(ingestor: Ingestor, *paths: Path) -> Iterator[Queue[Batch]]:
    """Follow in a thread; yields the batches as they come."""
    stop, batches = threading.Event(), Queue[Batch]()

    def run() -> None:
        for batch in follow(ingestor, "default", paths, stop=stop):
            batches.put(batch)

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield batches
    finally:
        stop.set()
        thread.join(WAIT_S)
    assert not thread.is_alive()


def until(batches: "Queue[Batch]", name: str) -> list[object]:
    """Wait for a batch with something in that list of its report, and return the list."""
    while True:
        report = batches.get(timeout=WAIT_S).report
        if report is not None and (found := getattr(report, name)):
            return list(found)


def test_a_folder_is_followed(ingestor: Ingestor, folder: Path, retriever: Retriever) -> None:
    with following(ingestor, folder) as batches:
        assert len(until(batches, "indexed")) == 3
        (folder / "cherries.md").write_text("# Cherries\n\nCherries hang in pairs.\n")
        assert [row["source"] for row in until(batches, "indexed")] == ["cherries.md"]
        assert retriever.search("cherries", top_k=1)[0].source == "cherries.md"
        (folder / "cherries.md").rename(folder / "more" / "sweet.md")
        assert [(row["from"], row["to"]) for row in until(batches, "moved")] == [("cherries.md", "more/sweet.md")]
        (folder / "more" / "sweet.md").unlink()
        assert until(batches, "deleted") == ["more/sweet.md"]


def test_a_file_that_failed_is_tried_again_when_it_changes(ingestor: Ingestor, folder: Path) -> None:
    (folder / "empty.txt").write_text("")
    with following(ingestor, folder) as batches:
        first = batches.get(timeout=WAIT_S).report
        assert first is not None
        assert [row["source"] for row in first.failed] == ["empty.txt"]
        (folder / "empty.txt").write_text("No longer empty.")
        assert [row["source"] for row in until(batches, "indexed")] == ["empty.txt"]


def test_an_emptied_folder_is_an_error_and_deletes_nothing(ingestor: Ingestor, tmp_path: Path) -> None:
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "only.txt").write_text("The only one.")
    with following(ingestor, folder) as batches:
        until(batches, "indexed")
        (folder / "only.txt").unlink()
        error = batches.get(timeout=WAIT_S).error
        assert isinstance(error, InvalidRequest)
        assert ingestor.status("default")["documents"] == 1
        (folder / "other.txt").write_text("Another one.")
        report = batches.get(timeout=WAIT_S).report
        assert report is not None
        assert ([row["source"] for row in report.indexed], report.deleted) == (["other.txt"], ["only.txt"])


def test_a_single_file_is_followed_and_its_neighbours_are_not(ingestor: Ingestor, folder: Path) -> None:
    with following(ingestor, folder / "pears.txt") as batches:
        until(batches, "indexed")
        (folder / "apples.md").write_text("# Apples\n\nOther apples.\n")
        (folder / "pears.new").write_text("Pears are blue.\n")
        (folder / "pears.new").replace(folder / "pears.txt")
        assert [row["source"] for row in until(batches, "indexed")] == ["pears.txt"]
        assert ingestor.status("default")["documents"] == 1


def test_a_path_that_does_not_exist(ingestor: Ingestor, tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest):
        next(follow(ingestor, "default", [tmp_path / "nothing"]))
