"""``POST /v1/search`` and what it shares with answers: filters, history, rerank."""

from __future__ import annotations

import pytest


def sources(client, **body: object) -> list[str]:
    response = client.post("/v1/search", json={"query": "Who planted it?", **body})
    assert response.status_code == 200, response.text
    return [passage["source"] for passage in response.json()["passages"]]


def test_a_filter_narrows_the_search(client):
    assert len(sources(client)) == 2
    assert sources(client, filter={"sources": ["garden.md"]}) == ["garden.md"]
    assert sources(client, filter={"sources": ["light*"]}, method="dense") == ["lighthouse.md"]
    assert sources(client, filter={"tags": ["none"]}) == []
    assert sources(client, filter={"since": "2100-01-01"}) == []
    assert len(sources(client, filter={"until": "2100-01-01T00:00:00Z"})) == 2


def test_an_answer_takes_a_filter(client, generator):
    generator.reply = "1842 [1]"
    body = client.post("/v1/answers", json={"question": "Built?", "filter": {"sources": ["garden.md"]}}).json()
    assert {passage["source"] for passage in body["passages"]} == {"garden.md"}


def test_a_follow_up_is_searched_with_the_question_before(client):
    history = [{"role": "user", "content": "Which roses grow in the garden of Tolm?"}]
    alone = sources(client, query="When was it built, the thing?", method="lexical")
    assert alone[0] == "lighthouse.md"
    assert sources(client, query="And by whom?", history=history, method="lexical")[0] == "garden.md"


@pytest.mark.parametrize(
    "body",
    [{"filter": {"source": ["x"]}}, {"filter": {"since": "soon"}}, {"rerank": "magic"}, {"method": "best"}],
)
def test_what_is_not_understood_is_refused(client, body):
    response = client.post("/v1/search", json={"query": "x", **body})
    assert response.status_code == 422
    assert response.headers["content-type"] == "application/problem+json"


def test_reranking_needs_what_it_is_asked_to_use(client):
    response = client.post("/v1/search", json={"query": "x", "rerank": "cross-encoder"})
    assert response.status_code == 422
    assert "RAGTUNE_CROSS_ENCODER" in response.json()["hint"]
