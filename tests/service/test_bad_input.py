"""Input that nobody should send: it is refused with a reason, and harms nobody else."""

from __future__ import annotations

import pytest

from data.errors import NothingIndexed
from data.records import Question
from service.compare.evaluation import EvaluationRequest, evaluate

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
