from __future__ import annotations

import base64
import json
import math

import numpy as np
import pytest

from data.errors import EngineBusy, EngineTimeout, EngineUnavailable
from tests.service.parts import adapter

pytestmark = pytest.mark.slow

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


SETTINGS = {
    "temperature": 0.7, "top_p": 0.9, "top_k": 40, "min_p": 0.05, "seed": 7, "presence_penalty": -0.5,
    "frequency_penalty": 1, "repeat_penalty": 1.1, "top_logprobs": 2, "logprobs": True, "grammar": 'root ::= "a"',
}  # fmt: skip


@pytest.mark.parametrize("name", ["rag", "base"])
def test_every_setting_reaches_the_engine(client, generator, name):
    body = {**SETTINGS, "stop": ["X", "Y"], "logit_bias": {"7": -100, "9": 1.5}, "max_completion_tokens": 5}
    assert chat(client, model=name, max_tokens=9, **body).status_code == 200
    request = generator.requests[-1]
    assert {setting: getattr(request, setting) for setting in SETTINGS} == SETTINGS
    assert (request.stop, request.logit_bias, request.max_tokens) == (("X", "Y"), {7: -100, 9: 1.5}, 5)


def test_null_is_as_good_as_left_out(client, generator):
    names = [*SETTINGS, "stop", "logit_bias", "max_tokens", "max_completion_tokens", "response_format", "n", "stream",
             "stream_options"]  # fmt: skip
    assert chat(client, **dict.fromkeys(names)).status_code == 200
    given = generator.requests[-1]
    assert chat(client).status_code == 200
    assert generator.requests[-1] == given


def test_n_passages_are_read(client, generator):
    chat(client, n_passages=1)
    assert len(generator.requests[-1].messages[-1].parts) == 2


@pytest.mark.parametrize(
    ("response_format", "schema"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, {"type": "object"}),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {"type": "integer"}}},
            {"type": "integer"},
        ),
    ],
)
def test_a_response_format_is_a_schema(client, generator, response_format, schema):
    assert chat(client, response_format=response_format).status_code == 200
    sent = generator.requests[-1].json_schema
    assert (None if sent is None else json.loads(sent)) == schema


@pytest.mark.parametrize("name", ["rag", "base"])
def test_log_probabilities_are_those_of_openai(client, generator, name):
    generator.reply = "Mara Venn"
    (choice,) = chat(client, model=name, logprobs=True, top_logprobs=2).json()["choices"]
    first, second = choice["logprobs"]["content"]
    mara = {"token": "Mara", "logprob": -0.1, "bytes": [77, 97, 114, 97]}
    half = {"token": "\ufffd", "logprob": -9999.0, "bytes": [0xE2]}
    assert first == {**mara, "top_logprobs": [mara, half]}
    assert second["token"] == " Venn"
    (choice,) = chat(client, model=name, logprobs=True).json()["choices"]
    assert [item["top_logprobs"] for item in choice["logprobs"]["content"]] == [[], []]
    (choice,) = chat(client, model=name).json()["choices"]
    assert choice["logprobs"] is None


@pytest.mark.parametrize("name", ["rag", "base"])
def test_log_probabilities_stream(client, generator, name):
    generator.reply = "Mara Venn"
    whole = chat(client, model=name, logprobs=True, top_logprobs=1).json()["choices"][0]["logprobs"]["content"]
    pieces = chunks(chat(client, model=name, logprobs=True, top_logprobs=1, stream=True).text)
    told = [piece["choices"][0]["logprobs"] for piece in pieces]
    assert [item for some in told if some for item in some["content"]] == whole


@pytest.mark.parametrize("name", ["rag", "base"])
def test_timings_are_llama_servers(client, name):
    body = chat(client, model=name).json()
    assert set(body["timings"]) == {"cache_n", "prompt_n", "prompt_ms", "predicted_n", "predicted_ms"}
    assert (body["timings"]["prompt_ms"], body["timings"]["predicted_ms"]) == (1, 2)
    assert body["usage"]["prompt_tokens_details"] == {"cached_tokens": body["timings"]["cache_n"]}
    *_, end = chunks(chat(client, model=name, stream=True).text)
    assert end["timings"] == body["timings"]


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"n": 2}, "n must be 1"),
        ({"n": "x"}, "n must be 1"),
        ({"stop": 5}, "stop must be"),
        ({"stop": ["a", 5]}, "stop must be"),
        ({"stop": ["a"] * 5}, "at most 4"),
        ({"stop": [""]}, "stop"),
        ({"temperature": "hot"}, "temperature"),
        ({"temperature": "0.5"}, "temperature"),
        ({"temperature": 2.5}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"top_k": 1.5}, "top_k"),
        ({"top_k": -1}, "top_k"),
        ({"min_p": 1.5}, "min_p"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"frequency_penalty": -2.5}, "frequency_penalty"),
        ({"repeat_penalty": 0}, "repeat_penalty"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"logit_bias": {"5": 101}}, "logit_bias"),
        ({"logit_bias": [5]}, "logit_bias"),
        ({"logprobs": 1}, "logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 3}, "needs logprobs"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_completion_tokens": "5"}, "max_completion_tokens"),
        ({"seed": 1.5}, "seed"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"response_format": {"type": "json_schema"}}, "json_schema"),
        ({"response_format": "json"}, "response_format"),
        ({"response_format": {"type": "json_object"}, "grammar": 'root ::= "a"'}, "exclude each other"),
        ({"grammar": ""}, "grammar"),
        ({"grammar": ["a"]}, "grammar"),
    ],
)
def test_settings_that_are_refused(client, body, named):
    response = chat(client, **body)
    found = response.json()
    assert (response.status_code, found["type"]) == (422, "invalid-request")
    assert named in found["detail"]


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
    assert "error" not in response.text
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
    response = chat(client, stream=True)
    assert (response.status_code, response.json()["type"]) == (429, "engine-busy")
    assert int(response.headers["Retry-After"]) >= 1


@pytest.mark.parametrize("name", ["rag", "base"])
def test_an_engine_that_is_down_is_a_503_with_the_time_to_come_back(client, generator, name):
    generator.error = EngineUnavailable("The engine process died")
    response = chat(client, model=name)
    assert (response.status_code, response.json()["type"]) == (503, "engine-unavailable")
    assert int(response.headers["Retry-After"]) >= 1


def test_a_prompt_that_does_not_fit_is_refused_with_the_counts(client, generator):
    generator.n_ctx = 3
    for name in ("rag", "base"):
        response = chat(client, model=name)
        assert (response.status_code, response.json()["type"]) == (422, "context-overflow")
        assert response.json()["got"].endswith(" tokens")


def test_passages_that_do_not_fit_are_counted(client, generator):
    chat(client)
    generator.n_ctx = sum(len(m.content.split()) for m in generator.requests[-1].messages) - 1
    assert chat(client).json()["ragtune"]["passages_dropped"] == 1


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
