import sqlite3

import pytest

from data.errors import Conflict, InvalidRequest, NotFound, UnknownAnswer, UnknownEvaluation
from data.records import Answer, Chunk, Citation, Passage, Usage


def answer(identity="a1"):
    chunk = Chunk("c1", "d1", "Paris is the capital.", 0, 21, "France > Cities", 3)
    citation = Citation(1, "d1", "f.pdf", "France", "France > Cities", 3, 0, 21, chunk.text, 0.9, True)
    return Answer(
        id=identity,
        text="Paris [1]",
        abstained=False,
        confidence=0.8,
        citations=(citation,),
        mode="rag",
        model="starter",
        adapter=None,
        usage=Usage(100, 60, 5),
        timings={"retrieve": 1.5, "total": 90.0},
        index_generation=2,
        passages=(Passage(chunk, 0.9, 1, "hybrid", "f.pdf", "France"),),
    )


def test_answer_comes_back_with_its_question(store):
    store.answers.add(answer(), "What is the capital?", "default")
    row = store.answers.get("a1")
    assert (row.answer, row.question, row.collection) == (answer(), "What is the capital?", "default")
    with pytest.raises(Conflict):
        store.answers.add(answer(), "again", "default")
    with pytest.raises(UnknownAnswer, match="nothing"):
        store.answers.get("nothing")


def test_feedback_belongs_to_an_answer(store):
    store.answers.add(answer(), "q", "default")
    first = store.feedback.add("a1", 1)
    second = store.feedback.add("a1", -1, "Lyon", "wrong city")
    rows = store.feedback.list()
    assert [(row.id, row.rating, row.correction, row.comment) for row in rows] == [
        (second, -1, "Lyon", "wrong city"),
        (first, 1, "", ""),
    ]
    assert rows[0].answer_id == "a1"
    with pytest.raises(UnknownAnswer, match="nothing"):
        store.feedback.add("nothing", 1)


def test_evaluations_by_collection(store):
    assert store.evaluations.latest("default") is None
    store.evaluations.add("e1", {"verdict": "not decisive"})
    store.evaluations.add("e2", {"verdict": "combined"}, "default")
    store.evaluations.add("e3", {"verdict": "rag"}, "other")
    assert store.evaluations.get("e1") == {"verdict": "not decisive"}
    assert store.evaluations.latest("default") == {"verdict": "combined"}
    store.evaluations.latest("default")["verdict"] = "changed by whoever read it"  # type: ignore[index]
    assert store.evaluations.latest("default") == {"verdict": "combined"}
    assert [(row["id"], row["collection"]) for row in store.evaluations.list(2)] == [("e3", "other"), ("e2", "default")]
    with pytest.raises(Conflict):
        store.evaluations.add("e1", {})
    with pytest.raises(UnknownEvaluation, match="nothing"):
        store.evaluations.get("nothing")
    with pytest.raises(InvalidRequest):
        store.evaluations.list(0)
    store.evaluations.add("e4", {"verdict": "tuned"}, "default")
    assert store.evaluations.latest("default") == {"verdict": "tuned"}, "the one before is not held on to"


def test_key_is_valid_until_it_is_revoked(store):
    assert not store.keys.exist()
    key_id, plaintext = store.keys.create("laptop")
    other_id, other = store.keys.create("laptop")
    assert plaintext != other
    assert store.keys.find(plaintext)
    store.keys.revoke(key_id)
    store.keys.revoke(key_id)
    assert not store.keys.find(plaintext)
    assert store.keys.find(other)
    assert store.keys.exist(), "a revoked one counts: the service was not meant to be open"
    assert [(row.id, row.name, row.revoked_at is None) for row in store.keys.list()] == [
        (key_id, "laptop", False),
        (other_id, "laptop", True),
    ]


@pytest.mark.parametrize("wrong", ["", "rt_", "x" * 1000, "\ud800", "钥匙", "' OR 1=1 --"])
def test_wrong_keys_are_not_valid(store, wrong):
    store.keys.create("laptop")
    assert not store.keys.find(wrong)


def test_plaintext_of_a_key_is_nowhere_in_the_database(sqlite_store, database_path):
    key_id, plaintext = sqlite_store.keys.create("laptop")
    connection = sqlite3.connect(database_path)
    dump = "\n".join(connection.iterdump())
    connection.close()
    assert key_id in dump
    assert plaintext not in dump
    assert plaintext.removeprefix("rt_") not in dump


def test_unknown_key_is_named(store):
    with pytest.raises(NotFound, match="nothing"):
        store.keys.revoke("nothing")
