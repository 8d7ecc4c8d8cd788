"""From a document to the answers that rest on it and back, over HTTP and the command line; stale adapters."""

from __future__ import annotations

import json

import pytest

from data.errors import StaleAdapter
from data.records import QAPair
from retrieval.examples import examples_from_pairs
from retrieval.rowfiles import row_of
from service.answerer import AskRequest
from service.lineage import trained_rows
from service.promotion import Gate, promote
from tests.service.conftest import open_client
from tests.service.parts import DOCUMENTS, adapter
from tests.service.shells import Shell

QUESTION = "When was the lighthouse of Orrin built?"


def train(workspace):
    """Register house@1 as the train job does, without the training."""
    store = workspace.store
    chunk = next(chunk for _key, chunk, _title in store.chunks.iterate("default") if "1842" in chunk.text)
    pair = QAPair("p1", QUESTION, "1842", (chunk.id,), "span", "test", "accepted")
    store.pairs.add("default", None, [pair])
    examples = examples_from_pairs(store, workspace.retriever, [pair], top_k=2, seed=0)
    rows = trained_rows(store, [pair], examples, [row_of(example) for example in examples])
    store.adapters.add(adapter(lineage={"documents": [chunk.document_id]}), rows)
    return chunk


@pytest.fixture
def trained(indexed):
    chunk = train(indexed)
    promote(indexed.store, indexed.model, "house")
    return chunk


def edit(workspace, tmp_path, name="lighthouse.md"):
    (tmp_path / name).write_text("# Lighthouse\n\nIt fell into the sea.\n", encoding="utf-8")
    workspace.ingestor.ingest("default", [tmp_path / name])


def test_a_document_is_followed_to_the_answer_and_back(client, indexed, trained):
    answer = client.post("/v1/answers", json={"question": QUESTION, "top_k": 1}).json()
    found = client.get(f"/v1/lineage/document/{trained.document_id}").json()
    assert (found["kind"], found["present"], found["source"]) == ("document", True, "lighthouse.md")
    used = {kind: [thing["id"] for thing in things] for kind, things in found["used_by"].items()}
    row = used.pop("row")
    assert used == {"chunk": [trained.id], "pair": ["p1"], "adapter": ["house@1"], "answer": [answer["id"]]}
    back = client.get(f"/v1/lineage/answer/{answer['id']}").json()["made_from"]
    assert [thing["id"] for thing in back["adapter"]] == ["house@1"]
    assert [thing["id"] for thing in back["document"]] == [trained.document_id]
    shown = client.get("/v1/lineage/adapter/house").json()
    assert {thing["source"] for thing in shown["made_from"]["document"]} == set(DOCUMENTS)
    assert [thing["id"] for thing in shown["made_from"]["row"]] == row
    assert all(thing["sha256"] for kind in ("document", "chunk", "pair", "row") for thing in shown["made_from"][kind])


def test_an_edited_document_shows_in_the_answers_of_its_adapter(client, indexed, trained, tmp_path):
    body = {"question": QUESTION, "adapter": "house"}
    assert client.post("/v1/answers", json=body).json()["adapter_stale"] is False
    edit(indexed, tmp_path)
    answer = client.post("/v1/answers", json=body).json()
    assert answer["adapter_stale"] is True
    assert client.post("/v1/answers", json={"question": QUESTION, "mode": "rag"}).json()["adapter_stale"] is False
    found = client.get(f"/v1/lineage/document/{trained.document_id}").json()
    assert found["present"] is False
    (house,) = found["used_by"]["adapter"]
    assert house["stale"] is True
    assert client.get(f"/v1/lineage/answer/{answer['id']}").json()["adapter_stale"] is True


@pytest.mark.parametrize(
    ("path", "status", "kind"),
    [
        ("document/none", 404, "not-found"),
        ("adapter/none", 404, "unknown-adapter"),
        ("adapter/none@1", 404, "not-found"),
        ("planet/mars", 422, "invalid-request"),
        ("pair/p1?limit=0", 422, "invalid-request"),
    ],
)
def test_lineage_of_what_is_not_there(client, path, status, kind):
    response = client.get(f"/v1/lineage/{path}")
    assert (response.status_code, response.json()["type"]) == (status, kind)


def test_a_deletion_names_the_adapters_that_learnt_from_the_document(client, indexed, trained):
    deleted = client.delete(f"/v1/documents/{trained.document_id}").json()
    assert deleted["adapters"] == [{"adapter": "house@1", "stage": "live", "role": "gold"}]
    other = indexed.store.documents.by_source("default")["garden.md"].id
    assert client.delete(f"/v1/documents/{other}").json()["adapters"][0]["role"] == "shown"


def test_where_stale_adapters_are_refused_they_neither_serve_nor_are_promoted(make_workspace, tmp_path):
    workspace = make_workspace("indexed", refuse_stale_adapters=True)
    train(workspace)
    promote(workspace.store, workspace.model, "house", gate=Gate(refuse_stale=True))
    ask = AskRequest(QUESTION)
    assert workspace.answerer.answer(ask).adapter == "house@1"
    edit(workspace, tmp_path)
    with pytest.raises(StaleAdapter, match="ragtune train --name house"):
        workspace.answerer.answer(ask)
    assert workspace.answerer.answer(AskRequest(QUESTION, mode="rag")).text
    with open_client(workspace) as client:
        for path, body in (("answers", {"question": QUESTION}), ("adapters/house/promote", {})):
            response = client.post(f"/v1/{path}", json=body)
            assert (response.status_code, response.json()["type"]) == (409, "stale-adapter")


def test_commands(make_workspace, generator, tmp_path):
    workspace = make_workspace("indexed")
    chunk = train(workspace)
    promote(workspace.store, workspace.model, "house")
    workspace.close()
    shell = Shell(tmp_path / "state", generator)
    answer = shell.json("ask", QUESTION)
    for name in ("lighthouse.md", chunk.document_id):
        found = shell.json("lineage", name)
        assert (found["kind"], found["id"]) == ("document", chunk.document_id)
    assert shell.json("lineage", "house")["id"] == "house@1"
    assert shell.json("lineage", answer["id"])["kind"] == "answer"
    told = shell("lineage", "lighthouse.md").stdout
    assert "used by: 1 adapter\n  house@1" in told
    assert "house@1" in shell("lineage", "p1").stdout
    assert "Did you mean house?" in shell("lineage", "huose", code=1).output
    listed = shell.json("documents", "list")
    assert [row["source"] for row in listed] == sorted(DOCUMENTS)
    assert "lighthouse.md" in shell("documents", "list").stdout
    assert "house@1 (live) is stale" in shell("documents", "delete", "lighthouse.md").stdout
    assert "stale" in shell("ask", QUESTION).stderr
    assert "(gone)" in shell("lineage", "lighthouse.md").stdout
    assert json.loads(shell("documents", "delete", "garden.md", "--json").stdout)["adapters"]
    assert "No such document" in shell("documents", "delete", "garden.md", code=1).output
