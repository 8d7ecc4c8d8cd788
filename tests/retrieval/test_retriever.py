import threading
from pathlib import Path

import pytest

from data.errors import IndexMismatch, InvalidRequest, NothingIndexed, UnknownCollection
from data.records import METHODS, Method
from data.state import StateDirectory
from data.store import Store
from retrieval.embed import SentenceTransformerEmbedder, starter_embedder_path
from retrieval.ingest import Ingestor
from retrieval.retriever import Retriever
from tests.retrieval.hashing import HashingEmbedder, Settings

SAMPLES = Path(__file__).resolve().parents[2] / "data" / "samples"


@pytest.mark.parametrize("method", METHODS)
def test_passages_are_ranked_and_quote_their_document(
    ingestor: Ingestor, retriever: Retriever, store: Store, method: Method
) -> None:
    ingestor.ingest("default", [SAMPLES / "corpus"])
    passages = retriever.search("Which fleet of ash trees gave Fresno its name?", top_k=5, method=method)
    assert [passage.rank for passage in passages] == [1, 2, 3, 4, 5]
    assert [passage.score for passage in passages] == sorted((p.score for p in passages), reverse=True)
    for passage in passages:
        document = store.documents.get(passage.chunk.document_id)
        assert document.text[passage.chunk.start : passage.chunk.end] == passage.chunk.text
        assert (passage.source, passage.title) == (document.source, document.title)
    # The hashing embedder knows no meaning: only words can be asked of it.
    assert method == "dense" or "18-fresno-california.md" in {passage.source for passage in passages}


def test_origin_names_the_legs(ingestor: Ingestor, retriever: Retriever, folder: Path) -> None:
    ingestor.ingest("default", [folder])
    assert {p.origin for p in retriever.search("pears", method="dense")} == {"dense"}
    assert {p.origin for p in retriever.search("pears", method="lexical")} == {"lexical"}
    assert retriever.search("pears", method="hybrid")[0].origin == "dense+lexical"


def test_excluded_chunks_make_room_for_the_next(ingestor: Ingestor, retriever: Retriever, folder: Path) -> None:
    ingestor.ingest("default", [folder])
    first, second = retriever.search("pears", top_k=2)
    assert retriever.search("pears", top_k=1, exclude_chunks=[first.chunk.id])[0].chunk == second.chunk


def test_a_search_goes_deeper_past_deleted_documents(
    ingestor: Ingestor, retriever: Retriever, store: Store, tmp_path: Path
) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    (folder / "gone.txt").write_text("\n\n".join("apple " * 25 + f"part{number}" for number in range(120)))
    for name in "abcd":
        (folder / f"{name}.txt").write_text("apple " + f"filler{name} " * 5)
    ingestor.ingest("default", [folder])
    assert len(store.chunks.keys("default")) == 124
    ingestor.delete(store.documents.by_source("default")["gone.txt"].id)
    for method in METHODS:
        found = [passage.source for passage in retriever.search("apple", top_k=4, method=method)]
        assert sorted(found) == ["a.txt", "b.txt", "c.txt", "d.txt"]


def test_a_new_generation_is_noticed(ingestor: Ingestor, retriever: Retriever, folder: Path) -> None:
    ingestor.ingest("default", [folder])
    assert retriever.retrieve("kiwi").generation == 1
    (folder / "kiwi.txt").write_text("Kiwi fruit is green.")
    ingestor.ingest("default", [folder])
    found = retriever.retrieve("kiwi", top_k=1)
    assert (found.generation, found.passages[0].source) == (2, "kiwi.txt")


def test_errors_name_the_next_step(
    ingestor: Ingestor, retriever: Retriever, folder: Path, store: Store, state: StateDirectory
) -> None:
    with pytest.raises(NothingIndexed) as nothing:
        retriever.search("apples")
    assert "ragtune ingest" in nothing.value.hint
    with pytest.raises(UnknownCollection):
        retriever.search("apples", "nowhere")
    ingestor.ingest("default", [folder])
    with pytest.raises(InvalidRequest):
        retriever.search("apples", method="magic")  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest):
        retriever.search("apples", top_k=0)
    with pytest.raises(IndexMismatch) as mismatch:
        Retriever(store, state, HashingEmbedder("other")).search("apples")
    assert "rebuild" in mismatch.value.hint


def test_a_collection_whose_documents_are_all_deleted_holds_nothing(
    ingestor: Ingestor, retriever: Retriever, folder: Path, store: Store
) -> None:
    ingestor.ingest("default", [folder])
    for row in store.documents.by_source("default").values():
        ingestor.delete(row.id)
    assert retriever.search("apples") == []
    ingestor.rebuild("default")
    with pytest.raises(NothingIndexed):
        retriever.search("apples")


def test_searches_during_swaps_never_mix_generations(ingestor: Ingestor, retriever: Retriever, tmp_path: Path) -> None:
    folder = tmp_path / "versions"
    folder.mkdir()

    def write(version: int) -> None:
        for name in "abcd":
            (folder / f"{name}.txt").write_text(f"Document {name} in version{version}.")

    write(0)
    ingestor.ingest("default", [folder])
    stop, mixed, failures, searches = threading.Event(), [], [], [0]

    def search() -> None:
        while not stop.is_set():
            try:
                texts = [passage.chunk.text for passage in retriever.search("document version", top_k=4)]
            except Exception as error:
                failures.append(error)
                return
            searches[0] += 1
            if len({text.split("version")[1] for text in texts}) > 1:
                mixed.append(texts)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for version in range(1, 5):
            write(version)
            ingestor.ingest("default", [folder])
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert failures == []
    assert mixed == []
    assert searches[0] > 0
    assert retriever.search("document", top_k=1)[0].chunk.text.endswith("version4.")


def test_a_closed_retriever_opens_again(ingestor: Ingestor, retriever: Retriever, folder: Path) -> None:
    ingestor.ingest("default", [folder])
    retriever.search("apples")
    retriever.close()
    assert retriever.search("apples")


@pytest.mark.slow
def test_the_sample_questions_find_their_article(state: StateDirectory, store: Store) -> None:
    from data.formats import read_questions

    embedder = SentenceTransformerEmbedder(starter_embedder_path())
    report = Ingestor(store, state, embedder, Settings(chunk_size=200)).ingest("default", [SAMPLES / "corpus"])
    assert len(report.indexed) == 24
    retriever = Retriever(store, state, embedder)
    questions = [question for question in read_questions(SAMPLES / "questions.jsonl") if question.answerable]
    for method, floor in (("hybrid", 0.95), ("dense", 0.9), ("lexical", 0.95)):
        found = [
            any(answer in p.chunk.text for p in retriever.search(q.question, method=method) for answer in q.answers)
            for q in questions
        ]
        assert sum(found) >= floor * len(found), method
