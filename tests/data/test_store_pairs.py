from dataclasses import replace

import pytest

from data.errors import InvalidRequest, NotFound, UnknownPair
from data.records import QAPair


def pair(n, **changes):
    """Return a pair whose chunks are not there, so it is stale."""
    made = QAPair(f"p{n}", f"Question {n}?", f"answer {n}", (f"c{n}", "c0"), "span", "test", stale=True)
    return replace(made, **changes)


def test_pair_comes_back_as_it_was_added(store):
    added = pair(1, checks={"grounded": True, "score": 0.5}, status="rejected", reason="dangling")
    assert store.pairs.add("books", None, [added]) == 1
    assert store.pairs.get("p1") == added
    assert store.pairs.collection_of("p1") == "books"
    assert "books" in store.collections.names()


def test_filters_and_pages(store):
    store.pairs.add("default", None, [pair(n, status="accepted" if n % 2 else "rejected") for n in range(6)])
    store.pairs.add("default", None, [pair(7, kind="unanswerable", status="accepted", answer="")])
    store.pairs.add("other", None, [pair(8)])
    assert [found.id for found in store.pairs.all("default", "accepted")] == ["p1", "p3", "p5", "p7"]
    assert [found.id for found in store.pairs.all("default", kind="unanswerable")] == ["p7"]
    first, cursor = store.pairs.list("default", "accepted", "span", None, 2)
    rest, end = store.pairs.list("default", "accepted", "span", cursor, 2)
    assert ([found.id for found in first], [found.id for found in rest], end) == (["p1", "p3"], ["p5"], None)
    assert first[0].chunk_ids == ("c1", "c0")


def test_update_changes_what_it_names(store):
    store.pairs.add("default", None, [pair(1)])
    changed = store.pairs.update("p1", status="accepted", answer="better", checks={"x": 1}, chunk_ids=("c9",))
    assert changed == pair(1, status="accepted", answer="better", checks={"x": 1}, chunk_ids=("c9",))
    assert store.pairs.get("p1") == changed
    assert store.pairs.update("p1") == changed


def test_a_pair_made_of_what_is_gone_meanwhile_is_stale(store, make):
    document, chunks = make("roses.md", "Roses are blue | Violets are red")
    store.documents.put("default", document, "0" * 64, chunks)
    there, gone = chunks[0].id, "0" * 32
    new = [
        QAPair("all", "What?", "blue", (there,), "span", "test"),
        QAPair("none", "What?", "blue", (), "free", "test"),
        QAPair("half", "What?", "blue", (there, gone), "multi", "test"),
    ]
    store.pairs.add("default", None, new)
    assert {found.id: found.stale for found in store.pairs.all("default")} == {
        "all": False,
        "none": False,
        "half": True,
    }
    assert not store.pairs.update("half", chunk_ids=(there,)).stale
    assert store.pairs.update("half", chunk_ids=(gone,)).stale
    store.documents.delete(document.id)
    store.pairs.add("default", None, [QAPair("late", "What?", "blue", (there,), "span", "test", "accepted")])
    assert store.pairs.get("late").stale
    store.documents.put("default", document, "0" * 64, chunks)
    assert not store.pairs.get("late").stale


@pytest.mark.parametrize("changes", [{"status": "maybe"}, {"kind": "odd"}, {"id": "p2"}, {"stale": True}])
def test_impossible_changes_are_refused(store, changes):
    store.pairs.add("default", None, [pair(1)])
    with pytest.raises(InvalidRequest):
        store.pairs.update("p1", **changes)
    assert store.pairs.get("p1") == pair(1)


def test_unknown_pairs_and_runs_are_named(store):
    for call in (store.pairs.get, store.pairs.update, store.pairs.collection_of):
        with pytest.raises(UnknownPair, match="nothing"):
            call("nothing")
    for call in (store.pairs.run, store.pairs.run_inputs):
        with pytest.raises(NotFound, match="nothing"):
            call("nothing")
    with pytest.raises(NotFound):
        store.pairs.add("default", "nothing", [pair(1)])
    with pytest.raises(NotFound):
        store.pairs.record_failure("nothing", "reason")
    assert store.pairs.all("default") == []


def reconciles(ledger):
    parts = ledger["accepted"] + sum(ledger["rejected"].values()) + ledger["failed"] + ledger["pending"]
    return ledger["requested"] == parts


def test_ledger_reconciles_at_every_step(store):
    run = store.pairs.start_run("default", 6, {"seed": 1})
    assert store.pairs.run(run) == {"requested": 6, "accepted": 0, "rejected": {}, "failed": 0, "pending": 6}
    store.pairs.add("default", run, [pair(1, status="accepted"), pair(2, status="rejected", reason="not grounded")])
    store.pairs.record_failure(run, "EngineTimeout")
    store.pairs.add("default", run, [pair(3), pair(4, status="rejected", reason="")])
    expected = {"requested": 6, "accepted": 1, "rejected": {"not grounded": 1, "unknown": 1}, "failed": 1, "pending": 2}
    assert store.pairs.run(run) == expected
    assert reconciles(expected)
    store.pairs.update("p3", status="accepted")
    assert store.pairs.run(run) == expected | {"accepted": 2, "pending": 1}
    assert store.pairs.run_inputs(run) == {"seed": 1}
    assert [found.id for found in store.pairs.of_run(run)] == ["p1", "p2", "p3", "p4"]


def test_run_that_is_taken_up_again_counts_nothing_twice(store):
    run = store.pairs.start_run("default", 3, {})
    for _ in range(2):
        store.pairs.add("default", run, [pair(1, status="accepted")])
        store.pairs.record_failure(run, "EngineTimeout", item="chunk 2")
    ledger = store.pairs.run(run)
    assert ledger == {"requested": 3, "accepted": 1, "rejected": {}, "failed": 1, "pending": 1}
    assert store.pairs.failures(run) == [("chunk 2", "EngineTimeout")]


def test_pair_of_an_earlier_run_counts_as_a_duplicate(store):
    first = store.pairs.start_run("default", 1, {})
    second = store.pairs.start_run("default", 1, {})
    assert store.pairs.add("default", first, [pair(1, status="accepted")]) == 1
    for _ in range(2):
        assert store.pairs.add("default", second, [pair(1, status="accepted")]) == 0
    assert store.pairs.run(second) == {
        "requested": 1,
        "accepted": 0,
        "rejected": {"duplicate": 1},
        "failed": 0,
        "pending": 0,
    }
    assert store.pairs.run(first)["accepted"] == 1
    assert store.pairs.runs("default") == [second, first]
    assert store.pairs.failures(second) == []


def test_run_that_tried_more_than_it_was_asked_for_still_reconciles(store):
    run = store.pairs.start_run("default", 1, {})
    store.pairs.add("default", run, [pair(n, status="accepted") for n in range(3)])
    assert store.pairs.run(run)["requested"] == 3
    assert reconciles(store.pairs.run(run))
    with pytest.raises(InvalidRequest):
        store.pairs.start_run("default", -1, {})


def test_invalid_pair_undoes_the_whole_batch(store):
    with pytest.raises(InvalidRequest):
        store.pairs.add("default", None, [pair(1), pair(2, kind="odd")])
    assert store.pairs.all("default") == []
