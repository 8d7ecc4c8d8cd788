"""The OpenAI-compatible generator against a scripted server."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx2
import pytest

from data import errors
from data.protocols import GenerationRequest
from data.records import Message, Usage
from service.engine.openai import OpenAIGenerator

REQUEST = GenerationRequest(
    (Message("user", ("What ", "is it?")),), max_tokens=9, temperature=0.5, top_k=40, seed=1, stop=("\n",)
)


def events(*values: object) -> bytes:
    lines = [value if isinstance(value, str) else json.dumps(value) for value in values]
    return "".join(f"data: {line}\n\n" for line in lines).encode()


def piece(text: str | None, finish: str | None = None) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}
ANSWER = events(piece(""), piece("Hel"), piece("lo"), piece(None, "length"), {"choices": [], "usage": USAGE}, "[DONE]")


def generator(handle: Callable[[httpx2.Request], httpx2.Response], key: str = "secret") -> OpenAIGenerator:
    return OpenAIGenerator("http://teacher.test/v1/", key, "big", transport=httpx2.MockTransport(handle))


def replying(status: int, content: bytes) -> OpenAIGenerator:
    return generator(lambda _: httpx2.Response(status, content=content))


def test_it_streams_text_and_ends_with_the_result() -> None:
    deltas = list(replying(200, ANSWER).stream(REQUEST))
    assert [delta.text for delta in deltas] == ["Hel", "lo", ""]
    result = deltas[-1].result
    assert result is not None
    assert (result.text, result.finish_reason, result.usage) == ("Hello", "length", Usage(5, 3, 2))
    assert replying(200, ANSWER).generate(REQUEST).text == "Hello"


def test_it_sends_what_was_asked() -> None:
    seen: list[httpx2.Request] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, content=ANSWER)

    generator(handle).generate(REQUEST)
    body = json.loads(seen[0].content)
    assert str(seen[0].url) == "http://teacher.test/v1/chat/completions"
    assert seen[0].headers["authorization"] == "Bearer secret"
    assert body["messages"] == [{"role": "user", "content": "What is it?"}]
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("big", 9, 0.5)
    assert (body["top_k"], body["seed"], body["stop"]) == (40, 1, ["\n"])
    assert "grammar" not in body


def test_an_adapter_is_asked_for_as_the_model_and_no_key_sends_no_header() -> None:
    seen: list[httpx2.Request] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, content=ANSWER)

    generator(handle, key="").generate(GenerationRequest(REQUEST.messages, adapter="style"))
    assert json.loads(seen[0].content)["model"] == "style"
    assert "authorization" not in seen[0].headers


@pytest.mark.parametrize(
    ("status", "content", "kind"),
    [
        (401, b"no", errors.Unauthorized),
        (403, b"no", errors.Unauthorized),
        (404, b"no", errors.UnknownModel),
        (429, b"slow down", errors.EngineBusy),
        (504, b"", errors.EngineTimeout),
        (500, b"oops", errors.EngineUnavailable),
        (400, b"maximum context length is 10", errors.ContextOverflow),
        (400, b"bad", errors.EngineError),
        (200, b"data: {broken\n\n", errors.EngineError),
        (200, events({"error": {"message": "died"}}), errors.EngineError),
    ],
)
def test_refusals_are_typed(status: int, content: bytes, kind: type[errors.RagtuneError]) -> None:
    with pytest.raises(errors.RagtuneError) as caught:
        replying(status, content).generate(REQUEST)
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (httpx2.ConnectError("refused"), errors.EngineUnavailable),
        (httpx2.ReadError("reset"), errors.EngineUnavailable),
        (httpx2.ReadTimeout("slow"), errors.EngineTimeout),
    ],
)
def test_a_failing_connection_is_typed(raised: Exception, kind: type[errors.RagtuneError]) -> None:
    def handle(_request: httpx2.Request) -> httpx2.Response:
        raise raised

    with pytest.raises(errors.RagtuneError) as caught:
        generator(handle).generate(REQUEST)
    assert type(caught.value) is kind


def test_a_stream_that_outlives_its_time_is_ended() -> None:
    with pytest.raises(errors.EngineTimeout):
        replying(200, ANSWER).generate(GenerationRequest(REQUEST.messages, timeout_s=-1.0))
