"""Generations on Milvus: built as differences, rolled back, pruned, and a server that is not there."""

from __future__ import annotations

import json

import numpy as np
import pytest

from data.errors import DatabaseUnavailable, IndexMismatch, StorageCorrupt
from data.protocols import Vectors
from retrieval.generation import KEPT_GENERATIONS, GenerationBuilder, open_generation
from retrieval.milvus import MilvusLegs, MilvusServer
from tests.retrieval.hashing import HashingEmbedder

pytestmark = pytest.mark.slow


@pytest.fixture
def legs(milvus, state):
    return MilvusLegs(milvus, state.root / "index")


@pytest.fixture
def builder(store, state, legs):
    return GenerationBuilder(store, state, HashingEmbedder(), {"chunk_size": 40}, legs=legs)


@pytest.fixture
def put(store):
    """Stores a document of one chunk."""
    from data.records import Chunk, Document, content_id

    def stored(name, text, collection="default"):
        document = Document(content_id(collection, name, text), name, "", text, "text/plain")
        chunk = Chunk(content_id(document.id, "0"), document.id, text, 0, len(text), "")
        store.documents.put(collection, document, content_id(text), [chunk])
        return document.id

    return stored


def build(builder, **options):
    return builder.build("default", lambda _: None, **options)


def texts(store, state, legs, number, query):
    """Return the texts that a generation finds by vectors."""
    generation = open_generation(state.index("default", number), legs)
    vector: Vectors = HashingEmbedder().embed_queries([query])
    rows = store.chunks.by_keys([found.key for found in generation.search(query, vector, "dense", 10)])
    return [chunk.text for chunk, _, _ in rows.values()]


def collection(state, number):
    """Return the name of the Milvus collection that a generation is in."""
    file = state.index("default", number) / "dense" / "milvus.json"
    return json.loads(file.read_text())["collection"]


def owned(milvus, state):
    """Return the collections of this installation on the server."""
    own = json.loads((state.root / "index" / "milvus.json").read_text())["installation"]
    return [name for name in milvus.call("list_collections") if name.startswith(own)]


def aliases(milvus, state):
    return {name: milvus.call("list_aliases", name)["aliases"] for name in owned(milvus, state)}


def test_a_change_is_seen_by_its_generation_alone_and_rolled_back(builder, put, store, state, legs, milvus):
    first = put("a.txt", "apples are red")
    put("b.txt", "pears are green")
    assert build(builder) == 1
    store.documents.delete(first)
    put("c.txt", "trains run on rails")
    assert build(builder) == 2
    old = milvus.call("query", owned(milvus, state)[0], filter="key >= 0", output_fields=["key"])
    assert len(old) == 3  # what did not change was not written again
    dense = [legs.open(state.index("default", number), 64) for number in (1, 2)]
    assert [len(index) for index in dense] == [2, 2]
    assert set(dense[0].keys()) != set(dense[1].keys())
    assert "trains run on rails" in texts(store, state, legs, 2, "trains rails")
    assert "trains run on rails" not in texts(store, state, legs, 1, "trains rails")
    assert builder.rollback("default") == 1
    # What the generation that was left behind wrote is undone by the next one.
    assert build(builder) == 3
    assert set(legs.open(state.index("default", 3), 64).keys()) == set(store.chunks.key_array("default"))


def test_a_build_that_fails_leaves_nothing_in_the_next_one(builder, put, store, state, legs):
    gone = put("a.txt", "apples are red")
    put("b.txt", "pears are green")
    build(builder)
    store.documents.delete(gone)
    put("c.txt", "trains run on rails")

    def stop(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        builder.build("default", stop)
    again = put("d.txt", "ships sail")
    assert build(builder) == 3
    held = legs.open(state.index("default", 3), 64).keys()
    assert held.tolist() == store.chunks.key_array("default").tolist()
    assert store.documents.get(again).text in texts(store, state, legs, 3, "ships sail")


def test_the_alias_follows_and_what_no_kept_generation_needs_goes(builder, put, state, milvus):
    put("a.txt", "apples are red")
    build(builder)
    first = collection(state, 1)
    ((alias,),) = aliases(milvus, state).values()
    for number in range(KEPT_GENERATIONS):
        put("a.txt", f"apples are red, {number}")
        current = build(builder, fresh=True)
    assert first not in owned(milvus, state)
    assert len(owned(milvus, state)) == KEPT_GENERATIONS
    assert aliases(milvus, state)[collection(state, current)] == [alias]
    back = builder.rollback("default")
    assert aliases(milvus, state)[collection(state, back)] == [alias]
    assert sum(map(len, aliases(milvus, state).values())) == 1


def test_dead_rows_are_removed_once_no_generation_sees_them(builder, put, state, legs, milvus):
    for number in range(KEPT_GENERATIONS + 3):
        put("a.txt", f"apples are red, {number}")
        build(builder)
    (name,) = owned(milvus, state)
    rows = milvus.call("query", name, filter="key >= 0", output_fields=["born"])
    assert len(rows) == KEPT_GENERATIONS


def test_another_installation_on_the_same_server_is_left_alone(builder, put, store, state, milvus, tmp_path):
    (tmp_path / "other").mkdir()
    other = MilvusLegs(milvus, tmp_path / "other")
    other.open(tmp_path / "other" / "default" / "1", 4).add([1], ["x"], np.ones((1, 4), dtype=np.float32) / 2)
    put("a.txt", "apples are red")
    build(builder)
    build(builder, fresh=True)
    assert len(other.open(tmp_path / "other" / "default" / "1", 4)) == 1


def test_a_collection_that_is_gone_is_damage_and_built_anew(builder, put, state, legs, milvus):
    put("a.txt", "apples are red")
    build(builder)
    (name,) = owned(milvus, state)
    milvus.call("drop_alias", aliases(milvus, state)[name][0])
    milvus.call("drop_collection", name)
    with pytest.raises(StorageCorrupt, match="not on the Milvus server"):
        open_generation(state.index("default", 1), legs)
    assert build(builder, fresh=True) == 2
    assert len(legs.open(state.index("default", 2), 64)) == 1


def test_vectors_of_another_length_are_refused(legs, state):
    folder = state.index("default", 1)
    index = legs.open(folder, 4)
    with pytest.raises(IndexMismatch, match="do not fit"):
        index.add([1], ["x"], np.ones((1, 3), dtype=np.float32))
    with pytest.raises(IndexMismatch, match="another length"):
        legs.open(folder, 8)


def test_a_server_that_is_down_is_unavailable(state):
    legs = MilvusLegs(MilvusServer("http://127.0.0.1:1", "root:secret-token"), state.root / "index")
    with pytest.raises(DatabaseUnavailable, match="Milvus") as down:
        legs.open(state.index("default", 1), 4)
    assert down.value.status == 503
    assert "secret-token" not in f"{down.value}"
