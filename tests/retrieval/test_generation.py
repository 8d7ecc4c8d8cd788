import json
import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from data.errors import IndexMismatch, IndexRefused, InsufficientStorage, InvalidRequest, JobCancelled, StorageCorrupt
from data.protocols import Keys, Vectors
from data.records import Chunk, Document, Progress
from data.state import StateDirectory
from data.store import Store
from retrieval import manifest as manifests
from retrieval.generation import KEPT_GENERATIONS, GenerationBuilder, open_generation, read_manifest
from retrieval.index import FaissIndex
from retrieval.ingest import Ingestor
from retrieval.lexical import TantivyIndex
from retrieval.retriever import Retriever
from retrieval.segments import Policy
from tests.retrieval.hashing import HashingEmbedder, Settings

pytestmark = pytest.mark.slow

CRASH = Path(__file__).with_name("crash.py")


@pytest.fixture
def builder(store: Store, state: StateDirectory, embedder: HashingEmbedder) -> GenerationBuilder:
    return GenerationBuilder(store, state, embedder, {"chunk_size": 40})


def nobody(_: Progress) -> None:
    pass


def generations_on_disk(state: StateDirectory) -> list[int]:
    return sorted(int(folder.name) for folder in state.index("default").iterdir() if folder.is_dir())


def grow(folder: Path, ingestor: Ingestor, number: int) -> int | None:
    (folder / f"new{number}.txt").write_text(f"New document number{number} about kiwi{number}.")
    return ingestor.ingest("default", [folder]).generation


def put(store: Store, first: int, count: int) -> None:
    """Store ``count`` documents of one chunk each."""
    for number in range(first, first + count):
        text = f"Passage number{number} tells of thing{number} and subject{number % 7}."
        chunk = Chunk(f"chunk{number}", f"id{number}", text, 0, len(text), "Things")
        store.documents.put(
            "default", Document(f"id{number}", f"{number}.txt", "", text, "text/plain", {}), "0" * 64, [chunk]
        )


def test_a_manifest_names_every_file(ingestor: Ingestor, state: StateDirectory, folder: Path) -> None:
    number = ingestor.ingest("default", [folder]).generation
    manifest = read_manifest(state.index("default", number))
    assert manifest["embedder"] == "hashing"
    assert manifest["chunks"] == 3
    assert {name.split("/")[0] for name in manifest["files"]} == {"dense", "lexical"}


def test_an_index_that_is_up_to_date_is_left_alone(ingestor: Ingestor, state: StateDirectory, folder: Path) -> None:
    first = ingestor.ingest("default", [folder]).generation
    assert ingestor.ingest("default", [folder]).generation == first
    assert generations_on_disk(state) == [first]


def test_a_new_generation_embeds_only_what_is_new(
    ingestor: Ingestor, folder: Path, embedder: HashingEmbedder, retriever: Retriever
) -> None:
    ingestor.ingest("default", [folder])
    embedder.embedded.clear()
    assert grow(folder, ingestor, 1) == 2
    assert len(embedder.embedded) == 1
    assert retriever.search("kiwi1", top_k=1)[0].source == "new1.txt"
    assert retriever.search("pears", top_k=1)[0].source == "pears.txt"


def test_a_difference_leaves_the_older_generation_whole(
    ingestor: Ingestor, state: StateDirectory, folder: Path, store: Store
) -> None:
    ingestor.ingest("default", [folder])
    before = store.chunks.keys("default")
    (folder / "pears.txt").unlink()
    ingestor.ingest("default", [folder], sync=True)
    grow(folder, ingestor, 1)
    old = open_generation(state.index("default", 1))
    found = {hit.key for hit in old.search("pears sweet", None, "lexical", 10)}
    assert len(old) == len(before)
    assert found <= before
    assert found


