from __future__ import annotations

import errno
import io
import os
import zipfile

import pytest

from service.jobs import run_job
from tests.service.parts import DOCUMENTS, adapter

MOON = b"# Moon\n\nThe moon mine of Hadley opened in 2061.\n"


def upload(client, *files: tuple[str, bytes], **data: str):
    return client.post("/v1/documents", files=[("files", file) for file in files], data=data)


def test_an_upload_is_durable_before_its_job_and_found_after_it(empty_client, workspace):
    response = upload(empty_client, ("moon.md", MOON), ("empty.txt", b""))
    assert response.status_code == 202
    job_id = response.json()["job_id"]
    assert response.headers["Location"] == f"/v1/jobs/{job_id}"
    kept = [path for path in workspace.state.blobs.rglob("*") if path.is_file()]
    assert sorted(path.name for path in kept) == ["empty.txt", "moon.md"]
    run_job(workspace, job_id)
    job = empty_client.get(f"/v1/jobs/{job_id}").json()
    assert job["status"] == "succeeded"
    assert set(job["progress"]) >= {"done", "total", "unit", "eta_s"}
    (indexed,) = job["outputs"]["indexed"]
    assert set(indexed) == {"id", "source", "chunks"}
    assert indexed["source"] == "moon.md"
    (failed,) = job["outputs"]["failed"]
    assert (failed["source"], failed["type"]) == ("empty.txt", "empty-document")
    found = empty_client.post("/v1/search", json={"query": "moon mine"}).json()["passages"]
    assert found[0]["document_id"] == indexed["id"]


def test_an_upload_none_of_whose_files_is_a_document_fails(empty_client, workspace):
    job_id = upload(empty_client, ("empty.txt", b"")).json()["job_id"]
    run_job(workspace, job_id)
    job = empty_client.get(f"/v1/jobs/{job_id}").json()
    assert (job["status"], job["error"]["type"]) == ("failed", "empty-document")
    assert job["outputs"]["failed"][0]["source"] == "empty.txt"


def test_an_upload_into_a_collection(empty_client, workspace):
    job_id = upload(empty_client, ("a.txt", b"Alpha text about amber."), collection="manuals").json()["job_id"]
    run_job(workspace, job_id)
    (document,) = empty_client.get("/v1/documents", params={"collection": "manuals"}).json()["documents"]
    assert document["source"] == "a.txt"


@pytest.mark.parametrize(
    ("files", "data", "status", "kind"),
    [
        ([("a.md", b"x" * 60)], {}, 413, "document-too-large"),
        ([("..", b"x")], {}, 422, "invalid-request"),
        ([("a.md", b"x"), ("b/a.md", b"y")], {}, 422, "invalid-request"),
        ([("a.md", b"x")], {"collection": "../x"}, 422, "invalid-request"),
        ([], {}, 422, "invalid-request"),
    ],
)
def test_uploads_that_are_refused_leave_no_job(make_workspace, files, data, status, kind):
    from tests.service.conftest import open_client

    with open_client(make_workspace(max_document_bytes=50)) as client:
        response = upload(client, *files, **data)
        assert (response.status_code, response.json()["type"]) == (status, kind)
        assert client.get("/v1/jobs").json()["jobs"] == []


def test_a_path_in_a_file_name_is_left_out(empty_client, workspace):
    upload(empty_client, ("../../etc/evil.md", b"# Evil\n\ntext\n"))
    (path,) = (path for path in workspace.state.root.rglob("evil.md"))
    assert path.is_relative_to(workspace.state.blobs)


def test_an_idempotency_key_gives_the_same_job(empty_client):
    def send(text: bytes):
        files = [("files", ("a.md", text))]
        return empty_client.post("/v1/documents", files=files, headers={"Idempotency-Key": "k1"})

    first, again, other = send(b"one"), send(b"one"), send(b"two")
    assert first.json()["job_id"] == again.json()["job_id"]
    assert (other.status_code, other.json()["type"]) == (409, "conflict")


