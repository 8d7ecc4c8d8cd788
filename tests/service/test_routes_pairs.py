from __future__ import annotations

import json
import re

import pytest

from data.records import QAPair
from retrieval.ingest import ignore_progress
from service.jobs import RESUMABLE, run_job
from service.uploads import sweep_uploads
from service.work import ingest
from tests.service.conftest import open_client


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


def run_import(client, workspace, status="succeeded", **sent):
    """Send an import, run the job it became here, and return the job."""
    response = client.post("/v1/pairs/import", **sent)
    assert response.status_code == 202, response.text
    assert response.headers["Location"] == f"/v1/jobs/{response.json()['job_id']}"
    job = run_job(workspace, response.json()["job_id"])
    assert job.status == status, job.error
    return job


def uploads(workspace) -> list[str]:
    return [path.name for path in workspace.state.uploads.iterdir()]


def test_pairs_are_imported_from_json(client, indexed, pairs):
    done = run_import(client, indexed, json={"rows": ROWS}).outputs
    assert (done["imported"], len(done["failed"])) == (1, 1)
    (imported,) = pairs.all("default", "accepted")
    assert (imported.answer, imported.kind, imported.generated_by) == ("1842", "span", "import:rows.jsonl")


def test_pairs_are_imported_from_a_file_once(client, indexed):
    row = {"messages": [{"role": "user", "content": "What grows in Tolm?"}, {"role": "assistant", "content": "roses"}]}
    files = {"file": ("mine.jsonl", json.dumps(row).encode())}
    assert run_import(client, indexed, files=files).outputs["imported"] == 1
    assert run_import(client, indexed, files=files).outputs == {
        "imported": 0,
        "known": 1,
        "failed": [],
        "failed_count": 0,
    }


def test_an_import_waits_as_a_job_and_its_bytes_with_it(client, indexed, pairs):
    job_id = client.post("/v1/pairs/import", json={"rows": ROWS}).json()["job_id"]
    assert pairs.all("default") == []
    assert len(uploads(indexed)) == 1
    assert (client.get(f"/v1/jobs/{job_id}").json()["kind"], job_id) == ("import_pairs", job_id)
    assert run_job(indexed, job_id).progress.unit == "pairs"
    assert uploads(indexed) == []


def test_an_interrupted_import_goes_on_with_its_bytes(client, indexed, pairs):
    job_id = client.post("/v1/pairs/import", json={"rows": ROWS[:1]}).json()["job_id"]

    def interrupt(_progress):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_job(indexed, job_id, watch=interrupt)
    assert (indexed.store.jobs.get(job_id).status, len(uploads(indexed))) == ("interrupted", 1)
    assert "import_pairs" in RESUMABLE
    assert run_job(indexed, job_id).outputs["imported"] == 1
    assert len(pairs.all("default")) == 1
    assert uploads(indexed) == []


def test_a_cancelled_import_leaves_nothing(client, indexed):
    job_id = client.post("/v1/pairs/import", json={"rows": ROWS}).json()["job_id"]
    assert client.post(f"/v1/jobs/{job_id}/cancel").json()["status"] == "cancelled"
    assert uploads(indexed) == []


def test_the_same_idempotency_key_imports_once(client, indexed):
    headers = {"Idempotency-Key": "one"}
    sent = {"json": {"rows": ROWS[:1]}, "headers": headers}
    job_id = client.post("/v1/pairs/import", **sent).json()["job_id"]
    assert client.post("/v1/pairs/import", **sent).json()["job_id"] == job_id
    assert len(uploads(indexed)) == 1
    other = client.post("/v1/pairs/import", json={"rows": ROWS}, headers=headers)
    assert (other.status_code, other.json()["type"]) == (409, "conflict")
    assert len(uploads(indexed)) == 1
    assert run_job(indexed, job_id).outputs["imported"] == 1
    again = client.post("/v1/pairs/import", **sent).json()
    assert (again["job_id"], again["status"]) == (job_id, "succeeded")
    assert uploads(indexed) == []


def test_a_server_that_starts_removes_files_that_no_job_waits_for(workspace):
    (workspace.state.uploads / "orphan").mkdir()
    with open_client(workspace) as client:
        kept = client.post("/v1/pairs/import", json={"rows": ROWS}).json()["job_id"]
    sweep_uploads(workspace.state, workspace.store)
    assert uploads(workspace) == [workspace.store.jobs.get(kept).inputs["upload"]]


@pytest.mark.parametrize(("content", "words"), [(b"\n \n", "holds no rows"), (b"{broken\n", "line 1")])
def test_an_import_that_brings_nothing_has_failed(client, indexed, content, words):
    job = run_import(client, indexed, "failed", files={"file": ("rows.jsonl", content)})
    assert job.error["type"] == "invalid-request"
    assert words in job.error["detail"]
    assert uploads(indexed) == []


def test_an_import_over_the_limit_is_refused(client, indexed, monkeypatch):
    monkeypatch.setattr("service.routes.pairs.LARGEST_IMPORT_BYTES", 10)
    response = client.post("/v1/pairs/import", files={"file": ("rows.jsonl", b"x" * 11)})
    assert (response.status_code, response.json()["type"]) == (413, "document-too-large")
    assert uploads(indexed) == []
    assert list(indexed.state.tmp.iterdir()) == []


def test_pairs_can_be_imported_before_anything_is_indexed(empty_client, workspace):
    assert run_import(empty_client, workspace, json={"rows": ROWS[:1]}).outputs["imported"] == 1
    assert workspace.store.pairs.all("default")[0].kind == "free"