def test_only_the_newest_generations_stay(
    ingestor: Ingestor, state: StateDirectory, folder: Path, store: Store
) -> None:
    ingestor.ingest("default", [folder])
    for number in range(KEPT_GENERATIONS + 1):
        grow(folder, ingestor, number)
    newest = [3, 4, 5]
    assert generations_on_disk(state) == newest
    assert [row.number for row in store.generations.list("default")] == newest


def test_a_rollback_serves_the_older_generation_and_the_next_build_repairs(
    ingestor: Ingestor, folder: Path, retriever: Retriever
) -> None:
    ingestor.ingest("default", [folder])
    grow(folder, ingestor, 1)
    assert ingestor.rollback("default") == 1
    assert retriever.generation("default") == 1
    assert "new1.txt" not in {passage.source for passage in retriever.search("kiwi1", top_k=9)}
    assert ingestor.ingest("default", [folder]).generation == 3
    assert retriever.search("kiwi1", top_k=1)[0].source == "new1.txt"


def test_there_must_be_a_generation_to_go_back_to(ingestor: Ingestor, folder: Path) -> None:
    with pytest.raises(InvalidRequest):
        ingestor.rollback("default")
    ingestor.ingest("default", [folder])
    with pytest.raises(InvalidRequest):
        ingestor.rollback("default")


def test_a_rollback_skips_a_damaged_generation(ingestor: Ingestor, state: StateDirectory, folder: Path) -> None:
    ingestor.ingest("default", [folder])
    grow(folder, ingestor, 1)
    grow(folder, ingestor, 2)
    file = state.index("default", 2) / "dense" / "segments.json"
    file.write_bytes(file.read_bytes() + b" ")
    assert ingestor.rollback("default") == 1


def test_generations_share_the_files_of_large_segments(
    builder: GenerationBuilder, state: StateDirectory, store: Store
) -> None:
    builder = GenerationBuilder(store, state, HashingEmbedder(), {}, Policy(flat_max=40, hnsw_max=40))
    put(store, 0, 60)
    builder.build("default", nobody)
    put(store, 60, 1)
    store.documents.delete("id3")
    builder.build("default", nobody, compact=True)
    put(store, 61, 1)
    builder.build("default", nobody)
    for number in (1, 2, 3):
        read_manifest(state.index("default", number), full=True)
    opened = open_generation(state.index("default", 3))
    assert len(opened) == 61
    assert [hit.key for hit in opened.search("thing61", None, "lexical", 1)] == list(
        store.chunks.keys_of(["chunk61"]).values()
    )


def test_compacting_joins_the_segments_of_an_index_that_is_up_to_date(
    builder: GenerationBuilder, state: StateDirectory, store: Store
) -> None:
    put(store, 0, 30)
    builder.build("default", nobody)
    store.documents.delete("id3")
    builder.build("default", nobody)
    assert builder.build("default", nobody) == 2
    assert builder.build("default", nobody, compact=True) == 3
    assert FaissIndex(state.index("default", 3) / "dense", 64).kinds() == [("flat", 29, 0)]


@pytest.mark.parametrize("leg", ["dense", "lexical"])
def test_a_generation_that_does_not_find_its_chunks_is_refused(
    builder: GenerationBuilder, state: StateDirectory, store: Store, monkeypatch: pytest.MonkeyPatch, leg: str
) -> None:
    put(store, 0, 20)
    builder.build("default", nobody)
    put(store, 20, 60)
    add_vectors, add_texts = FaissIndex.add, TantivyIndex.add

    def shifted(index: FaissIndex, keys: Sequence[int] | Keys, texts: Sequence[str], vectors: Vectors) -> None:
        add_vectors(index, keys, texts, vectors[::-1])

    def emptied(index: TantivyIndex, keys: Sequence[int] | Keys, texts: Sequence[str], vectors: Vectors) -> None:
        add_texts(index, keys, ["nothing"] * len(texts), vectors)

    with monkeypatch.context() as patch:
        if leg == "dense":
            patch.setattr(FaissIndex, "add", shifted)
        else:
            patch.setattr(TantivyIndex, "add", emptied)
        with pytest.raises(IndexRefused, match=leg):
            builder.build("default", nobody)
    assert store.collections.current_generation("default") == 1
    assert generations_on_disk(state) == [1]
    assert builder.build("default", nobody) == 3


