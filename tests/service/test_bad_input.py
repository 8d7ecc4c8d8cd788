"""Input that nobody should send: it is refused with a reason, and harms nobody else."""

from __future__ import annotations

import pytest

from data.errors import NothingIndexed
from data.records import QAPair, Question
from service.compare.evaluation import EvaluationRequest, evaluate
from tests.service.parts import adapter

HALF_A_CHARACTER = "a\\ud800"
"""In JSON: a lone surrogate, which no UTF-8 can carry."""


def send(client, path, body):
    return client.post(path, content=body, headers={"content-type": "application/json"})


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/answers", '{"question": "%s"}'),
        ("/v1/answers", '{"question": "x", "history": [{"role": "user", "content": "%s"}]}'),
        ("/v1/search", '{"query": "%s"}'),
        ("/v1/compare", '{"question": "x", "arms": ["%s"]}'),
        ("/v1/chat/completions", '{"model": "scripted", "messages": [{"role": "user", "content": "%s"}]}'),
        ("/v1/feedback", '{"answer_id": "x", "comment": "%s"}'),
    ],
)
def test_half_a_character_is_refused_before_it_reaches_the_engine_or_the_store(client, generator, path, body):
    response = send(client, path, body % HALF_A_CHARACTER)
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"
    assert response.json()["type"] == "invalid-request"
    assert not generator.requests


def test_not_json_is_named_and_placed(client):
    for path in ("/v1/answers", "/v1/pairs/import"):
        problem = send(client, path, '{"question": ').json()
        assert problem["status"] == 422
        assert problem["detail"].startswith("body: ")
        assert "JSON" in problem["detail"]
        assert problem["got"] is None


def test_a_number_that_json_cannot_carry_is_refused_and_named(client):
    response = send(client, "/v1/answers", '{"question": "x", "temperature": NaN}')
    assert response.status_code == 422
    assert response.json()["got"] == "nan"


def test_an_unknown_adapter_is_refused_before_a_job_is_queued(client):
    response = client.post("/v1/pairs/generate", json={"adapter": "none"})
    assert (response.status_code, response.json()["type"]) == (404, "unknown-adapter")
    assert client.get("/v1/jobs").json()["jobs"] == []


def test_no_arms_at_all_are_refused(client):
    assert client.post("/v1/compare", json={"question": "x", "arms": []}).status_code == 422


def test_an_evaluation_before_anything_is_indexed_measures_nothing(workspace, generator):
    question = Question("built", "When was the lighthouse of Orrin built?", ("1842",))
    with pytest.raises(NothingIndexed):
        evaluate(workspace, EvaluationRequest((question,)), lambda _progress: None)
    assert not generator.requests
    assert workspace.store.evaluations.latest("default") is None
    done = evaluate(workspace, EvaluationRequest((question,), arms=("base",)), lambda _progress: None)
    assert set(done.comparison.outcomes) == {"base"}


NO_NUMBERS = ("²", "9" * 30, "9" * 5000, "١", "-1", "1.0")
"""What Python's str.isdigit, int or a 64-bit column take for more than it is."""


@pytest.mark.parametrize("number", NO_NUMBERS)
def test_what_looks_like_a_number_is_refused_wherever_one_stands(client, indexed, number):
    indexed.store.adapters.add(adapter("house"))
    job = indexed.store.jobs.create("rebuild", {"collection": "default"}).id
    events = f"/v1/jobs/{job}/events"
    refused = [
        client.get(events, headers=[(b"last-event-id", number.encode("latin-1", "replace"))]),
        client.post("/v1/answers", json={"question": "x", "mode": "tuned", "adapter": f"house@{number}"}),
        client.get(f"/v1/lineage/adapter/house@{number}"),
        client.get("/v1/documents", params={"cursor": number}),
    ]
    for answer in refused:
        assert answer.status_code in {404, 422}, answer.url
        assert answer.headers["content-type"] == "application/problem+json"


def test_a_recipes_seed_is_one_that_every_library_takes(client, indexed):
    chunk = next(chunk for _, chunk, _ in indexed.store.chunks.iterate("default"))
    indexed.store.pairs.add("default", None, [QAPair("p1", "Who?", "Venn", (chunk.id,), "span", "human", "accepted")])
    for seed, status in ((2**32 - 1, 202), (2**32, 422), (-1, 422)):
        sent = client.post("/v1/adapters", json={"recipe": {"seed": seed}})
        assert sent.status_code == status, (seed, sent.text)