@pytest.mark.parametrize("sent", [{"json": {}}, {"json": {"rows": []}}, {"content": b"x"}, {"files": {"other": b"x"}}])
def test_imports_that_are_refused(client, sent):
    response = client.post("/v1/pairs/import", **sent)
    assert (response.status_code, response.json()["type"]) == (422, "invalid-request")


@pytest.mark.parametrize(
    ("format", "key"), [("chat", "messages"), ("instruction", "instruction"), ("sharegpt", "conversations")]
)
def test_accepted_pairs_are_exported_as_a_file(client, indexed, pairs, format, key):
    run_import(client, indexed, json={"rows": ROWS[:1]})
    pairs.add("default", None, [pair(2)])
    response = client.get("/v1/pairs/export", params={"format": format, "split": "train", "eval_share": 0})
    assert response.status_code == 200
    assert "train" in response.headers["Content-Disposition"]
    (row,) = [json.loads(line) for line in response.text.splitlines()]
    assert key in row
    assert re.search(r"1842 \[\d\d\]", response.text)
    assert "Mara Venn" in response.text, "the passage is in the prompt"


def export(client, **parameters):
    return client.get("/v1/pairs/export", params={"eval_share": 0, **parameters})


def test_many_pairs_are_exported_by_a_job(client, indexed, pairs, monkeypatch):
    """Over the number that is exported at once: the file of a finished job, while it is still true."""
    monkeypatch.setattr("service.pair_exports.DIRECT_PAIRS", 1)
    run_import(client, indexed, json={"rows": ROWS[:1]})
    direct = export(client).text
    pairs.add("default", None, [pair(2, kind="free", status="accepted")])
    refused = export(client)
    assert (refused.status_code, refused.json()["type"]) == (409, "not-exported")
    assert "POST /v1/pairs/export" in refused.json()["hint"]

    response = client.post("/v1/pairs/export", json={"eval_share": 0})
    assert response.status_code == 202
    job = run_job(indexed, response.json()["job_id"])
    assert job.status == "succeeded", job.error
    assert (job.outputs["train"], job.outputs["eval"]) == (2, 0)
    monkeypatch.setattr(indexed.retriever, "search", None)  # from here on, nothing is searched
    for format, name in (("chat", "train.jsonl"), ("sharegpt", "train.sharegpt.jsonl")):
        served = export(client, format=format)
        assert served.status_code == 200
        assert name in served.headers["Content-Disposition"]
        assert len(served.content) == job.outputs["files"][name]
    assert direct.splitlines()[0] in export(client).text
    assert export(client, split="eval").text == ""
    assert export(client, seed=1).json()["type"] == "not-exported"
    pairs.update("p2", answer="1843")
    assert export(client).json()["type"] == "not-exported", "a pair was corrected since"
    pairs.update("p2", answer="1842")
    assert export(client).status_code == 200


def test_an_export_that_was_made_is_not_made_again(client, indexed, pairs, monkeypatch):
    pairs.add("default", None, [pair(1, kind="free", status="accepted")])
    first, second = (client.post("/v1/pairs/export").json()["job_id"] for _ in range(2))
    done = run_job(indexed, first)
    assert done.status == "succeeded", done.error
    monkeypatch.setattr(indexed.retriever, "search", None)
    assert run_job(indexed, second).outputs == done.outputs


def test_a_deleted_document_is_in_no_kept_export(client, indexed, pairs):
    pairs.add("default", None, [pair(1, kind="free", status="accepted")])
    run_job(indexed, client.post("/v1/pairs/export", json={"eval_share": 0}).json()["job_id"])
    assert "Mara Venn" in export(client).text
    (lighthouse,) = [d for d in client.get("/v1/documents").json()["documents"] if d["source"] == "lighthouse.md"]
    client.delete(f"/v1/documents/{lighthouse['id']}")
    assert not (indexed.state.exports / "default").exists()
    assert "Mara Venn" not in export(client).text


def test_a_document_whose_file_went_is_in_no_kept_export(client, indexed, pairs, tmp_path):
    pairs.add("default", None, [pair(1, kind="free", status="accepted")])
    run_job(indexed, client.post("/v1/pairs/export", json={"eval_share": 0}).json()["job_id"])
    (tmp_path / "mirror").mkdir()
    (tmp_path / "mirror" / "garden.md").write_text("# Garden\n\nRed roses.\n")
    done = ingest.run(indexed, {"paths": [str(tmp_path / "mirror")], "sync": True}, ignore_progress)
    assert done["deleted"]
    assert not (indexed.state.exports / "default").exists()


def test_pairs_that_change_during_an_export_fail_it(client, indexed, pairs):
    pairs.add("default", None, [pair(1, kind="free", status="accepted")])
    job_id = client.post("/v1/pairs/export").json()["job_id"]
    job = run_job(indexed, job_id, watch=lambda _progress: pairs.update("p1", answer="1843"))
    assert (job.status, job.error["type"]) == ("failed", "conflict")
    assert list(indexed.state.tmp.iterdir()) == []


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({}, 409, "no-accepted-pairs"),
        ({"collection": "no"}, 404, "unknown-collection"),
        ({"eval_share": 2}, 422, "invalid-request"),
        ({"format": "chat"}, 422, "invalid-request"),
    ],
)
def test_exports_that_are_refused(client, body, status, kind):
    response = client.post("/v1/pairs/export", json=body)
    assert (response.status_code, response.json()["type"]) == (status, kind)
    assert client.get("/v1/jobs").json()["jobs"] == []


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