def test_what_was_just_built_is_not_hashed_again_unless_it_was_touched(
    builder: GenerationBuilder, state: StateDirectory, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, 0, 5)
    builder.build("default", nobody)
    root = state.index("default", 1)
    hashed: list[str] = []

    def spy(path: Path) -> str:
        hashed.append(path.name)
        return "0" * 64

    monkeypatch.setattr(manifests, "sha256_file", spy)
    read_manifest(root)
    assert hashed == []
    (root / "dense" / "segments.json").touch()
    with pytest.raises(StorageCorrupt):
        read_manifest(root)
    assert hashed == ["segments.json"]
    with pytest.raises(StorageCorrupt):
        read_manifest(root, full=True)


def test_damage_from_before_this_process_is_noticed_whatever_the_times_say(
    builder: GenerationBuilder, state: StateDirectory, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, 0, 5)
    builder.build("default", nobody)
    (file,) = (state.index("default", 1) / "dense").glob("*.faiss")
    found, content = file.stat(), bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(found.st_atime_ns, found.st_mtime_ns))
    monkeypatch.setattr(manifests, "_known", {})
    monkeypatch.setattr(manifests, "_STARTED_NS", found.st_mtime_ns + 1)
    with pytest.raises(StorageCorrupt):
        open_generation(state.index("default", 1))


@pytest.mark.parametrize("changed", [{"format": 1}, {"analyzer": "other"}])
def test_an_index_of_another_making_is_a_mismatch_and_is_built_anew(
    builder: GenerationBuilder, state: StateDirectory, store: Store, changed: dict[str, object]
) -> None:
    put(store, 0, 5)
    builder.build("default", nobody)
    file = state.index("default", 1) / "manifest.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    with pytest.raises(IndexMismatch):
        open_generation(state.index("default", 1))
    assert builder.build("default", nobody) == 2


@pytest.mark.slow
def test_searches_go_on_during_builds_and_every_answer_is_of_one_generation(
    builder: GenerationBuilder, state: StateDirectory, store: Store, embedder: HashingEmbedder
) -> None:
    put(store, 0, 40)
    builder.build("default", nobody)
    retriever, stop, failed = Retriever(store, state, embedder), threading.Event(), []

    def search() -> None:
        while not stop.is_set():
            try:
                if not retriever.search("thing7", top_k=3):
                    failed.append("nothing found")
            except Exception as error:
                failed.append(repr(error))

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(4):
        put(store, 100 + number * 10, 10)
        builder.build("default", nobody)
    builder.rollback("default")
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []


def test_garbage_is_swept_by_the_next_build(
    ingestor: Ingestor, state: StateDirectory, store: Store, folder: Path
) -> None:
    ingestor.ingest("default", [folder])
    number = store.generations.begin("default", {})
    garbage = state.index("default", number)
    shutil.copytree(state.index("default", 1), garbage)
    ingestor.ingest("default", [folder])
    assert generations_on_disk(state) == [1]
    assert store.generations.get("default", number).status == "failed"