def test_documents_are_listed_in_pages(client):
    first = client.get("/v1/documents", params={"limit": 1}).json()
    second = client.get("/v1/documents", params={"limit": 1, "cursor": first["next_cursor"]}).json()
    sources = [page["documents"][0]["source"] for page in (first, second)]
    assert sorted(sources) == sorted(DOCUMENTS)
    assert second["next_cursor"] is None
    assert client.get("/v1/documents", params={"cursor": "junk"}).status_code == 422


def test_a_document_is_shown_with_its_text(client):
    row = client.get("/v1/documents").json()["documents"][0]
    shown = client.get(f"/v1/documents/{row['id']}").json()
    assert (shown["source"], shown["chunks"]) == (row["source"], row["chunks"])
    text = client.get(f"/v1/documents/{row['id']}/text").json()["text"]
    assert text.strip() == DOCUMENTS[row["source"]].strip()


def test_a_deleted_document_is_found_no_more(client):
    (found,) = client.post("/v1/search", json={"query": "blue roses", "top_k": 1}).json()["passages"]
    response = client.delete(f"/v1/documents/{found['document_id']}")
    assert response.json() == {"deleted": [{"id": found["document_id"], "source": "garden.md"}], "adapters": []}
    passages = client.post("/v1/search", json={"query": "blue roses"}).json()["passages"]
    assert {passage["source"] for passage in passages} == {"lighthouse.md"}
    assert client.get(f"/v1/documents/{found['document_id']}").status_code == 404


def test_deleting_an_upload_deletes_its_bytes(empty_client, workspace):
    job_id = upload(empty_client, ("secret.md", b"# Secret\n\nThe secret is out.\n")).json()["job_id"]
    run_job(workspace, job_id)
    (document,) = empty_client.get("/v1/documents").json()["documents"]
    empty_client.delete(f"/v1/documents/{document['id']}")
    assert [path for path in workspace.state.blobs.rglob("*") if path.is_file()] == []


def kept(workspace):
    """Return the names of the uploads that are kept."""
    return [path.name for path in workspace.state.blobs.rglob("*") if path.is_file()]


def test_bytes_that_were_replaced_are_kept_no_more(empty_client, workspace):
    for text in (b"# Secret\n\nThe secret is out.\n", b"# Secret\n\nThere is none.\n"):
        run_job(workspace, upload(empty_client, ("secret.md", text)).json()["job_id"])
    assert kept(workspace) == ["secret.md"]
    (document,) = empty_client.get("/v1/documents").json()["documents"]
    empty_client.delete(f"/v1/documents/{document['id']}")
    assert kept(workspace) == []


def test_bytes_that_another_collection_is_made_of_are_kept(empty_client, workspace):
    same = b"# One\n\nThe same.\n"
    for data, text in (({}, same), ({"collection": "two"}, same), ({}, b"# Other\n\nText.\n")):
        run_job(workspace, upload(empty_client, ("r.md", text), **data).json()["job_id"])
    assert kept(workspace) == ["r.md", "r.md"]
    for name in ("two", "default"):
        (document,) = empty_client.get("/v1/documents", params={"collection": name}).json()["documents"]
        empty_client.delete(f"/v1/documents/{document['id']}")
    assert kept(workspace) == []


def test_an_archive_goes_with_its_last_document(empty_client, workspace):
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("a.md", "# A\n\nThe secret is out.\n")
        archive.writestr("b.md", "# B\n\nThere is none.\n")
    run_job(workspace, upload(empty_client, ("x.zip", packed.getvalue())).json()["job_id"])
    first, second = empty_client.get("/v1/documents").json()["documents"]
    empty_client.delete(f"/v1/documents/{first['id']}")
    assert kept(workspace) == ["x.zip"]
    empty_client.delete(f"/v1/documents/{second['id']}")
    assert kept(workspace) == []


