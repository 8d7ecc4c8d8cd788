"""Ingest on a Ray cluster of two nodes: the same as in one process, whatever happens to a node."""

from __future__ import annotations

import os
import shutil
import socket
import sys
import threading
import time
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import pytest

from data.errors import ClusterUnavailable, IndexMismatch, InsufficientStorage, InvalidRequest, JobCancelled
from data.state import StateDirectory
from data.store import Store
from retrieval.embed import SentenceTransformerEmbedder, starter_embedder_path
from retrieval.ingest import Ingestor
from retrieval.ray import RayWorkers
from retrieval.vectors import text_hash
from tests.retrieval.hashing import HashingEmbedder, Settings
from tests.retrieval.test_ingest import SAMPLES

pytestmark = pytest.mark.slow


class SlowEmbedder(HashingEmbedder):
    """Takes its time where it is sent to, so that there is something to interrupt."""

    def __init__(self, seconds: float, home: int = os.getpid()) -> None:
        super().__init__()
        self._seconds, self._home = seconds, home

    def embed_documents(self, texts):
        if os.getpid() != self._home:
            time.sleep(self._seconds)
        return super().embed_documents(texts)


class ChangedEmbedder(HashingEmbedder):
    """Has other weights on every node."""

    def __reduce__(self):
        return HashingEmbedder, ("other weights",)


@dataclass
class Place:
    """A state directory of its own."""

    state: StateDirectory
    store: Store

    def stored(self, fingerprint="hashing"):
        """Return everything that ingesting wrote, but for times and integer keys."""
        rows = {source: (row.id, row.sha256, row.chunks) for source, row in self.documents().items()}
        chunks = sorted((chunk.id, chunk.text) for _, chunk, _ in self.store.chunks.iterate("default"))
        hashes = sorted(key for _, key in self.store.embeddings.hashes(fingerprint))
        return rows, chunks, self.store.embeddings.get_many(fingerprint, hashes)

    def documents(self):
        return self.store.documents.by_source("default")


@pytest.fixture
def place(tmp_path, migrated):
    opened = []

    def make(name):
        state = StateDirectory(tmp_path / name).create()
        shutil.copy(migrated, state.db)
        opened.append(Place(state, Store.open(state.db)))
        return opened[-1]

    yield make
    for one in opened:
        one.store.close()


@pytest.fixture
def mixed(tmp_path):
    """Many small files, the samples, an archive, and files that are broken."""
    folder = tmp_path / "mixed"
    shutil.copytree(SAMPLES, folder)
    for number in range(120):
        (folder / f"note-{number:03}.md").write_text(f"# Note {number}\n\n" + f"Sentence {number} of many. " * 20)
    (folder / "bad.pdf").write_text("no pdf")
    (folder / "empty.txt").write_text("")
    (folder / "page.html").write_text("<html><title>A page</title><body><p>Words on a page.</p></body></html>")
    shutil.make_archive(str(folder / "packed"), "zip", folder, "note-000.md")
    return folder


def ingest(place, folder, workers=None, embedder=None, **options):
    parts = (place.store, place.state, embedder or HashingEmbedder(), Settings())
    return Ingestor(*parts, workers=workers).ingest("default", [folder], **options)


def test_the_result_is_that_of_one_process(place, mixed, ray_workers):
    alone, spread = place("alone"), place("spread")
    told = [ingest(alone, mixed), ingest(spread, mixed, ray_workers)]
    assert told[0] == told[1]
    assert {row["source"]: row["type"] for row in told[1].failed} == {
        "bad.pdf": "damaged-document",
        "empty.txt": "empty-document",
    }
    assert "packed.zip/note-000.md" in spread.documents()
    assert alone.stored() == spread.stored()
    (mixed / "note-007.md").write_text("# Note 7\n\nIt was edited.\n")
    again = ingest(spread, mixed, ray_workers)
    assert [row["source"] for row in again.indexed] == ["note-007.md"]
    assert len(again.unchanged) == len(told[1].indexed) - 1


def test_a_killed_node_loses_nothing_and_doubles_nothing(place, mixed, ray_cluster, ray_workers):
    alone, spread = place("alone"), place("spread")
    ingest(alone, mixed)
    killed = []

    def kill(progress):
        if progress.stage == "load" and progress.done >= 10 and not killed:
            killed.append(progress)
            ray_cluster.kill_one()

    report = ingest(spread, mixed, ray_workers, SlowEmbedder(0.3), report=kill)
    ray_cluster.complete()
    assert killed
    assert killed[0].done < 100, "it came too late to matter"
    assert alone.stored() == spread.stored()
    sources = [row["source"] for row in report.indexed]
    assert len(sources) == len(set(sources)) == len(alone.documents())
    assert sorted(row["source"] for row in report.failed) == ["bad.pdf", "empty.txt"]


