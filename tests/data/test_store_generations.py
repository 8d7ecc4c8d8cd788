"""Generations in the store, and what of older documents stays readable while one of them may hold it."""

from dataclasses import replace

import pytest

from data.errors import Conflict, InvalidRequest, NotFound, UnknownDocument
from data.records import Filter
from data.store import NewDocument
from tests.data.test_store_documents import pair, put_all


def test_generations_count_up_and_only_a_finished_one_is_used(store):
    first = store.generations.begin("default", {"embedder": "e"})
    assert (first, store.collections.current_generation("default")) == (1, None)
    with pytest.raises(Conflict):
        store.generations.set_current("default", first)
    store.generations.commit("default", first, {"files": {"a": "b"}})
    second = store.generations.begin("default", {})
    store.generations.fail("default", second, "disk full")
    third = store.generations.begin("default", {})
    store.generations.commit("default", third, {})
    assert store.collections.current_generation("default") == third
    rows = store.generations.list("default")
    assert [(row.number, row.status, row.current) for row in rows] == [
        (1, "ready", False),
        (2, "failed", False),
        (3, "ready", True),
    ]
    assert rows[0].manifest == {"files": {"a": "b"}}
    assert rows[1].error == "disk full"
    store.generations.set_current("default", first)
    assert store.collections.current_generation("default") == first
    assert store.generations.get("default", first).current


def test_generation_in_use_is_not_deleted_and_numbers_are_not_reused(store):
    for _ in range(2):
        store.generations.commit("default", store.generations.begin("default", {}), {})
    with pytest.raises(Conflict):
        store.generations.delete("default", 2)
    store.generations.set_current("default", 1)
    store.generations.delete("default", 2)
    assert [row.number for row in store.generations.list("default")] == [1]
    assert store.generations.begin("default", {}) == 3
    with pytest.raises(NotFound):
        store.generations.delete("default", 2)


def test_build_that_was_overtaken_does_not_become_current(store):
    slow = store.generations.begin("default", {})
    fast = store.generations.begin("default", {})
    store.generations.commit("default", fast, {})
    with pytest.raises(Conflict):
        store.generations.commit("default", slow, {})
    with pytest.raises(Conflict):
        store.generations.commit("default", fast, {})
    with pytest.raises(Conflict):
        store.generations.fail("default", fast, "late")
    assert store.collections.current_generation("default") == fast


def built(store, collection="default"):
    number = store.generations.begin(collection, {})
    store.generations.commit(collection, number, {"chunks": 1})
    return number


def test_many_documents_are_put_together_or_not_at_all(store, make):
    put_all(store, make, a="One. | Two.", b="Three.")
    rows = store.documents.by_source("default")
    assert {source: row.chunks for source, row in rows.items()} == {"a.txt": 2, "b.txt": 1}
    new, chunks = make("c.txt", "Four.")
    bad = NewDocument(make("d.txt", "Five.")[0], "0", chunks)
    with pytest.raises(InvalidRequest):
        store.documents.put_many("default", [NewDocument(new, "0", chunks), bad])
    with pytest.raises(InvalidRequest, match="twice"):
        store.documents.put_many("default", [NewDocument(new, "0", chunks)] * 2)
    assert store.documents.by_source("default") == rows


def test_a_batch_replaces_keeps_and_adds(store, make):
    old = put_all(store, make, a="One. | Two.", b="Three.")
    keys = store.chunks.keys_of(chunk.id for chunk in store.chunks.of_document(old["b"].id))
    put_all(store, make, a="One.", b="Three.", c="Four. | Five.")
    assert {source: row.chunks for source, row in store.documents.by_source("default").items()} == {
        "a.txt": 1, "b.txt": 1, "c.txt": 2,
    }  # fmt: skip
    assert store.chunks.keys_of(keys) == keys


def test_a_moved_document_keeps_its_chunks_and_pairs(store, make):
    document = put_all(store, make, a="One. | Two.", b="Three.")["a"]
    chunks, keys = store.chunks.of_document(document.id), set(store.chunks.keys("default"))
    store.pairs.add("default", None, [pair("p", chunks[0].id)])
    assert store.documents.move(document.id, "folder/c.txt").id == document.id
    assert sorted(store.documents.by_source("default")) == ["b.txt", "folder/c.txt"]
    assert set(store.chunks.keys("default")) == keys
    assert not store.pairs.get("p").stale
    with pytest.raises(Conflict):
        store.documents.move(document.id, "b.txt")
    with pytest.raises(UnknownDocument):
        store.documents.move("nothing", "d.txt")


def test_what_is_replaced_stays_readable_while_a_generation_may_hold_it(store, make):
    old = put_all(store, make, a="One. | Two.")["a"]
    built(store)
    key = min(store.chunks.keys("default"))
    put_all(store, make, a="Three.")
    assert store.chunks.by_keys([key])[key][0].text == "One."
    assert store.chunks.by_keys([key])[key][1:] == ("a.txt", "Title")
    assert store.documents.get(old.id).text == "One. | Two."
    assert key in store.chunks.matching("default", Filter(sources=("a.txt",)))
    # It is in no list and no count.
    assert [row.chunks for row in store.documents.by_source("default").values()] == [1]
    assert len(set(store.chunks.keys("default"))) == store.chunks.count("default") == 1
    with pytest.raises(UnknownDocument):
        store.documents.row(old.id)


def test_what_is_replaced_goes_with_the_last_generation_that_may_hold_it(store, make):
    old = put_all(store, make, a="One.")["a"]
    first = built(store)
    put_all(store, make, a="Two.")
    second, third = built(store), built(store)
    store.generations.delete("default", first)
    assert store.documents.get(old.id).text == "One.", "the second may have been begun before it was replaced"
    store.generations.delete("default", second)
    with pytest.raises(UnknownDocument):
        store.documents.get(old.id)
    assert store.collections.current_generation("default") == third


def test_chunks_cut_otherwise_are_replaced_the_same_way(store, make):
    document, chunks = make("a.txt", "One. | Two.")
    store.documents.put("default", document, "0", chunks)
    built(store)
    before = store.chunks.keys_of(chunk.id for chunk in chunks)
    store.documents.put("default", document, "0", [replace(chunks[0], heading="Other"), chunks[1]])
    gone = before[chunks[0].id]
    assert store.chunks.by_keys([gone])[gone][0].heading == "Title"
    assert store.documents.get(document.id).text == document.text
    assert len(store.chunks.matching("default", Filter())) == 3


def test_deleting_a_document_forgets_its_older_versions(store, make):
    old = put_all(store, make, a="One.")["a"]
    built(store)
    key = min(store.chunks.keys("default"))
    store.documents.move(old.id, "b.txt")
    new, chunks = make("b.txt", "Two.")
    store.documents.put("default", new, "0", chunks)
    assert store.chunks.by_keys([key])
    store.documents.delete(new.id)
    assert store.chunks.by_keys([key]) == {}
    with pytest.raises(UnknownDocument):
        store.documents.get(old.id)