def test_bytes_that_a_job_is_about_to_read_are_kept(empty_client, workspace):
    old, new = b"# Secret\n\nThe secret is out.\n", b"# Secret\n\nThere is none.\n"
    run_job(workspace, upload(empty_client, ("secret.md", old)).json()["job_id"])
    replacing, again = (upload(empty_client, ("secret.md", text)).json()["job_id"] for text in (new, old))
    assert run_job(workspace, replacing).status == "succeeded"
    (document,) = empty_client.get("/v1/documents").json()["documents"]
    empty_client.delete(f"/v1/documents/{document['id']}")
    assert run_job(workspace, again).status == "succeeded"
    assert len(empty_client.get("/v1/documents").json()["documents"]) == 1


def test_answers_keep_nothing_of_a_document_that_is_deleted(client, indexed, generator):
    generator.reply = "Blue roses grow there [1]."
    asked = {"question": "What grows in the garden of Tolm?", "mode": "rag"}
    told = client.post("/v1/answers", json=asked).json()
    elsewhere = client.post("/v1/answers", json={**asked, "filter": {"sources": ["lighthouse.md"]}}).json()
    (document,) = {passage["document_id"] for passage in told["passages"] if passage["source"] == "garden.md"}
    client.delete(f"/v1/documents/{document}")
    kept = indexed.store.answers.get(told["id"])
    assert kept.question == asked["question"]
    assert kept.answer.text == ""
    assert (kept.answer.sentences, kept.answer.citations) == ((), ())
    assert {passage.source for passage in kept.answer.passages} <= {"lighthouse.md"}
    assert indexed.store.answers.get(elsewhere["id"]).answer.text == elsewhere["answer"]
    rated = client.post("/v1/feedback", json={"answer_id": told["id"], "rating": 1}).json()
    assert rated["pair_id"] is None


@pytest.mark.parametrize("path", ["/v1/documents/none", "/v1/documents/none/text"])
def test_unknown_documents(client, path):
    response = client.get(path)
    assert (response.status_code, response.json()["type"]) == (404, "unknown-document")
    assert client.delete("/v1/documents/none").status_code == 404


def test_the_index_is_described_rebuilt_and_rolled_back(client, indexed):
    status = client.get("/v1/index").json()
    assert (status["generation"], status["documents"], status["up_to_date"]) == (1, 2, True)
    response = client.post("/v1/index/rebuild", json={})
    assert response.status_code == 202
    assert run_job(indexed, response.json()["job_id"]).outputs["index_generation"] == 2
    generations = client.get("/v1/index/generations").json()
    assert (generations["current"], [row["number"] for row in generations["generations"]]) == (2, [1, 2])
    assert client.post("/v1/index/rollback", json={}).json()["index_generation"] == 1
    assert client.post("/v1/search", json={"query": "roses"}).json()["index_generation"] == 1
    assert client.post("/v1/index/rollback", json={}).status_code == 422


@pytest.mark.parametrize(
    "path", ["/v1/index?collection=no", "/v1/index/generations?collection=no", "/v1/documents?collection=no"]
)
def test_unknown_collections(client, path):
    assert client.get(path).json()["type"] == "unknown-collection"
    for action in ("rebuild", "rollback"):
        assert client.post(f"/v1/index/{action}", json={"collection": "no"}).status_code == 404


def test_a_document_that_changed_makes_its_adapter_stale(client, indexed):
    (found,) = client.post("/v1/search", json={"query": "blue roses", "top_k": 1}).json()["passages"]
    indexed.store.adapters.add(adapter(lineage={"documents": [found["document_id"]]}))
    assert client.get("/v1/adapters/house").json()["stale"] is False
    client.delete(f"/v1/documents/{found['document_id']}")
    assert client.get("/v1/adapters/house").json()["stale"] is True


def test_documents_are_listed_by_tag_and_source(empty_client, workspace):
    for name, tags in (("moon.md", ["space", "old"]), ("sea.md", ["old"])):
        response = upload(empty_client, (name, MOON), tags=tags)
        run_job(workspace, response.json()["job_id"])

    def listed(**params):
        return [row["source"] for row in empty_client.get("/v1/documents", params=params).json()["documents"]]

    assert listed() == ["moon.md", "sea.md"]
    assert listed(tag="space") == ["moon.md"]
    assert listed(tag=["space", "old"]) == ["moon.md"]
    assert listed(source="s*.md") == ["sea.md"]
    assert listed(source=["moon.md", "s*"], tag="old") == ["moon.md", "sea.md"]
    assert listed(media_type="text/html") == []
    (document,) = empty_client.get("/v1/documents", params={"tag": "space"}).json()["documents"]
    assert document["tags"] == ["space", "old"]
    assert document["modified_at"] > 0
    assert upload(empty_client, ("a.md", MOON), tags=[" "]).status_code == 422


