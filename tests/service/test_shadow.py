"""The shadow: it answers after the user's answer, gives way, never fails a request, and what it did is compared."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from data.errors import EngineTimeout
from service import shadow as module
from service.promotion import promote, shadow
from tests.service.conftest import open_client
from tests.service.parts import adapter, wait_until

pytestmark = pytest.mark.slow

QUESTION = "When was the lighthouse of Orrin built?"


@pytest.fixture
def shadowed(make_workspace, tmp_path, monkeypatch):
    """house@1 live, house@2 in the shadow of every question."""
    monkeypatch.setattr(module, "QUIET_S", 0.02)
    policy = tmp_path / "policy.toml"
    policy.write_text("[shadow]\nshare = 1.0\n")
    workspace = make_workspace("indexed", promotion_policy=policy)
    workspace.store.adapters.add(adapter())
    promote(workspace.store, workspace.model, "house")
    workspace.store.adapters.add(adapter(version=2))
    shadow(workspace.store, workspace.model, "house@2")
    return workspace


@pytest.fixture
def client(shadowed):
    with open_client(shadowed) as client:
        yield client


def answers(workspace):
    return workspace.store.shadows.list("house", 2)


def by_adapter(**replies):
    return lambda request: replies[(request.adapter or "none").replace("@", "_")]


def test_the_shadow_answers_after_the_user_and_is_compared(client, shadowed, generator):
    generator.reply = by_adapter(house_1="1842 [1]", house_2="In 1842 [1]")
    body = client.post("/v1/answers", json={"question": QUESTION}).json()
    assert body["adapter"] == "house@1"
    wait_until(lambda: answers(shadowed))
    (kept,) = answers(shadowed)
    assert (kept.answer_id, kept.against, kept.text) == (body["id"], "house@1", "In 1842 [1]")
    assert (kept.agrees, round(kept.f1), kept.abstained, kept.error) == (False, 67, False, "")
    assert kept.latency_ms > 0
    shown = client.get("/v1/adapters/house@2").json()["shadow"]
    assert (shown["answers"], shown["agreement"], shown["against"], shown["dropped"]) == (1, 0.0, ["house@1"], {})
    assert [request.adapter for request in generator.requests] == ["house@1", "house@2"]


def test_the_shadow_keeps_nothing_of_a_document_that_is_deleted(client, shadowed, generator):
    generator.reply = by_adapter(house_1="1842 [1]", house_2="In 1842 [1]")
    body = client.post("/v1/answers", json={"question": QUESTION}).json()
    wait_until(lambda: answers(shadowed))
    for document_id in {passage["document_id"] for passage in body["passages"]}:
        client.delete(f"/v1/documents/{document_id}")
    assert [kept.text for kept in answers(shadowed)] == [""]


@pytest.mark.parametrize(
    ("live", "other", "agrees", "f1"),
    [
        ("1842 [1]", "1842.", True, 100),
        ("I don't know.", "I don't know.", True, 100),
        ("I don't know.", "1842", False, 0),
        ("1842", "I don't know.", False, 0),
    ],
)
def test_agreement(client, shadowed, generator, live, other, agrees, f1):
    generator.reply = by_adapter(house_1=live, house_2=other)
    client.post("/v1/answers", json={"question": QUESTION})
    wait_until(lambda: answers(shadowed))
    assert (answers(shadowed)[0].agrees, answers(shadowed)[0].f1) == (agrees, f1)


def test_streams_and_chats_are_shadowed_too(client, shadowed):
    client.post("/v1/answers", json={"question": QUESTION, "stream": True})
    wait_until(lambda: len(answers(shadowed)) == 1)
    chat = {"model": "auto", "messages": [{"role": "user", "content": QUESTION}]}
    client.post("/v1/chat/completions", json=chat)
    wait_until(lambda: len(answers(shadowed)) == 2)
    client.post("/v1/chat/completions", json={**chat, "stream": True})
    wait_until(lambda: len(answers(shadowed)) == 3)


@pytest.mark.parametrize(
    "changes", [{"mode": "rag"}, {"mode": "base"}, {"adapter": "house@1"}, {"adapters": [{"name": "house@2"}]}]
)
def test_answers_that_a_promotion_would_not_change_are_not_shadowed(client, shadowed, generator, changes):
    client.post("/v1/answers", json={"question": QUESTION, **changes})
    client.post("/v1/answers", json={"question": QUESTION})
    wait_until(lambda: answers(shadowed))
    assert len(generator.requests) == 3


def test_a_failing_shadow_fails_nobody(client, shadowed, generator):
    def reply(request):
        if request.adapter == "house@2":
            raise EngineTimeout("No answer in time")
        return "1842 [1]"

    generator.reply = reply
    assert client.post("/v1/answers", json={"question": QUESTION}).status_code == 200
    wait_until(lambda: answers(shadowed))
    assert "engine-timeout" in answers(shadowed)[0].error
    shown = client.get("/v1/adapters/house@2").json()["shadow"]
    assert (shown["failed"], shown["agreement"]) == (1, None)


def test_a_request_interrupts_the_shadow_and_that_is_counted(client, shadowed, generator):
    generator.hold = threading.Event()  # between the words of an answer of two
    generator.reply = by_adapter(house_1="1842", house_2="In 1842")
    client.post("/v1/answers", json={"question": QUESTION})
    wait_until(lambda: any(request.adapter == "house@2" for request in generator.requests))
    generator.reply = "1842"
    assert client.post("/v1/answers", json={"question": QUESTION, "mode": "base"}).json()["answer"] == "1842"
    generator.hold.set()
    wait_until(lambda: shadowed.store.shadows.drops("house", 2))
    assert shadowed.store.shadows.drops("house", 2) == {"interrupted by a request": 1}
    assert answers(shadowed) == []


def test_under_load_questions_are_dropped_and_counted(shadowed, monkeypatch):
    monkeypatch.setattr(module, "QUEUE", 2)
    running = module.Shadow(shadowed)
    running.request_begins()  # somebody is always waiting for an answer
    ask = module.AskRequest(QUESTION)
    for _ in range(5):
        running.offer(ask, shadowed.answerer.answer(ask))
    assert answers(shadowed) == []
    running.request_ends()
    wait_until(lambda: len(answers(shadowed)) == 2)
    running.stop()
    assert shadowed.store.shadows.drops("house", 2) == {"queue full": 3}


def test_without_an_adapter_in_the_shadow_nothing_is_asked_twice(make_workspace, generator, tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text("[shadow]\nshare = 1.0\n")
    workspace = make_workspace("indexed", promotion_policy=policy)
    with open_client(workspace) as client:
        client.post("/v1/answers", json={"question": QUESTION})
    assert len(generator.requests) == 1


def test_the_share_of_the_policy_is_taken(shadowed, tmp_path):
    (tmp_path / "policy.toml").write_text("[shadow]\nshare = 0.25\n")
    running = module.Shadow(shadowed)
    running.request_begins()
    ask = module.AskRequest(QUESTION)
    answer = shadowed.answerer.answer(ask)
    for part in range(16):
        running.offer(ask, replace(answer, id=f"{part:x}{'0' * 31}"))
    running.request_ends()
    wait_until(lambda: len(answers(shadowed)) == 4)
    running.stop()
    assert len(answers(shadowed)) == 4


def test_a_deleted_adapter_takes_its_shadow_along(client, shadowed):
    client.post("/v1/answers", json={"question": QUESTION})
    wait_until(lambda: answers(shadowed))
    client.delete("/v1/adapters/house@2")
    assert answers(shadowed) == []
    assert client.post("/v1/answers", json={"question": QUESTION}).status_code == 200
