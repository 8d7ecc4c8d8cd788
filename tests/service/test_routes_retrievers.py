"""Tuned embedders over HTTP and as jobs, with an embedder without weights."""

from __future__ import annotations

import pytest

from data.records import QAPair
from retrieval.tuned import MODEL, TunedEmbedders
from service.jobs import run_job, submit
from tests.service.parts import HashEmbedder

GAIN, NONE = [0.01, 0.09], [-0.02, 0.05]
LOSS = [-0.09, -0.01]


class Tuned(HashEmbedder):
    fingerprint = "tuned"


@pytest.fixture
def tuned(indexed):
    indexed.tuned = TunedEmbedders(indexed.state, indexed.store, lambda _folder: Tuned())
    return indexed.tuned


@pytest.fixture
def make(indexed, tuned):
    def make(dense=GAIN, hybrid=NONE, **changes):
        folder = indexed.state.embedders("house") / "training"
        (folder / MODEL).mkdir(parents=True)
        (folder / MODEL / "weights").write_text("none")
        gains = {name: {"gain": {"ndcg@10": {"ci": ci}}} for name, ci in (("dense", dense), ("hybrid", hybrid))}
        facts = {"base": "hash-256", "compared_with": "hash-256", "collection": "default", **changes}
        metrics = {"held_out": {**gains, "questions": 40}, "second_corpus": None}
        return tuned.add("house", folder, fingerprint="tuned", recipe={}, data={}, metrics=metrics, **facts)

    return make


def promote(workspace, **inputs):
    job = submit(workspace.store, "promote_retriever", {"name": "house", **inputs})
    return run_job(workspace, job.id)


def test_retrievers_are_listed_shown_and_deleted(client, make):
    assert client.get("/v1/retrievers").json() == {"retrievers": []}
    make()
    (listed,) = client.get("/v1/retrievers").json()["retrievers"]
    assert (listed["name"], listed["version"], listed["stage"], listed["live_in"]) == ("house", 1, "candidate", [])
    assert client.get("/v1/retrievers/house@1").json() == listed
    response = client.get("/v1/retrievers/huose")
    assert (response.status_code, response.json()["type"]) == (404, "unknown-retriever")
    assert client.delete("/v1/retrievers/house").json() == {"deleted": ["house@1"]}


def test_tuning_wants_accepted_pairs_and_a_free_name(client):
    response = client.post("/v1/retrievers", json={})
    assert (response.status_code, response.json()["type"]) == (409, "no-accepted-pairs")
    assert client.post("/v1/retrievers", json={"name": "base"}).status_code == 422
    assert client.post("/v1/retrievers", json={"collection": "nowhere"}).status_code == 404
    assert client.post("/v1/retrievers", json={"second_corpus": "/etc"}).status_code == 422


def test_tuning_is_a_job_and_needs_an_embedder_with_weights(client, indexed):
    chunks = [chunk for _, chunk, _ in indexed.store.chunks.iterate("default")]
    pairs = [
        QAPair(f"{number}", f"What is number {number}?", "it", (chunk.id,), "span", "test", "accepted")
        for number, chunk in enumerate(chunks)
    ]
    indexed.store.pairs.add("default", None, pairs)
    response = client.post("/v1/retrievers", json={"name": "house"})
    assert (response.status_code, response.json()["kind"]) == (202, "tune_retriever")
    job = run_job(indexed, response.json()["job_id"])
    assert (job.status, job.error["type"], job.error["got"]) == ("failed", "invalid-model", "HashEmbedder")


@pytest.mark.parametrize(
    "changes",
    [{"dense": NONE}, {"hybrid": LOSS}, {"compared_with": "another"}, {"collection": "elsewhere"}],
    ids=["no gain", "a loss", "another embedder", "another collection"],
)
def test_what_was_not_shown_to_gain_is_not_promoted(client, indexed, make, changes):
    make(**changes)
    response = client.post("/v1/retrievers/house/promote", json={"collection": "default"})
    assert (response.status_code, response.json()["type"]) == (409, "gain-unproven")
    job = promote(indexed, collection="default")
    assert (job.status, job.error["type"]) == ("failed", "gain-unproven")
    assert promote(indexed, collection="default", force=True, reason="a trial").status == "succeeded"
    promoted, refused = indexed.store.stages.list(kind="retriever")
    assert (promoted.event, promoted.subject, promoted.reason) == ("promoted", "house@1", "forced: a trial")
    assert (refused.event, refused.before) == ("refused", refused.after)
    assert refused.decision["ndcg@10"]["dense"]["ci"]


def test_promotion_indexes_anew_and_the_index_brings_back_what_was(client, indexed, tuned, make):
    make()
    response = client.post("/v1/retrievers/house/promote")
    assert (response.status_code, response.json()["kind"]) == (202, "promote_retriever")
    before = client.get("/v1/index").json()["generation"]
    job = run_job(indexed, response.json()["job_id"])
    assert job.outputs == {"retriever": "house@1", "collection": "default", "index_generation": before + 1}
    shown = client.get("/v1/retrievers/house").json()
    assert (shown["stage"], shown["live_in"], shown["promoted"][0]["generation"]) == ("live", ["default"], before + 1)
    status = client.get("/v1/index").json()
    assert (status["embedder"], status["up_to_date"]) == ("tuned", True)
    assert client.post("/v1/search", json={"query": "blue roses"}).json()["index_generation"] == before + 1
    assert client.delete("/v1/retrievers/house").status_code == 409

    assert promote(indexed).outputs["index_generation"] == before + 1  # a job that was stopped after the swap
    assert client.post("/v1/index/rollback", json={}).json()["index_generation"] == before
    assert client.get("/v1/retrievers/house").json()["stage"] == "retired"
    assert client.post("/v1/search", json={"query": "blue roses"}).json()["index_generation"] == before


def test_the_configured_embedder_can_be_promoted_back(indexed, make):
    make()
    assert promote(indexed).status == "succeeded"
    job = promote(indexed, name="base")
    assert job.outputs["retriever"] == "base"
    assert indexed.ingestor.status("default")["embedder"] == "hash-256"
