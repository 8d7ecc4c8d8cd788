"""Reviews of pairs over HTTP: what a reviewer sees, decides, corrects and takes back."""

from __future__ import annotations

import pytest

from data.records import QAPair


@pytest.fixture
def chunk(indexed):
    return next(chunk for _, chunk, _ in indexed.store.chunks.iterate("default") if "1842" in chunk.text)


@pytest.fixture
def pairs(indexed, chunk):
    store = indexed.store.pairs
    question = "When was the lighthouse of Orrin built?"
    store.add("default", None, [QAPair("p1", question, "1842", (chunk.id,), "span", "test")])
    failed = {"grounded": {"passed": False, "reason": "not there"}}
    odd = {"checks": failed, "status": "rejected", "reason": "grounded"}
    store.add("default", None, [QAPair("p2", "Who painted it?", "Ask", (), "free", "test", **odd)])
    store.add("default", None, [QAPair("p3", "Who is the mayor of Orrin?", "", (), "unanswerable", "test")])
    return store


def test_a_pair_shows_its_passage_and_where_its_answer_stands(client, indexed, pairs, chunk):
    shown = client.get("/v1/pairs/p1").json()
    (passage,) = shown["passages"]
    span = passage["span"]
    assert passage["text"] == chunk.text
    assert passage["text"][span["start"] : span["end"]] == "1842"
    text = client.get(f"/v1/documents/{passage['document_id']}/text").json()["text"]
    assert text[passage["start"] + span["start"] : passage["start"] + span["end"]] == "1842"
    assert (passage["source"], shown["history"]) == ("lighthouse.md", [])
    listed = {row["id"]: row for row in client.get("/v1/pairs").json()["pairs"]}
    assert listed["p1"]["passages"] == shown["passages"]
    assert listed["p2"]["passages"] == []


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("source=light*", ["p1"]),
        ("source=garden.md", []),
        ("text=ORRIN", ["p1", "p3"]),
        ("text=ask", ["p2"]),
        ("failed_check=grounded", ["p2"]),
        ("kind=unanswerable&status=candidate", ["p3"]),
        ("generated_by=nobody", []),
    ],
)
def test_pairs_are_found(client, pairs, query, ids):
    assert [row["id"] for row in client.get(f"/v1/pairs?{query}").json()["pairs"]] == ids


def test_a_correction_is_checked_again_and_undone(client, pairs):
    edited = client.patch("/v1/pairs/p1", json={"answer": "1843", "status": "accepted"}).json()
    assert (edited["answer"], edited["status"], edited["passages"][0]["span"]) == ("1843", "accepted", None)
    assert edited["checks"]["grounded"]["passed"] is False
    assert [row["id"] for row in client.get("/v1/pairs?failed_check=grounded").json()["pairs"]] == ["p1", "p2"]
    client.patch("/v1/pairs/p1", json={"question": "When was it built?"})
    assert client.get("/v1/pairs/p1").json()["checks"]["self_contained"]["passed"] is False
    once = client.post("/v1/pairs/p1/undo").json()
    assert (once["question"], once["answer"], len(once["history"])) == (edited["question"], "1843", 1)
    undone = client.post("/v1/pairs/p1/undo").json()
    assert (undone["answer"], undone["status"], undone["checks"], undone["history"]) == ("1842", "candidate", {}, [])
    refused = client.post("/v1/pairs/p1/undo")
    assert (refused.status_code, refused.json()["type"]) == (409, "conflict")


def test_an_accepted_pair_has_no_reason_and_a_rejected_one_has(client, pairs):
    accepted = client.patch("/v1/pairs/p2", json={"status": "accepted"}).json()
    assert (accepted["status"], accepted["reason"]) == ("accepted", "")
    assert client.patch("/v1/pairs/p2", json={"status": "rejected"}).json()["reason"] == "by_hand"
    assert client.patch("/v1/pairs/p2", json={"status": "rejected", "reason": "dull"}).json()["reason"] == "dull"
    assert client.patch("/v1/pairs/p3", json={"answer": "Mara"}).status_code == 422


def test_many_pairs_are_decided_and_the_decision_is_undone(client, pairs):
    body = {"filter": {"failed_check": "grounded"}, "status": "accepted"}
    assert client.post("/v1/pairs/bulk", json=body | {"dry_run": True}).json() == {"dry_run": True, "pairs": 1}
    assert pairs.get("p2").status == "rejected"
    done = client.post("/v1/pairs/bulk", json=body).json()
    assert (done["changed"], done["unchanged"]) == (["p2"], 0)
    named = client.post("/v1/pairs/bulk", json={"ids": ["p1", "p2", "p1"], "status": "rejected", "reason": "x"}).json()
    assert named["changed"] == ["p1", "p2"]
    undone = client.post(f"/v1/pairs/reviews/{named['review_id']}/undo").json()
    assert undone["changed"] == ["p1", "p2"]
    assert client.post(f"/v1/pairs/reviews/{done['review_id']}/undo").json()["changed"] == ["p2"]
    assert (pairs.get("p1").status, pairs.get("p2").reason) == ("candidate", "grounded")
    gone = client.post(f"/v1/pairs/reviews/{done['review_id']}/undo")
    assert (gone.status_code, gone.json()["type"]) == (404, "unknown-review")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"status": "accepted"}, 422),
        ({"status": "accepted", "ids": ["p1"], "filter": {}}, 422),
        ({"status": "accepted", "ids": []}, 422),
        ({"status": "good", "filter": {}}, 422),
        ({"status": "accepted", "filter": {"state": "x"}}, 422),
        ({"status": "accepted", "ids": ["p1", "p9"]}, 404),
        ({"status": "accepted", "ids": ["p9"], "dry_run": True}, 404),
        ({"status": "accepted", "filter": {}, "collection": "no"}, 404),
    ],
)
def test_bulk_reviews_that_are_refused_change_nothing(client, pairs, body, status):
    before = pairs.all("default")
    assert client.post("/v1/pairs/bulk", json=body).status_code == status
    assert pairs.all("default") == before
    assert client.post("/v1/pairs/p9/undo").json()["type"] == "unknown-pair"


def test_the_coverage_names_every_document(client, pairs):
    first = client.get("/v1/pairs/coverage", params={"limit": 1}).json()
    second = client.get("/v1/pairs/coverage", params={"limit": 1, "cursor": first["next_cursor"]}).json()
    by_source = {row["source"]: row for row in first["documents"] + second["documents"]}
    lighthouse, garden = by_source["lighthouse.md"], by_source["garden.md"]
    assert (lighthouse["chunks"], lighthouse["chunks_with_pairs"], lighthouse["pairs"]) == (1, 1, 1)
    assert (lighthouse["accepted"], lighthouse["information_share"], garden["pairs"]) == (0, 0.0, 0)
    assert lighthouse["information"] > 0
    client.patch("/v1/pairs/p1", json={"status": "accepted"})
    covered = client.get("/v1/pairs/coverage").json()["documents"]
    assert sorted((row["accepted"], row["information_share"]) for row in covered) == [(0, 0.0), (1, 1.0)]
    types = {row["source"]: row["question_types"] for row in covered}
    assert types == {"lighthouse.md": {"when": 1}, "garden.md": {}}
    assert all("what" in row["offered_types"] for row in covered)
    assert client.get("/v1/pairs/coverage?collection=no").status_code == 404
    assert client.get("/v1/pairs/coverage?cursor=x").status_code == 422
