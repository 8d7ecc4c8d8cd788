import threading
from dataclasses import replace

import pytest
import sqlalchemy as sa

from data.errors import Conflict, InvalidRequest, NotFound, UnknownCollection, UnknownDocument
from data.records import Filter, QAPair
from data.store import NewDocument, Store
from data.store.schema import embedding_places


def pair(identity, *chunk_ids):
    return QAPair(identity, f"Question {identity}?", "answer", chunk_ids, "span", "test", "accepted")


def put_all(store, make, **texts):
    """Puts documents named ``name.txt``."""
    made = {name: make(f"{name}.txt", text) for name, text in texts.items()}
    store.documents.put_many("default", [NewDocument(document, "0", chunks) for document, chunks in made.values()])
    return {name: document for name, (document, _) in made.items()}


def test_document_comes_back_as_it_was_put(store, make):
    document, chunks = make("a.txt", "One. | Two. | 三。😀")
    document = replace(document, meta={"author": "X", "pages": [1, 2]})
    row = store.documents.put("default", document, "ab" * 32, chunks, size=99, settings_fingerprint="s1")
    assert store.documents.get(document.id) == document
    assert store.documents.row(document.id) == row
    assert (row.sha256, row.size, row.chunks, row.settings_fingerprint) == ("ab" * 32, 99, 3, "s1")
    assert store.documents.by_source("default") == {"a.txt": row}
    assert store.chunks.of_document(document.id) == chunks
    assert store.chunks.get(chunks[1].id) == chunks[1]


def test_putting_the_same_document_twice_changes_nothing(store, make):
    document, chunks = make("a.txt", "One. | Two.")
    first = store.documents.put("default", document, "0", chunks)
    keys = store.chunks.keys("default")
    assert store.documents.put("default", document, "0", chunks) == first
    assert store.documents.count("default") == 1
    assert store.chunks.keys("default") == keys


