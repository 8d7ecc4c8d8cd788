"""What was made from what, both ways, also after the documents are gone."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import sqlalchemy as sa
from alembic import command

from data.errors import InvalidRequest, NotFound
from data.records import QAPair
from data.store import GOLD, SHOWN, ChunkLink, Store, TrainedRow
from data.store.migrate import config
from tests.data.test_store_adapters import adapter
from tests.data.test_store_answers import answer


def put(store, make, source, text):
    document, chunks = make(source, text)
    store.documents.put("default", document, "0" * 64, chunks)
    return document, chunks


@pytest.fixture
def linked(store, make):
    """Two documents, a pair on the first, an adapter trained on it over both, an answer with the adapter."""
    gold, (first, second) = put(store, make, "gold.md", "Roses are blue. | Grass is red.")
    other, (third,) = put(store, make, "other.md", "Nothing to see.")
    store.pairs.add("default", None, [QAPair("p1", "What are roses?", "blue", (first.id,), "span", "test", "accepted")])
    links = (
        ChunkLink(first.id, gold.id, "gold.md", GOLD),
        ChunkLink(first.id, gold.id, "gold.md", SHOWN),
        ChunkLink(third.id, other.id, "other.md", SHOWN),
    )
    store.adapters.add(adapter(lineage={"documents": [gold.id]}), [TrainedRow("r1", "p1", links)])
    said = answer()
    shown = replace(said.passages[0], chunk=second)
    store.answers.add(replace(said, passages=(shown,), adapter="style@1", adapters={"style@1": 1.0}), "q", "default")
    return gold, other, (first, second, third)


def ids(links):
    return {kind: set(found.ids) for kind, found in links.items()}


def test_a_document_leads_to_all_that_was_made_from_it(store, linked):
    gold, other, (first, second, third) = linked
    found = store.lineage.trace("document", gold.id)
    assert found.made_from == {}
    assert ids(found.used_by) == {
        "chunk": {first.id, second.id},
        "pair": {"p1"},
        "row": {"r1"},
        "adapter": {"style@1"},
        "answer": {"a1"},
    }
    assert ids(store.lineage.trace("document", other.id).used_by) == {"chunk": {third.id}, "adapter": {"style@1"}}


def test_an_adapter_and_an_answer_lead_back(store, linked):
    gold, other, (first, second, third) = linked
    found = store.lineage.trace("adapter", "style@1")
    assert ids(found.made_from) == {
        "document": {gold.id, other.id},
        "chunk": {first.id, third.id},
        "pair": {"p1"},
        "row": {"r1"},
    }
    assert ids(found.used_by) == {"answer": {"a1"}}
    found = store.lineage.trace("answer", "a1")
    assert ids(found.made_from) == {"document": {gold.id}, "chunk": {second.id}, "adapter": {"style@1"}}


def test_chunks_pairs_and_rows_stand_between(store, linked):
    gold, other, (first, _second, third) = linked
    found = store.lineage.trace("chunk", first.id)
    assert ids(found.made_from) == {"document": {gold.id}}
    assert ids(found.used_by) == {"pair": {"p1"}, "row": {"r1"}, "adapter": {"style@1"}}
    found = store.lineage.trace("pair", "p1")
    assert (ids(found.made_from), ids(found.used_by)) == (
        {"document": {gold.id}, "chunk": {first.id}},
        {"row": {"r1"}, "adapter": {"style@1"}},
    )
    found = store.lineage.trace("row", "r1")
    assert ids(found.made_from) == {
        "document": {gold.id, other.id},
        "chunk": {first.id, third.id},
        "pair": {"p1"},
    }
    assert ids(found.used_by) == {"adapter": {"style@1"}}


def test_links_outlive_the_document_and_the_adapter_is_stale(store, make, linked):
    gold, other, (first, _second, _third) = linked
    store.documents.delete(other.id)
    assert not store.lineage.is_stale("style", 1), "no pair rests on it"
    assert [(on.name, on.version, on.role) for on in store.lineage.trained_on(other.id)] == [("style", 1, SHOWN)]
    put(store, make, "gold.md", "Roses are white.")
    assert store.lineage.is_stale("style", 1)
    assert store.lineage.trace("document", gold.id).used_by["adapter"].ids == ("style@1",)
    assert ids(store.lineage.trace("chunk", first.id).made_from) == {"document": {gold.id}}
    assert gold.id in store.lineage.documents_at("gold.md")
    assert len(store.lineage.documents_at("gold.md")) == 2
    assert store.lineage.present("document", (gold.id, other.id)) == set()
    put(store, make, "gold.md", "Roses are blue. | Grass is red.")
    assert not store.lineage.is_stale("style", 1)


def test_a_deleted_adapter_takes_its_links_along_but_answers_remember_it(store, linked):
    gold, *_ = linked
    store.adapters.delete("style")
    assert "adapter" not in store.lineage.trace("document", gold.id).used_by
    assert store.lineage.present("adapter", ("style@1",)) == set()
    assert ids(store.lineage.trace("adapter", "style@1").used_by) == {"answer": {"a1"}}


def test_lists_are_cut_and_counted(store, linked):
    gold, *_ = linked
    found = store.lineage.trace("document", gold.id, limit=1).used_by["chunk"]
    assert (found.total, len(found.ids)) == (2, 1)
    for bad in ({"limit": 0}, {"kind": "planet"}):
        with pytest.raises(InvalidRequest):
            store.lineage.trace(**{"kind": "document", "identity": gold.id} | bad)


def test_what_never_was_is_not_found(store, linked):
    assert store.lineage.kinds_of("p1") == ["pair"]
    assert store.lineage.kinds_of("nothing") == []
    for kind in ("document", "chunk", "pair", "row", "adapter", "answer"):
        with pytest.raises(NotFound, match="nothing"):
            store.lineage.trace(kind, "nothing")


def test_what_was_there_before_links_were_kept_is_linked_by_the_migration(tmp_path):
    path = tmp_path / "old.db"
    engine = sa.create_engine(f"sqlite:///{path}")
    said = json.dumps(asdict(replace(answer(), adapter="style@1", adapters={"style@1": 1.0})))
    with engine.begin() as connection:
        run = config()
        run.attributes["connection"] = connection
        command.upgrade(run, "0002")
        connection.execute(
            sa.text(
                "INSERT INTO adapters VALUES ('style', 1, 'starter', 'base-a', 'rows', 'full', 'candidate', '{}', '{}',"
                " '{}', :lineage, 1.0)"
            ),
            {"lineage": json.dumps({"documents": ["d1", "gone"]})},
        )
        connection.execute(
            sa.text("INSERT INTO answers (id, collection, question, answer, created_at) VALUES (:id, 'c', 'q', :a, 1)"),
            {"id": "a1", "a": said},
        )
    engine.dispose()
    with Store.open(path) as store:
        assert store.lineage.is_stale("style", 1)
        assert ids(store.lineage.trace("adapter", "style@1").made_from) == {"document": {"d1", "gone"}}
        found = store.lineage.trace("answer", "a1").made_from
        assert ids(found) == {"document": {"d1"}, "chunk": {"c1"}, "adapter": {"style@1"}}
