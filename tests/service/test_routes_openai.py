from __future__ import annotations

import base64
import json
import math

import numpy as np
import pytest

from data.errors import EngineBusy, EngineTimeout
from tests.service.parts import adapter

QUESTION = [{"role": "user", "content": "When was the lighthouse of Orrin built?"}]


def chat(client, **body):
    return client.post("/v1/chat/completions", json={"model": "rag", "messages": QUESTION, **body})


def chunks(text: str) -> list:
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    return [json.loads(item) for item in data[:-1]]


def test_models_are_arms_adapters_and_bases(client, indexed):
    indexed.store.adapters.add(adapter())
    names = [model["id"] for model in client.get("/v1/models").json()["data"]]
    assert names == ["auto", "rag", "base", "house", "scripted", "embedder"]
    indexed.store.adapters.promote("house", 1)
    assert {"tuned", "combined"} <= {model["id"] for model in client.get("/v1/models").json()["data"]}
    assert client.get("/v1/models/house").json()["object"] == "model"
    assert client.get("/v1/models/huose").json()["type"] == "unknown-model"


def test_an_arm_answers_over_passages_and_cites(client, generator):
    generator.reply = "1842 [1]"
    body = chat(client).json()
    assert body["object"] == "chat.completion"
    assert body["model"] == "rag"
    (choice,) = body["choices"]
    assert choice["message"] == {"role": "assistant", "content": "1842 [1]", "refusal": None}
    assert choice["finish_reason"] == "stop"
    assert body["usage"]["total_tokens"] == body["usage"]["prompt_tokens"] + body["usage"]["completion_tokens"]
    assert body["ragtune"]["citations"][0]["source"] == "lighthouse.md"
    assert "Mara Venn" in generator.requests[-1].messages[-1].content


def test_earlier_turns_are_the_history_and_a_system_message_the_instruction(client, generator):
    turns = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": [{"type": "text", "text": "When was it built?"}]},
    ]
    chat(client, messages=turns)
    messages = generator.requests[-1].messages
    assert [message.role for message in messages] == ["system", "user", "assistant", "user"]
    assert messages[0].content == "Be brief."
    assert messages[-1].content.endswith("When was it built?")


@pytest.mark.parametrize("name", ["base", "scripted"])
def test_the_base_model_gets_the_messages_unchanged(client, generator, name):
    turns = [{"role": "developer", "content": "Sing."}, {"role": "user", "content": "Now"}]
    body = chat(client, model=name, messages=turns, stop="X", temperature=0.5, max_tokens=2).json()
    request = generator.requests[-1]
    assert [(m.role, m.content) for m in request.messages] == [("system", "Sing."), ("user", "Now")]
    assert (request.stop, request.temperature, request.max_tokens, request.adapter) == (("X",), 0.5, 2, None)
    assert body["choices"][0]["finish_reason"] == "length"
    assert "ragtune" not in body


def test_an_adapter_is_a_model(client, indexed, generator):
    indexed.store.adapters.add(adapter())
    assert chat(client, model="house").json()["ragtune"]["adapter"] == "house@1"
    assert generator.requests[-1].adapter == "house@1"


@pytest.mark.parametrize("name", ["rag", "base"])
def test_a_stream_is_openai_chunks(client, generator, name):
    generator.reply = "Mara Venn [1]"
    response = chat(client, model=name, stream=True, stream_options={"include_usage": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *pieces, end, usage = chunks(response.text)
    assert {piece["object"] for piece in pieces} == {"chat.completion.chunk"}
    assert pieces[0]["choices"][0]["delta"]["role"] == "assistant"
    assert "".join(piece["choices"][0]["delta"]["content"] for piece in pieces) == "Mara Venn [1]"
    assert end["choices"][0] == {"index": 0, "delta": {}, "finish_reason": "stop", "logprobs": None}
    assert (usage["choices"], usage["usage"]["completion_tokens"]) == ([], 3)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"model": "gpt-9"}, 422, "unknown-mode"),
        ({"model": "tuned"}, 409, "no-live-adapter"),
        ({"messages": []}, 422, "invalid-request"),
        ({"messages": [{"role": "user", "content": " "}]}, 422, "question-invalid"),
        ({"messages": [{"role": "assistant", "content": "Hi"}]}, 422, "invalid-request"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, 422, "invalid-request"),
        ({"n": 2}, 422, "invalid-request"),
    ],
)
def test_chats_that_are_refused(client, stream, body, status, kind):
    response = chat(client, stream=stream, **body)
    assert (response.status_code, response.json()["type"]) == (status, kind)


def test_a_busy_engine_refuses_a_stream_with_a_status(client, generator):
    generator.error = EngineBusy("full")
    assert chat(client, stream=True).status_code == 429


def test_an_error_within_a_stream_is_a_chunk(client, generator, monkeypatch):
    stream = generator.stream

    def breaks(request):
        yield next(iter(stream(request)))
        raise EngineTimeout("Too slow")

    monkeypatch.setattr(generator, "stream", breaks)
    last = chat(client, stream=True).text.strip().splitlines()[-1]
    assert json.loads(last.removeprefix("data: "))["error"]["type"] == "engine-timeout"


def test_embeddings_are_floats_or_base64(client):
    sent = {"model": "embedder", "input": ["blue roses", "red cliff"]}
    body = client.post("/v1/embeddings", json=sent).json()
    first = body["data"][0]["embedding"]
    assert math.isclose(sum(x * x for x in first), 1, abs_tol=1e-5)
    assert [row["index"] for row in body["data"]] == [0, 1]
    assert body["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    packed = client.post("/v1/embeddings", json={**sent, "encoding_format": "base64"}).json()
    decoded = np.frombuffer(base64.b64decode(packed["data"][0]["embedding"]), dtype=np.float32)
    assert decoded.tolist() == pytest.approx(first)


@pytest.mark.parametrize(
    ("body", "kind"),
    [
        ({"model": "ada", "input": "x"}, "unknown-model"),
        ({"model": "embedder", "input": []}, "invalid-request"),
        ({"model": "embedder", "input": [" "]}, "invalid-request"),
        ({"model": "embedder", "input": "x", "dimensions": 7}, "invalid-request"),
    ],
)
def test_embeddings_that_are_refused(client, body, kind):
    assert client.post("/v1/embeddings", json=body).json()["type"] == kind
