import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from data.errors import UnknownCollection
from data.state import StateDirectory
from data.store import Store
from retrieval.ingest import Ingestor
from retrieval.retriever import Retriever
from tests.retrieval.hashing import HashingEmbedder, Settings

pytestmark = pytest.mark.slow

Spoil = Callable[[StateDirectory], None]


def sql(statement: str) -> Spoil:
    def spoil(state: StateDirectory) -> None:
        with sqlite3.connect(state.db) as connection:
            assert connection.execute(statement).rowcount > 0
        connection.close()

    return spoil


def cut_vectors(state: StateDirectory) -> None:
    path = max(
        (path for path in state.index("default", 2).rglob("*") if path.is_file()), key=lambda p: p.stat().st_size
    )
    content = path.read_bytes()
    path.unlink()  # Its hard link in the generation before stays whole.
    path.write_bytes(content[: len(content) // 2])


def leave_a_file(state: StateDirectory) -> None:
    (state.index("default", 2) / "dense" / "left.bin").write_bytes(b"x")


def leave_a_folder(state: StateDirectory) -> None:
    (state.index("default") / "77").mkdir()
    (state.root / "index" / "stranger").mkdir()


SPOILT = {
    "chunk-text": sql("UPDATE chunks SET text = 'something else' WHERE key = (SELECT max(key) FROM chunks)"),
    "chunk-count": sql("UPDATE documents SET chunks = 99 WHERE source = 'pears.txt'"),
    "cached-vector": sql("UPDATE embeddings SET vector = x'0011'"),
    "generation-missing": lambda state: shutil.rmtree(state.index("default", 2)),
    "generation-damaged": cut_vectors,
    "orphaned-file": leave_a_file,
    "orphaned-folder": leave_a_folder,
}


@pytest.fixture
def built(ingestor: Ingestor, folder: Path) -> Ingestor:
    """Two generations of three documents."""
    ingestor.ingest("default", [folder])
    (folder / "apples.md").write_text("# Apples\n\nApples grow on trees.\n\n## Colour\n\nSome apples are yellow.\n")
    ingestor.ingest("default", [folder])
    return ingestor


def test_a_sound_index_is_sound(built: Ingestor) -> None:
    found = built.verify("default")
    assert (found["ok"], found["problems"], found["generation"]) == (True, [], 2)
    assert (found["checked"]["documents"], found["checked"]["generations"]) == (3, 2)
    assert found["checked"]["chunks"] >= 3
    assert found["checked"]["files"] > 2


@pytest.mark.parametrize("kind", SPOILT)
def test_what_is_broken_is_named_then_repaired(
    kind: str, built: Ingestor, state: StateDirectory, retriever: Retriever
) -> None:
    SPOILT[kind](state)
    found = built.verify("default")
    assert not found["ok"]
    assert kind in {problem["kind"] for problem in found["problems"]}
    assert not any(problem["repaired"] for problem in found["problems"])
    assert not built.verify("default")["ok"], "a check changes nothing"
    repaired = built.verify("default", repair=True)
    assert repaired["ok"], repaired["problems"]
    assert kind in {problem["kind"] for problem in repaired["problems"]}
    assert built.verify("default")["problems"] == []
    assert [p.source for p in retriever.search("apples yellow", top_k=1)] == ["apples.md"]


def test_chunks_that_the_index_lacks_are_added(
    built: Ingestor, store: Store, folder: Path, state: StateDirectory
) -> None:
    document = store.documents.by_source("default")["pears.txt"]
    finer = Ingestor(store, state, HashingEmbedder(), Settings(chunk_size=3))
    finer.rechunk("default", [document], lambda _: None)
    found = finer.verify("default")
    assert {problem["kind"] for problem in found["problems"]} == {"index-missing"}
    assert finer.verify("default", repair=True)["ok"]


def test_another_embedder_is_a_mismatch_until_it_is_repaired(
    built: Ingestor, store: Store, state: StateDirectory
) -> None:
    other = Ingestor(store, state, HashingEmbedder("other"), Settings())
    assert [problem["kind"] for problem in other.verify("default")["problems"]] == ["index-mismatch"]
    assert other.verify("default", repair=True)["ok"]
    assert other.verify("default")["ok"]


def test_damaged_uploads_cannot_be_repaired(built: Ingestor, state: StateDirectory) -> None:
    blob = state.blobs / ("ab" * 32) / "a.txt"
    blob.parent.mkdir(parents=True)
    blob.write_text("not what the name says")
    found = built.verify("default", repair=True)
    assert not found["ok"]
    assert [(problem["kind"], problem["repaired"]) for problem in found["problems"]] == [("blob-damaged", False)]
    assert blob.exists()


def test_entries_of_deleted_documents_are_no_problem(built: Ingestor, store: Store) -> None:
    built.delete(store.documents.by_source("default")["pears.txt"].id)
    found = built.verify("default")
    assert found["ok"]
    assert found["notes"]["stale_entries"] == 1
    assert built.verify("default", repair=True)["notes"]["stale_entries"] == 0


def test_an_unknown_collection(built: Ingestor) -> None:
    with pytest.raises(UnknownCollection):
        built.verify("nowhere")


def test_compact_drops_what_nothing_needs(
    built: Ingestor, store: Store, embedder: HashingEmbedder, folder: Path, state: StateDirectory, retriever: Retriever
) -> None:
    chunks = len(store.chunks.keys("default"))
    assert store.embeddings.count(embedder.fingerprint) > chunks
    store.embeddings.put_many("an embedder of long ago", {"ab" * 32: b"1234"})
    before = [p.chunk.text for p in retriever.search("apples", top_k=5)]
    done = built.compact("default")
    assert done["dropped"]["vectors"] >= 2
    assert store.embeddings.count(embedder.fingerprint) == chunks
    assert store.embeddings.count("an embedder of long ago") == 0
    assert [p.chunk.text for p in retriever.search("apples", top_k=5)] == before
    embedder.embedded.clear()
    built.rebuild("default")
    assert embedder.embedded == []
    assert built.verify("default")["ok"]


def test_compact_keeps_what_a_generation_may_still_find(built: Ingestor, store: Store, retriever: Retriever) -> None:
    built.rollback("default")
    assert any("red" in passage.chunk.text for passage in retriever.search("apples red", top_k=3))
    built.compact("default")
    assert any("yellow" in passage.chunk.text for passage in retriever.search("apples yellow", top_k=3))
    for _ in range(3):
        built.rebuild("default")
    assert store.documents.collect_retired("default") == 0
