"""Reviews: changed together, undone alone or together, bounded; and the filters that choose pairs."""

from dataclasses import replace

import pytest

from data.errors import Conflict, InvalidRequest, UnknownPair, UnknownReview
from data.records import QAPair
from data.store import PairFilter
from data.store.reviews import KEPT


def pair(n, **changes):
    made = QAPair(f"p{n}", f"Question {n}?", f"answer {n}", (), "span", "test")
    return replace(made, **changes)


@pytest.fixture
def pairs(store):
    store.pairs.add("default", None, [pair(n) for n in range(1, 5)])
    return store.pairs


def test_a_review_is_undone_step_by_step(store, pairs):
    store.reviews.change(["p1"], {"status": "accepted"})
    store.reviews.change(["p1"], {"answer": "better", "checks": {"grounded": {"passed": False}}})
    assert [row["before"]["status"] for row in store.reviews.history("p1")] == ["accepted", "candidate"]
    store.reviews.undo("p1")
    assert pairs.get("p1") == pair(1, status="accepted")
    store.reviews.undo("p1")
    assert pairs.get("p1") == pair(1)
    with pytest.raises(Conflict, match="p1"):
        store.reviews.undo("p1")


def test_a_review_changes_all_or_nothing(store, pairs):
    with pytest.raises(UnknownPair, match="p9"):
        store.reviews.change(["p1", "p9"], {"status": "accepted"})
    assert pairs.get("p1") == pair(1)
    for changes in ({"status": "maybe"}, {"kind": "odd"}, {"id": "p2"}, {}):
        with pytest.raises(InvalidRequest):
            store.reviews.change(["p1"], changes)
    assert store.reviews.history("p1") == []


def test_a_whole_review_is_undone_but_for_what_was_reviewed_again(store, pairs):
    pairs.update("p4", status="rejected", reason="x")
    done = store.reviews.change_all("default", PairFilter(), {"status": "rejected", "reason": "x"})
    assert (done.changed, done.unchanged) == (("p1", "p2", "p3"), 1)
    store.reviews.change(["p2"], {"status": "accepted", "reason": ""})
    undone = store.reviews.undo_review(done.review_id)
    assert (undone.changed, undone.unchanged) == (("p1", "p3"), 1)
    assert [found.status for found in pairs.all("default")] == ["candidate", "accepted", "candidate", "rejected"]
    store.reviews.undo("p2")
    assert store.reviews.undo_review(done.review_id).changed == ("p2",)
    assert pairs.get("p2") == pair(2)
    with pytest.raises(UnknownReview, match="undone"):
        store.reviews.undo_review(done.review_id)


def test_what_does_not_change_leaves_no_history(store, pairs):
    done = store.reviews.change(["p1", "p2", "p1"], {"status": "candidate"})
    assert (done.changed, done.unchanged) == ((), 2)
    assert store.reviews.history("p1") == []


def test_the_history_is_bounded(store, pairs):
    for n in range(KEPT + 5):
        store.reviews.change(["p1", "p2"], {"answer": f"version {n}"})
    history = store.reviews.history("p1")
    assert len(history) == KEPT == len(store.reviews.history("p2"))
    assert history[-1]["before"]["answer"] == "version 4"
    for _ in range(KEPT):
        store.reviews.undo("p1")
    assert pairs.get("p1").answer == "version 4"


def test_the_ledger_follows_reviews_and_their_undoing(store):
    run = store.pairs.start_run("default", 2, {})
    store.pairs.add("default", run, [pair(1, status="accepted"), pair(2, status="accepted")])
    done = store.reviews.change_all("default", PairFilter(status="accepted"), {"status": "rejected", "reason": "dull"})
    assert store.pairs.run(run)["rejected"] == {"dull": 2}
    store.reviews.undo_review(done.review_id)
    assert store.pairs.run(run) == {"requested": 2, "accepted": 2, "rejected": {}, "failed": 0, "pending": 0}


def test_filters_choose_pairs(store, make):
    for source, text in (("docs/one.md", "Alpha"), ("docs/two.md", "Beta"), ("odd[1].md", "Gamma")):
        document, chunks = make(source, text)
        store.documents.put("default", document, "s", chunks)
        failed = {"grounded": {"passed": source != "docs/two.md", "reason": ""}}
        made = pair(len(text), id=text, question=f"What is {text}?", chunk_ids=(chunks[0].id,), checks=failed)
        store.pairs.add("default", None, [made])
    store.pairs.add("default", None, [pair(9, id="free", kind="free", generated_by="me", answer="100% Beta")])
    store.pairs.add("other", None, [pair(10, id="elsewhere")])

    def found(**chosen):
        rows = store.pairs.find("default", PairFilter(**chosen))[0]
        assert store.reviews.count("default", PairFilter(**chosen)) == len(rows)
        return [row.id for row in rows]

    assert found() == ["Alpha", "Beta", "Gamma", "free"]
    assert found(source="docs/one.md") == ["Alpha"]
    assert found(source="docs/*") == ["Alpha", "Beta"]
    assert found(source="odd[1].md") == ["Gamma"]
    assert found(document_id=store.documents.by_source("default")["docs/two.md"].id) == ["Beta"]
    assert found(text="beta") == ["Beta", "free"]
    assert found(text="0%") == ["free"]
    assert found(text="%") == ["free"]
    assert found(failed_check="grounded") == ["Beta"]
    assert found(failed_check="no.such'check") == []
    assert found(generated_by="me", kind="free", status="candidate", stale=False) == ["free"]
    first, cursor = store.pairs.find("default", PairFilter(text="what is"), limit=2)
    rest, _ = store.pairs.find("default", PairFilter(text="what is"), cursor, 2)
    assert [row.id for row in [*first, *rest]] == ["Alpha", "Beta", "Gamma"]