def preview(client, name, content, **data):
    return client.post("/v1/documents/preview", files={"file": (name, content)}, data=data)


def test_a_preview_shows_the_chunks_and_stores_nothing(empty_client, workspace):
    text = "# Moon\n\nThe moon mine of Hadley opened in 2061. It closed in 2090.\n\n## Ice\n\nIce was found there.\n"
    response = preview(empty_client, "moon.md", text.encode(), chunk_size="9")
    assert response.status_code == 200
    found = response.json()
    assert (found["source"], found["media_type"], found["chunk_size"]) == ("moon.md", "text/markdown", 9)
    for chunk in found["chunks"]:
        assert text[chunk["start"] : chunk["end"]] == chunk["text"]
        assert set(chunk) == {"n", "heading", "page", "tokens", "start", "end", "text"}
    assert found["chunks"][-1]["heading"] == "Moon > Ice"
    assert workspace.store.documents.count() == 0
    assert [path for path in workspace.state.blobs.rglob("*") if path.is_file()] == []
    assert list(workspace.state.tmp.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content", "data", "status", "kind"),
    [
        ("empty.md", b"", {}, 422, "empty-document"),
        ("..", b"x", {}, 422, "invalid-request"),
        ("a.md", b"x", {"chunk_size": "0"}, 422, "invalid-request"),
        ("a.md", b"x", {"chunk_size": "5", "chunk_overlap": "5"}, 422, "invalid-request"),
        ("a.bin", bytes(range(256)), {}, 415, "unsupported-media"),
    ],
)
def test_previews_that_are_refused(empty_client, workspace, name, content, data, status, kind):
    response = preview(empty_client, name, content, **data)
    assert (response.status_code, response.json()["type"]) == (status, kind)
    assert list(workspace.state.tmp.iterdir()) == []


def test_an_index_is_verified_and_compacted_as_jobs(client, indexed):
    for path, body, key in (
        ("/v1/index/verify", {"repair": True}, "problems"),
        ("/v1/index/verify", {}, "checked"),
        ("/v1/index/compact", {}, "dropped"),
    ):
        response = client.post(path, json=body)
        assert response.status_code == 202
        run_job(indexed, response.json()["job_id"])
        job = client.get(f"/v1/jobs/{response.json()['job_id']}").json()
        assert job["status"] == "succeeded", job
        assert key in job["outputs"]
    assert client.post("/v1/index/verify", json={"collection": "nowhere"}).status_code == 404


@pytest.mark.parametrize("failing", [1, 2, 3])
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_an_upload_that_did_not_reach_the_disk_is_not_acknowledged(client, indexed, monkeypatch, failing, code):
    """The disk says so at the n-th fsync, of the file or of a folder; SQLite's own are its own."""
    synced, calls = os.fsync, []

    def fsync(handle):
        calls.append(handle)
        if len(calls) == failing:
            raise OSError(code, os.strerror(code))
        synced(handle)

    before = indexed.store.jobs.list(None, 100)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        refused = client.post("/v1/documents", files={"files": ("bell.md", "# Bell\n\nEde Holm cast it.\n")})
    assert len(calls) >= failing
    wanted = (503, "state-error") if code == errno.EIO else (507, "insufficient-storage")
    assert (refused.status_code, refused.json()["type"]) == wanted
    assert indexed.store.jobs.list(None, 100) == before
    assert list(indexed.state.tmp.iterdir()) == []
    assert client.get("/v1/documents").status_code == 200
    again = client.post("/v1/documents", files={"files": ("bell.md", "# Bell\n\nEde Holm cast it.\n")})
    assert run_job(indexed, again.json()["job_id"]).status == "succeeded"
