from __future__ import annotations

import json

import pytest

from data.records import QAPair
from service.jobs import run_job


def pair(number: int, **changes) -> QAPair:
    values = {
        "id": f"p{number}", "question": f"Question number {number}?", "answer": "1842", "chunk_ids": (),
        "kind": "span", "generated_by": "test", "status": "candidate",
    }  # fmt: skip
    return QAPair(**{**values, **changes})


@pytest.fixture
def pairs(indexed):
    return indexed.store.pairs


def test_generated_pairs_reconcile_with_their_ledger(client, indexed, generator):
    def write(request):
        text = request.messages[-1].content
        if "Reply with the shortest" in request.messages[0].content:
            return "blue roses [1]"
        known = "Mara Venn" in text
        question = "Who was the keeper of the lighthouse of Orrin?" if known else "What grows in the garden of Tolm?"
        if "does not answer" in request.messages[0].content:
            return json.dumps({"question": "How tall is the lighthouse of Orrin?"})
        return json.dumps({"question": question, "answer": "Mara Venn" if known else "blue roses"})

    generator.reply = write
    response = client.post("/v1/pairs/generate", json={"limit": 4})
    assert response.status_code == 202
    job = run_job(indexed, response.json()["job_id"])
    assert job.status == "succeeded", job.error
    ledger = job.outputs
    assert ledger["requested"] == 4
    assert ledger["accepted"] + sum(ledger["rejected"].values()) + ledger["failed"] == 4
    assert ledger["accepted"] >= 1
    listed = client.get("/v1/pairs", params={"status": "accepted"}).json()["pairs"]
    assert len(listed) == ledger["accepted"]


def test_pairs_are_listed_in_pages_and_filtered(client, pairs):
    pairs.add("default", None, [pair(1), pair(2, status="accepted"), pair(3, kind="free")])
    first = client.get("/v1/pairs", params={"limit": 2}).json()
    second = client.get("/v1/pairs", params={"limit": 2, "cursor": first["next_cursor"]}).json()
    assert [row["id"] for row in first["pairs"] + second["pairs"]] == ["p1", "p2", "p3"]
    assert [row["id"] for row in client.get("/v1/pairs?status=accepted").json()["pairs"]] == ["p2"]
    assert [row["id"] for row in client.get("/v1/pairs?kind=free").json()["pairs"]] == ["p3"]
    assert client.get("/v1/pairs?status=maybe").status_code == 422
    assert client.get("/v1/pairs/p1").json()["question"] == "Question number 1?"


def test_a_review_changes_a_pair(client, pairs):
    pairs.add("default", None, [pair(1)])
    body = client.patch("/v1/pairs/p1", json={"status": "accepted", "answer": "1843"}).json()
    assert (body["status"], body["answer"], body["question"]) == ("accepted", "1843", "Question number 1?")
    assert pairs.get("p1").status == "accepted"


@pytest.mark.parametrize(
    ("name", "body", "status", "kind"),
    [
        ("p9", {"status": "accepted"}, 404, "unknown-pair"),
        ("p1", {}, 422, "invalid-request"),
        ("p1", {"answer": " "}, 422, "invalid-request"),
        ("p1", {"question": " "}, 422, "invalid-request"),
        ("p1", {"state": "accepted"}, 422, "invalid-request"),
    ],
)
def test_reviews_that_are_refused(client, pairs, name, body, status, kind):
    pairs.add("default", None, [pair(1)])
    response = client.patch(f"/v1/pairs/{name}", json=body)
    assert (response.status_code, response.json()["type"]) == (status, kind)
    assert pairs.get("p1") == pair(1)


ROWS = [
    {"question": "When was the lighthouse of Orrin built?", "answers": ["1842"], "id": "q1"},
    {"question": "", "answers": ["x"], "id": "q2"},
]


def test_pairs_are_imported_from_json(client, pairs):
    done = client.post("/v1/pairs/import", json={"rows": ROWS}).json()
    assert (done["imported"], len(done["failed"])) == (1, 1)
    (imported,) = pairs.all("default", "accepted")
    assert (imported.answer, imported.kind) == ("1842", "span")


def test_pairs_are_imported_from_a_file(client, pairs):
    row = {"messages": [{"role": "user", "content": "What grows in Tolm?"}, {"role": "assistant", "content": "roses"}]}
    files = {"file": ("rows.jsonl", json.dumps(row).encode())}
    assert client.post("/v1/pairs/import", files=files).json()["imported"] == 1
    assert client.post("/v1/pairs/import", files=files).json() == {"imported": 0, "known": 1, "failed": []}


def test_pairs_can_be_imported_before_anything_is_indexed(empty_client, workspace):
    assert empty_client.post("/v1/pairs/import", json={"rows": ROWS[:1]}).json()["imported"] == 1
    assert workspace.store.pairs.all("default")[0].kind == "free"


@pytest.mark.parametrize("sent", [{"json": {}}, {"json": {"rows": []}}, {"content": b"x"}, {"files": {"other": b"x"}}])
def test_imports_that_are_refused(client, sent):
    response = client.post("/v1/pairs/import", **sent)
    assert (response.status_code, response.json()["type"]) == (422, "invalid-request")


@pytest.mark.parametrize(
    ("format", "key"), [("chat", "messages"), ("instruction", "instruction"), ("sharegpt", "conversations")]
)
def test_accepted_pairs_are_exported_as_a_file(client, pairs, format, key):
    client.post("/v1/pairs/import", json={"rows": ROWS[:1]})
    pairs.add("default", None, [pair(2)])
    response = client.get("/v1/pairs/export", params={"format": format, "split": "train", "eval_share": 0})
    assert response.status_code == 200
    assert "train" in response.headers["Content-Disposition"]
    (row,) = [json.loads(line) for line in response.text.splitlines()]
    assert key in row
    assert "1842 [1]" in response.text
    assert "Mara Venn" in response.text, "the passage is in the prompt"


def test_exporting_without_accepted_pairs(client):
    response = client.get("/v1/pairs/export")
    assert (response.status_code, response.json()["type"]) == (409, "no-accepted-pairs")
    assert client.get("/v1/pairs/export?format=csv").status_code == 422


def test_generation_refuses(client):
    assert client.post("/v1/pairs/generate", json={"limit": 0}).status_code == 422
    assert client.post("/v1/pairs/generate", json={"exclude_documents": ["none"]}).json()["type"] == "unknown-document"
    assert client.post("/v1/pairs/generate", json={"collection": "no"}).json()["type"] == "unknown-collection"


def test_generation_without_documents_fails_with_the_reason(empty_client, workspace):
    job_id = empty_client.post("/v1/pairs/generate", json={"limit": 4}).json()["job_id"]
    job = run_job(workspace, job_id)
    assert (job.status, job.error["type"]) == ("failed", "nothing-indexed")