@pytest.mark.timeout(45)
def test_a_cancelled_ingest_does_not_wait_for_the_nodes(place, mixed, ray_workers):
    spread = place("spread")

    def cancel(progress):
        raise JobCancelled("asked to stop")

    with pytest.raises(JobCancelled):
        ingest(spread, mixed, ray_workers, SlowEmbedder(3600), report=cancel)
    assert spread.documents() == {}
    ray_workers.close()
    with pytest.raises(ClusterUnavailable):
        ingest(spread, mixed, ray_workers)


def test_a_node_with_another_model_is_refused_by_name(place, mixed, ray_workers):
    with pytest.raises(IndexMismatch) as raised:
        ingest(place("spread"), mixed, ray_workers, ChangedEmbedder())
    assert socket.gethostname() in raised.value.hint
    assert "every node" in raised.value.hint


@dataclass(frozen=True)
class NoDisk:
    """Works at home alone."""

    home: int

    def __call__(self, number):
        if os.getpid() != self.home:
            raise InsufficientStorage("The disk is full.", hint="Free some.")
        return 2 * number


def test_a_node_that_does_not_know_the_work_is_told(ray_workers, monkeypatch):
    """As one without ragtune, or with an older one: here, of a module that only this process has."""
    module = ModuleType("only_here")
    exec("class Work:\n    def __call__(self, number):\n        return number\n", module.__dict__)
    monkeypatch.setitem(sys.modules, "only_here", module)
    with pytest.raises(ClusterUnavailable, match="cannot do what it was sent") as raised:
        list(ray_workers.map(module.Work(), range(3), lambda _: 1.0))
    assert "only_here" in str(raised.value.got)
    assert "same ragtune" in str(raised.value.wanted)


def test_what_a_node_has_no_disk_for_is_done_here(ray_workers, caplog):
    assert list(ray_workers.map(NoDisk(os.getpid()), range(5), lambda _: 1.0)) == [0, 2, 4, 6, 8]
    assert socket.gethostname() in caplog.text


def test_the_packaged_model_gives_the_same_vectors_on_a_node(place, ray_workers):
    embedder = SentenceTransformerEmbedder(starter_embedder_path())
    alone, spread = place("alone"), place("spread")
    for where, workers in ((alone, None), (spread, ray_workers)):
        ingest(where, SAMPLES / "02-normans.md", workers, embedder)
    (rows, chunks, vectors), found = alone.stored(embedder.fingerprint), spread.stored(embedder.fingerprint)
    assert (rows, chunks) == found[:2]
    assert vectors.keys() == found[2].keys() == {text_hash(text) for text in _embedded(alone)}
    for key, vector in vectors.items():
        one, other = (np.frombuffer(raw, dtype="<f4") for raw in (vector, found[2][key]))
        assert float(one @ other) > 0.9999  # texts are padded in other company


def _embedded(place):
    from retrieval.chunk import embedded_text

    return [embedded_text(chunk) for _, chunk, _ in place.store.chunks.iterate("default")]


def test_a_folder_that_the_nodes_do_not_have_is_worked_with_here(tmp_path, monkeypatch, ray_workers, caplog):
    """As a tuned embedder is, which lies in the state directory."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(starter_embedder_path(), "tuned")
    opened, values = SentenceTransformerEmbedder("tuned").__reduce__()
    embedder = SentenceTransformerEmbedder(tmp_path / "tuned")
    here = embedder.embed_documents(["A lighthouse.", "A garden."])
    assert opened(*values).folder == tmp_path / "tuned"
    shutil.rmtree("tuned")
    found = list(ray_workers.map(embedder.embed_documents, [["A lighthouse.", "A garden."]], lambda _texts: 1))
    assert np.array_equal(found[0], here)
    assert "it is done here" in caplog.text


@pytest.mark.parametrize("address", ["", "local", "ray://head:10001", "head:port", "head:99999", ":6379"])
def test_an_address_that_is_none_is_refused(address):
    with pytest.raises(InvalidRequest, match="HOST:PORT"):
        RayWorkers(address)


def test_nobody_at_the_address_is_told_with_the_next_step(place, mixed):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        free = listener.getsockname()[1]
    with pytest.raises(ClusterUnavailable, match="ray start") as raised:
        ingest(place("spread"), mixed, RayWorkers(f"127.0.0.1:{free}"))
    assert raised.value.got == f"127.0.0.1:{free}"


def test_something_else_at_the_address_is_told_too(place, mixed):
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def greet():
            connection, _ = listener.accept()
            connection.recv(100)
            connection.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            connection.close()

        threading.Thread(target=greet, daemon=True).start()
        with pytest.raises(ClusterUnavailable, match="protocol"):
            ingest(place("spread"), mixed, RayWorkers(f"127.0.0.1:{listener.getsockname()[1]}"))


def test_what_is_unchanged_needs_no_cluster(place, mixed):
    spread = place("spread")
    for broken in ("bad.pdf", "empty.txt"):  # these are tried again
        (mixed / broken).unlink()
    ingest(spread, mixed)
    report = ingest(spread, mixed, RayWorkers("127.0.0.1:1"))
    assert report.indexed == []
    assert len(report.unchanged) == len(spread.documents())