def test_same_document_from_several_threads_is_one_row(store, make):
    document, chunks = make("a.txt", "One. | Two.")
    threads = [threading.Thread(target=store.documents.put, args=("default", document, "0", chunks)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.documents.count() == 1
    assert len(store.chunks.keys("default")) == 2


def test_edited_document_replaces_the_old_one(store, make):
    old, old_chunks = make("a.txt", "One. | Two.")
    new, new_chunks = make("a.txt", "One. | Three. | Four.")
    store.documents.put("default", old, "0", old_chunks)
    keys = store.chunks.keys("default")
    store.documents.put("default", new, "1", new_chunks)
    assert list(store.documents.by_source("default")) == ["a.txt"]
    assert store.chunks.of_document(new.id) == new_chunks
    assert store.chunks.keys("default").isdisjoint(keys)
    with pytest.raises(UnknownDocument):
        store.documents.get(old.id)


def test_chunked_otherwise_the_unchanged_chunks_keep_their_keys(store, make):
    document, chunks = make("a.txt", "One. | Two. | Three.")
    store.documents.put("default", document, "0", chunks)
    before = store.chunks.keys_of(chunk.id for chunk in chunks)
    changed = [chunks[0], replace(chunks[1], heading="New heading")]
    store.documents.put("default", document, "0", changed)
    after = store.chunks.keys_of(chunk.id for chunk in chunks)
    assert after.keys() == {chunks[0].id, chunks[1].id}
    assert after[chunks[0].id] == before[chunks[0].id]
    # The heading is indexed with the text, so the index has to see this one as new.
    assert after[chunks[1].id] > max(before.values())
    assert store.documents.row(document.id).chunks == 2


def test_same_text_at_two_sources_is_two_documents_and_deleting_one_keeps_the_other(store, make):
    one, one_chunks = make("a.txt", "Same. | Text.")
    two, two_chunks = make("b.txt", "Same. | Text.")
    store.documents.put("default", one, "0", one_chunks)
    store.documents.put("default", two, "0", two_chunks)
    store.pairs.add("default", None, [pair("of one", one_chunks[0].id), pair("of two", two_chunks[0].id)])
    store.documents.delete(one.id)
    assert list(store.documents.by_source("default")) == ["b.txt"]
    assert store.chunks.of_document(one.id) == []
    assert store.chunks.of_document(two.id) == two_chunks
    assert {found.id: found.stale for found in store.pairs.all("default")} == {"of one": True, "of two": False}
    assert [found.id for found in store.pairs.list("default", stale=True)[0]] == ["of one"]


def test_pair_is_stale_until_all_its_chunks_are_back(store, make):
    one, one_chunks = make("a.txt", "One.")
    two, two_chunks = make("b.txt", "Two.")
    for document, chunks in ((one, one_chunks), (two, two_chunks)):
        store.documents.put("default", document, "0", chunks)
    store.pairs.add("default", None, [pair("p", one_chunks[0].id, two_chunks[0].id)])
    store.documents.delete(one.id)
    store.documents.delete(two.id)
    store.documents.put("default", one, "0", one_chunks)
    assert store.pairs.get("p").stale
    store.documents.put("default", two, "0", two_chunks)
    assert not store.pairs.get("p").stale


def test_editing_makes_pairs_stale(store, make):
    old, old_chunks = make("a.txt", "One. | Two.")
    store.documents.put("default", old, "0", old_chunks)
    store.pairs.add("default", None, [pair("p", old_chunks[0].id)])
    store.documents.put("default", *[make("a.txt", "One, edited.")[0], "1"], make("a.txt", "One, edited.")[1])
    assert store.pairs.get("p").stale
    assert store.pairs.get("p").chunk_ids == (old_chunks[0].id,)


def test_keys_are_never_used_twice(store, make):
    document, chunks = make("a.txt", "One. | Two.")
    store.documents.put("default", document, "0", chunks)
    before = store.chunks.keys("default")
    store.documents.delete(document.id)
    assert store.chunks.keys("default") == set()
    assert store.chunks.by_keys(before) == {}
    store.documents.put("default", document, "0", chunks)
    assert min(store.chunks.keys("default")) > max(before)


def test_document_belongs_to_one_collection(store, make):
    document, chunks = make("a.txt", "One.")
    store.documents.put("default", document, "0", chunks)
    with pytest.raises(Conflict, match=r"a\.txt"):
        store.documents.put("other", document, "0", chunks)
    assert "other" not in store.collections.names()
    other, other_chunks = make("a.txt", "One.", collection="other")
    store.documents.put("other", other, "0", other_chunks)
    assert store.documents.count() == 2
    assert store.documents.count("other") == 1
    assert store.chunks.keys("default").isdisjoint(store.chunks.keys("other"))


def test_chunk_that_lies_about_its_place_is_refused_and_nothing_is_written(store, make):
    document, chunks = make("a.txt", "One. | Two.")
    for bad in (replace(chunks[1], start=1), replace(chunks[1], document_id="x"), chunks[0]):
        with pytest.raises(InvalidRequest):
            store.documents.put("default", document, "0", [chunks[0], bad])
    assert store.documents.count() == 0


def test_unknown_documents_and_chunks_are_named(store):
    for call in (store.documents.get, store.documents.row, store.documents.delete):
        with pytest.raises(UnknownDocument, match="nothing"):
            call("nothing")
    with pytest.raises(NotFound, match="nothing"):
        store.chunks.get("nothing")
    assert store.chunks.of_document("nothing") == []
    assert store.documents.by_source("nowhere") == {}


def test_pages_list_every_document_once_while_some_are_deleted(store, make):
    for n in range(7):
        document, chunks = make(f"{n}.txt", f"Text {n}.")
        store.documents.put("default", document, "0", chunks)
    seen, cursor = [], None
    while True:
        rows, cursor = store.documents.list("default", cursor, 3)
        seen += [row.source for row in rows]
        if cursor is None:
            break
        store.documents.delete(rows[-1].id)
    assert seen == [f"{n}.txt" for n in range(7)]


def test_page_of_exactly_the_limit_is_the_last(store, make):
    for n in range(2):
        document, chunks = make(f"{n}.txt", f"Text {n}.")
        store.documents.put("default", document, "0", chunks)
    rows, cursor = store.documents.list("default", None, 2)
    assert (len(rows), cursor) == (2, None)


@pytest.mark.parametrize(
    ("cursor", "limit"), [("x", 5), ("-1", 5), ("1" * 30, 5), ("٣", 5), (None, 0), (None, 1001), (None, -1)]
)
def test_bad_pages_are_refused(store, cursor, limit):
    with pytest.raises(InvalidRequest):
        store.documents.list("default", cursor, limit)


def test_listing_an_unknown_collection_fails(store):
    with pytest.raises(UnknownCollection):
        store.documents.list("nowhere")


def test_chunks_are_found_by_key_and_id_with_their_source(store, make):
    document, chunks = make("a.txt", "One. | Two.", title="T")
    store.documents.put("default", document, "0", chunks)
    key = store.chunks.keys_of([chunks[1].id, "gone"])
    assert store.chunks.by_keys([*key.values(), 10**6]) == {key[chunks[1].id]: (chunks[1], "a.txt", "T")}
    assert store.chunks.by_ids([chunks[0].id, "gone"]) == {chunks[0].id: (chunks[0], "a.txt", "T")}
    assert store.chunks.count("default") == 2


def test_iterating_crosses_batches_and_lets_writers_in(store, make):
    document, chunks = make("a.txt", " | ".join(f"Sentence {n}." for n in range(25)))
    store.documents.put("default", document, "0", chunks)
    other, other_chunks = make("b.txt", "Other.", collection="other")
    seen = []
    for key, chunk, title in store.chunks.iterate("default", batch=10):
        if len(seen) == 15:
            store.documents.put("other", other, "0", other_chunks)
        seen.append((key, chunk))
        assert title == "Title"
    assert [chunk for _, chunk in seen] == chunks
    wanted = [seen[20][0], seen[3][0], 10**6, *store.chunks.keys("other")]
    assert [chunk for _, chunk, _ in store.chunks.iterate("default", wanted, batch=2)] == [chunks[3], chunks[20]]


def test_thousands_of_keys_in_one_call(store: Store, make):
    document, chunks = make("a.txt", " | ".join(f"S{n}." for n in range(2500)))
    store.documents.put("default", document, "0", chunks)
    keys = store.chunks.keys("default")
    assert len(keys) == 2500
    assert store.chunks.by_keys(keys).keys() == keys


def test_embeddings_are_cached_by_fingerprint_and_text(store):
    store.embeddings.put_many("f", {"a": b"\x00\x01", "b": b""})
    store.embeddings.put_many("f", {"a": b"\x00\x01", "c": b"x"})
    store.embeddings.put_many("g", {"a": b"other"})
    assert store.embeddings.get_many("f", ["a", "b", "c", "d"]) == {"a": b"\x00\x01", "b": b"", "c": b"x"}
    assert store.embeddings.get_many("g", ["a", "b"]) == {"a": b"other"}
    many = {str(n): bytes([n % 256]) for n in range(2500)}
    store.embeddings.put_many("h", many)
    assert store.embeddings.get_many("h", many) == many


FILTERS = [
    (Filter(), "abc"),
    (Filter(sources=("docs/a.md",)), "a"),
    (Filter(sources=("docs/*",)), "ab"),
    (Filter(sources=("*.txt", "docs/a.?d")), "ac"),
    (Filter(media_types=("text/html", "text/plain")), "bc"),
    (Filter(tags=("x",)), "ab"),
    (Filter(tags=("x", "y z")), "b"),
    (Filter(since=20.0), "bc"),
    (Filter(since=20.0, until=20.0), "b"),
    (Filter(sources=("docs/*",), tags=("y z",), until=25.0), "b"),
    (Filter(tags=("nobody has it",)), ""),
    (Filter(sources=("[odd].md",)), ""),
]


@pytest.mark.parametrize(("chosen", "wanted"), FILTERS)
def test_filters(store, make, chosen, wanted):
    facts = {
        "a": ("docs/a.md", "text/markdown", ("x",), 10.0),
        "b": ("docs/sub/b.html", "text/html", ("x", "y z"), 20.0),
        "c": ("c.txt", "text/plain", (), 30.0),
    }
    keys = {}
    for name, (source, media_type, tags, modified_at) in facts.items():
        document, chunks = make(source, f"One {name}. | Two.")
        document = replace(document, media_type=media_type)
        store.documents.put("default", document, "0", chunks, tags=tags, modified_at=modified_at)
        keys[name] = set(store.chunks.keys_of(chunk.id for chunk in chunks).values())
    store.documents.put("other", *[make("docs/a.md", "x", collection="other")[0], "0"],
                        make("docs/a.md", "x", collection="other")[1], tags=["x"])  # fmt: skip
    found = store.chunks.matching("default", chosen)
    assert found.dtype == "int64"
    assert found.tolist() == sorted(key for name in wanted for key in keys[name])
    assert [row.source for row in store.documents.list("default", filter=chosen)[0]] == [facts[n][0] for n in wanted]


def test_a_source_with_a_bracket_can_be_named(store, make):
    document, chunks = make("[odd].md", "One.")
    store.documents.put("default", document, "0", chunks)
    assert len(store.chunks.matching("default", Filter(sources=("[odd].md",)))) == 1


def test_iterate_gives_every_document_with_its_chunks(store, make):
    made = put_all(store, make, a="One. | Two.", b="Three.", c="Four.")
    found = list(store.documents.iterate("default", batch=2))
    assert [document for _, document, _ in found] == list(made.values())
    assert [[chunk.text for chunk in chunks] for _, _, chunks in found] == [["One.", "Two."], ["Three."], ["Four."]]
    assert [row.source for row, _, _ in found] == ["a.txt", "b.txt", "c.txt"]


def test_cached_vectors_are_listed_and_dropped(store):
    store.embeddings.put_many("f", {f"{n:064x}": b"1234" for n in range(5)})
    store.embeddings.put_many("g", {"a": b"12"})
    assert len(list(store.embeddings.hashes())) == 6
    assert list(store.embeddings.hashes("g")) == [("g", "a")]
    assert store.embeddings.misshapen("g", 4) == ["a"]
    assert store.embeddings.delete_many([("g", "a"), ("f", f"{1:064x}"), ("f", "nothing")]) == 2
    assert store.embeddings.count("f") == 4


def test_cached_vectors_are_found_in_trees_of_any_age(store, monkeypatch):
    monkeypatch.setattr("data.store.embeddings._FULL", (8, 40))
    vectors = {f"text {n}": str(n).encode() for n in range(105)}
    for start in range(0, 105, 5):
        names = list(vectors)[start : start + 5]
        # Two that were there before, whichever tree they are in by now.
        store.embeddings.put_many("f", {"text 0": b"another", names[0]: vectors[names[0]]} if start else {})
        store.embeddings.put_many("f", {name: vectors[name] for name in names})
        assert store.embeddings.get_many("f", vectors) == dict(list(vectors.items())[: start + 5])
    with store.embeddings._database.read() as connection:
        ages = set(connection.execute(sa.select(embedding_places.c.age)).scalars())
    assert ages == {0, 1, 2}
    assert sorted(store.embeddings.hashes("f")) == sorted(("f", name) for name in vectors)
    assert store.embeddings.delete_many(("f", f"text {n}") for n in range(0, 105, 3)) == 35
    assert store.embeddings.count("f") == 70
    kept = {name: vector for n, (name, vector) in enumerate(vectors.items()) if n % 3}
    assert store.embeddings.get_many("f", vectors) == kept
    store.embeddings.put_many("f", vectors)
    assert store.embeddings.get_many("f", vectors) == vectors


def test_compact_gives_space_back(sqlite_store, database_path):
    sqlite_store.embeddings.put_many("f", {f"{n:064x}": bytes(4000) for n in range(200)})
    sqlite_store.compact()
    large = database_path.stat().st_size
    sqlite_store.embeddings.delete_many(list(sqlite_store.embeddings.hashes()))
    sqlite_store.compact()
    assert database_path.stat().st_size < large / 2