@pytest.mark.parametrize("seed", range(6))
def test_a_changed_byte_is_noticed_before_anything_is_read(
    ingestor: Ingestor, state: StateDirectory, folder: Path, retriever: Retriever, seed: int
) -> None:
    ingestor.ingest("default", [folder])
    rng = random.Random(seed)
    root = state.index("default", 1)
    manifest = read_manifest(root)
    file = root / rng.choice(sorted(manifest["files"]))
    content = bytearray(file.read_bytes())
    if content and rng.random() < 0.5:
        content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    else:
        content = content[: len(content) // 2] if content else bytearray(b"x")
    # A new file, as hard links are shared with no other generation here.
    file.unlink()
    file.write_bytes(content)
    with pytest.raises(StorageCorrupt):
        open_generation(root)
    with pytest.raises(StorageCorrupt):
        retriever.search("apples")
    assert ingestor.ingest("default", [folder]).generation == 2
    assert retriever.search("apples", top_k=1)[0].source == "apples.md"


def test_a_cancelled_build_leaves_the_current_generation(
    builder: GenerationBuilder, ingestor: Ingestor, state: StateDirectory, store: Store, folder: Path
) -> None:
    ingestor.ingest("default", [folder])

    def cancel(_: Progress) -> None:
        raise JobCancelled("Stop.")

    with pytest.raises(JobCancelled):
        builder.build("default", cancel, fresh=True)
    assert store.collections.current_generation("default") == 1
    assert generations_on_disk(state) == [1]
    assert [row.status for row in store.generations.list("default")] == ["ready", "failed"]


def test_a_full_disk_leaves_the_current_generation(
    ingestor: Ingestor, state: StateDirectory, store: Store, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ingestor.ingest("default", [folder])

    def full(_: FaissIndex) -> None:
        raise InsufficientStorage("The disk is full.")

    with monkeypatch.context() as patch:
        patch.setattr(FaissIndex, "save", full)
        with pytest.raises(InsufficientStorage):
            ingestor.rebuild("default")
    assert store.collections.current_generation("default") == 1
    assert generations_on_disk(state) == [1]
    assert ingestor.rebuild("default") == 3


def test_nothing_to_index_builds_nothing(builder: GenerationBuilder, store: Store) -> None:
    assert builder.build("default", nobody) is None
    assert builder.build("default", nobody, fresh=True) is None
    assert store.generations.list("default") == []


def test_another_embedder_starts_anew(store: Store, state: StateDirectory, folder: Path, ingestor: Ingestor) -> None:
    ingestor.ingest("default", [folder])
    other = HashingEmbedder("other")
    Ingestor(store, state, other, Settings()).rebuild("default")
    assert len(other.embedded) == 3
    assert Retriever(store, state, other).search("plums", top_k=1)[0].source == "more/plums.md"


# Reports 1 to 3 come after each file that was loaded, 4 in the midst of the build.
@pytest.mark.parametrize(
    "reports", [pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow), 3, 4]
)
@pytest.mark.slow
def test_a_kill_at_any_report_loses_nothing(
    state: StateDirectory, folder: Path, ingestor: Ingestor, reports: int
) -> None:
    ingestor.ingest("default", [folder])
    (folder / "apples.md").write_text("# Apples\n\nApples are now yellow.\n")
    (folder / "pears.txt").unlink()
    (folder / "quinces.txt").write_text("Quinces are hard.")
    command = [sys.executable, str(CRASH), str(state.root), str(folder), str(reports)]
    killed = subprocess.run(command, capture_output=True, check=False)
    assert killed.returncode == -9, killed.stderr
    with Store.open(state.db) as store:
        after = Retriever(store, state, HashingEmbedder()).search("apples pears plums quinces", top_k=9)
        assert after, "the index serves on"
        for passage in after:
            text = store.documents.get(passage.chunk.document_id).text
            assert text[passage.chunk.start : passage.chunk.end] == passage.chunk.text
        again = Ingestor(store, state, HashingEmbedder(), Settings())
        report = again.ingest("default", [folder], sync=True)
        assert report.failed == []
        found = Retriever(store, state, HashingEmbedder()).search("apples pears plums quinces", top_k=9)
        assert sorted(passage.source for passage in found) == ["apples.md", "more/plums.md", "quinces.txt"]
        assert again.status("default")["up_to_date"] is True
    assert all((state.index("default", n) / "manifest.json").exists() for n in generations_on_disk(state))
