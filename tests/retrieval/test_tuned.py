"""Tuned embedders in their registry, and the index deciding which embedder is live."""

from __future__ import annotations

import json

import pytest

from data.errors import Conflict, IndexMismatch, StorageCorrupt, UnknownRetriever
from retrieval.ingest import Ingestor
from retrieval.retriever import Retriever
from retrieval.tuned import MODEL, TunedEmbedders
from tests.retrieval.hashing import HashingEmbedder, Settings


@pytest.fixture
def tuned(state, store):
    return TunedEmbedders(state, store, lambda folder: HashingEmbedder((folder / "weights").read_text()))


@pytest.fixture
def make(state, tuned):
    def make(name: str = "house", fingerprint: str = "tuned"):
        folder = state.embedders(name) / "training"
        (folder / MODEL).mkdir(parents=True)
        (folder / MODEL / "weights").write_text(fingerprint)
        facts = {"base": "hashing", "compared_with": "hashing", "collection": "default"}
        return tuned.add(name, folder, fingerprint=fingerprint, **facts, recipe={}, data={}, metrics={})

    return make


@pytest.fixture
def parts(store, state, embedder, tuned, folder):
    """An ingestor and a retriever that know tuned embedders, and the documents indexed with the configured one."""
    ingestor = Ingestor(store, state, embedder, Settings(), find=tuned.find)
    ingestor.ingest("default", [folder])
    return ingestor, Retriever(store, state, embedder, tuned.find)


def current(store):
    return store.generations.get("default", store.collections.current_generation("default")).manifest["embedder"]


def test_versions_count_up_and_are_found_by_name_and_fingerprint(tuned, make, state):
    assert make().label == "house@1"
    assert make(fingerprint="tuned-2").label == "house@2"
    assert tuned.get("house").version == 2
    assert tuned.get("house@1").fingerprint == "tuned"
    assert tuned.find("tuned").fingerprint == "tuned"
    assert tuned.find("elsewhere") is None
    assert not (state.embedders("house") / "training").exists()
    with pytest.raises(UnknownRetriever, match="Did you mean house"):
        tuned.get("huose")


def test_a_folder_without_manifest_is_not_there(tuned, make, state):
    make()
    (state.embedders("house", 1) / "manifest.json").unlink()
    assert tuned.all() == []
    assert make().version == 1


def test_changed_weights_are_refused(tuned, make, state):
    made = make()
    (state.embedders("house", 1) / MODEL / "weights").write_text("others")
    with pytest.raises(StorageCorrupt):
        tuned.find(made.fingerprint)
    (state.embedders("house", 1) / "manifest.json").write_text(json.dumps({"name": "house"}))
    with pytest.raises(StorageCorrupt):
        tuned.all()


def test_the_current_generation_decides_which_embedder_is_used(tuned, make, parts, store, embedder, folder):
    ingestor, retriever = parts
    made = make()
    assert tuned.stage(made) == "candidate"
    other = tuned.find("tuned")
    assert retriever.search("red apples")
    promoted = ingestor.rebuild("default", embedder=other)
    tuned.note_promotion(made, "default", promoted)
    assert current(store) == "tuned"
    assert tuned.stage(tuned.get("house")) == "live"

    before = len(embedder.embedded)
    (folder / "figs.md").write_text("# Figs\n\nFigs are soft.\n")
    ingestor.ingest("default", [folder])
    assert (current(store), len(embedder.embedded)) == ("tuned", before)
    assert any("Figs" in text for text in other.embedded)
    assert "soft" in retriever.search("soft figs")[0].chunk.text
    assert ingestor.status("default")["up_to_date"]
    assert ingestor.verify("default")["ok"]

    ingestor.rollback("default")
    ingestor.rollback("default")
    assert current(store) == "hashing"
    assert retriever.search("red apples")
    assert tuned.stage(tuned.get("house")) == "retired"


def test_nothing_is_chunked_again_for_a_tuned_embedder(make, parts, tuned, folder):
    ingestor, _ = parts
    make()
    ingestor.rebuild("default", embedder=tuned.find("tuned"))
    assert len(ingestor.ingest("default", [folder]).unchanged) == 3


def test_an_index_whose_embedder_is_gone_is_not_searched(make, parts, tuned, store, state, embedder):
    ingestor, _ = parts
    make()
    ingestor.rebuild("default", embedder=tuned.find("tuned"))
    alone = Retriever(store, state, embedder)
    with pytest.raises(IndexMismatch):
        alone.search("red apples")


def test_a_live_one_is_not_deleted(make, parts, tuned, state):
    ingestor, _ = parts
    make()
    make(fingerprint="tuned-2")
    ingestor.rebuild("default", embedder=tuned.find("tuned"))
    with pytest.raises(Conflict, match="is live"):
        tuned.delete("house")
    assert len(tuned.all()) == 2
    assert [one.label for one in tuned.delete("house@2")] == ["house@2"]
    ingestor.rollback("default")
    assert [one.label for one in tuned.delete("house")] == ["house@1"]
    assert tuned.find("tuned") is None
