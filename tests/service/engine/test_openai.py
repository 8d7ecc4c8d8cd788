"""The OpenAI-compatible generator: what it sends to which server, and what it makes of what comes back.

Behaviour that every generator shares is in tests/contract/test_generator_contract.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpx2
import pytest

from data import errors
from data.protocols import GenerationRequest, TokenChoice
from data.records import Message, Usage
from service.engine.openai import OpenAIGenerator
from tests.service.engine.fake_server import FakeServer

REQUEST = GenerationRequest((Message("user", ("What ", "is it?")),), max_tokens=9)
KEY = "sk-secret"


def events(*values: object) -> bytes:
    lines = [value if isinstance(value, str) else json.dumps(value, ensure_ascii=False) for value in values]
    return "".join(f"data: {line}\n\n" for line in lines).encode()


def piece(text: str | None, finish: str | None = None) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": finish}]}


USAGE = {"prompt_tokens": 5, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 3}}
ANSWER = events(piece(""), piece("Hel"), piece("lo"), piece(None, "length"), {"choices": [], "usage": USAGE}, "[DONE]")
MODELS = json.dumps({"object": "list", "data": [{"id": "big", "owned_by": "system"}]}).encode()


def generator(handle: Callable[[httpx2.Request], httpx2.Response], key: str = KEY) -> OpenAIGenerator:
    """Return a generator whose server lists its models, knows no other route, and answers a POST by ``handle``."""

    def route(request: httpx2.Request) -> httpx2.Response:
        if request.method == "POST":
            return handle(request)
        found = request.url.path == "/v1/models"
        return httpx2.Response(200 if found else 404, content=MODELS if found else b"no")

    return OpenAIGenerator("http://teacher.test/v1/", key, "big", transport=httpx2.MockTransport(route))


def replying(status: int, content: bytes, headers: dict[str, str] | None = None) -> OpenAIGenerator:
    return generator(lambda _: httpx2.Response(status, content=content, headers=headers))


def refused(generator: OpenAIGenerator, request: GenerationRequest = REQUEST) -> errors.RagtuneError:
    with pytest.raises(errors.RagtuneError) as caught:
        generator.generate(request)
    return caught.value


def test_it_streams_text_and_ends_with_the_result() -> None:
    deltas = list(replying(200, ANSWER).stream(REQUEST))
    assert [delta.text for delta in deltas] == ["Hel", "lo", ""]
    result = deltas[-1].result
    assert result is not None
    assert (result.text, result.finish_reason, result.usage) == ("Hello", "length", Usage(5, 3, 2))
    assert replying(200, ANSWER).generate(REQUEST).text == "Hello"


def test_a_plain_server_gets_openais_own_fields_and_no_others() -> None:
    seen: list[httpx2.Request] = []

    def handle(request: httpx2.Request) -> httpx2.Response:
        seen.append(request)
        return httpx2.Response(200, content=ANSWER)

    generator(handle).generate(replace(REQUEST, temperature=0.5, seed=-1, stop=("\n",), logit_bias={7: float("-inf")}))
    assert str(seen[0].url) == "http://teacher.test/v1/chat/completions"
    assert seen[0].headers["authorization"] == f"Bearer {KEY}"
    assert json.loads(seen[0].content) == {
        "model": "big",
        "messages": [{"role": "user", "content": "What is it?"}],
        "max_tokens": 9,
        "temperature": 0.5,
        "top_p": 1.0,
        "seed": 2**32 - 2,
        "stop": ["\n"],
        "logit_bias": {"7": -100.0},
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    generator(handle, key="").generate(REQUEST)
    assert "authorization" not in seen[1].headers


UNPENALIZED = {"presence_penalty": 0.0, "frequency_penalty": 0.0}
DRAWN = replace(REQUEST, temperature=1.0)
ASKED = replace(DRAWN, top_k=4, min_p=0.1, repeat_penalty=1.5, logit_bias={5: 1.5}, top_logprobs=2)


@pytest.mark.parametrize(
    ("dialect", "neutral", "asked"),
    [
        (
            "llama-server",
            UNPENALIZED
            | {
                "top_k": 0,
                "min_p": 0.0,
                "repeat_penalty": 1.0,
                "repeat_last_n": 9,
                "logprobs": True,
                "top_logprobs": 1,
            },
            {"top_k": 4, "min_p": 0.1, "repeat_penalty": 1.5, "logit_bias": {"5": 1.5}, "top_logprobs": 2},
        ),
        (
            "vllm",
            UNPENALIZED | {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "logprobs": True, "top_logprobs": 0},
            {"top_k": 4, "min_p": 0.1, "repetition_penalty": 1.5, "logit_bias": {"5": 1.5}, "top_logprobs": 2},
        ),
        ("ollama", {"top_p": 1.0, "logprobs": True, "top_logprobs": 0}, None),
        ("openai", {"top_p": 1.0}, None),
    ],
)
def test_a_servers_own_defaults_are_overruled(
    dialect: str, neutral: dict[str, Any], asked: dict[str, Any] | None
) -> None:
    common = {"model", "messages", "max_tokens", "temperature", "top_p", "stream", "stream_options"}
    with FakeServer(dialect) as server, OpenAIGenerator(server.url) as generator:
        generator.generate(DRAWN)
        assert set(server.body) == common | set(neutral)
        assert neutral.items() <= server.body.items()
        if asked is None:
            assert "has no top_k, min_p, repeat_penalty" in str(refused(generator, ASKED))
            return
        generator.generate(ASKED)
        assert asked.items() <= server.body.items()


@pytest.mark.parametrize(
    ("dialect", "field"),
    [
        ("llama-server", {"grammar": 'root ::= "a"'}),
        ("vllm", {"structured_outputs": {"grammar": 'root ::= "a"'}}),
        ("old-vllm", {"guided_grammar": 'root ::= "a"'}),
    ],
)
def test_a_grammar_goes_by_the_name_that_the_server_knows(dialect: str, field: dict[str, Any]) -> None:
    with FakeServer(dialect) as server, OpenAIGenerator(server.url) as generator:
        assert generator.takes_grammars
        assert generator.generate(replace(REQUEST, grammar='root ::= "a"')).text == "a"
        assert field.items() <= server.body.items()


def test_what_a_plain_server_does_not_have_is_refused_by_name() -> None:
    with FakeServer("openai") as server, OpenAIGenerator(server.url) as generator:
        assert not generator.takes_grammars
        error = refused(generator, replace(REQUEST, grammar="root ::= x", repeat_penalty=1.2))
        assert isinstance(error, errors.InvalidRequest)
        assert "grammar" in error.detail
        assert error.got == "repeat_penalty=1.2, grammar=root ::= x"
        assert "json_schema" in error.wanted
        assert server.seen == []


def test_llama_servers_own_clock_and_cache_count() -> None:
    with FakeServer("llama-server") as server, OpenAIGenerator(server.url) as generator:
        result = generator.generate(REQUEST)
        assert (result.prefill_ms, result.generate_ms) == (12.5, 34.5)
        assert result.usage.cached_tokens == 1
        assert len(result.logprobs) == 9
        assert result.top_logprobs == ()


def test_log_probabilities_are_read() -> None:
    top = [{"token": "lo", "logprob": -1.5}, {"token": "Hel", "logprob": 1e-9}]
    first = {"token": "Hel", "logprob": 1e-9, "top_logprobs": top}
    chunk = {"choices": [{"delta": {"content": "Hel"}, "finish_reason": "stop", "logprobs": {"content": [first]}}]}
    result = replying(200, events(chunk, "[DONE]")).generate(replace(REQUEST, top_logprobs=2))
    assert result.logprobs == (0.0,)
    assert result.top_logprobs == ((TokenChoice("Hel", 0.0), TokenChoice("lo", -1.5)),)
    assert result.usage.completion_tokens == 1


def test_a_line_ends_at_a_line_feed_only() -> None:
    text = "one\u2028two\x85three\x0bfour"
    assert replying(200, events(piece(text), piece(None, "stop"))).generate(REQUEST).text == text


def test_it_is_asked_once_what_it_is_and_again_while_it_is_down() -> None:
    asked: list[str] = []
    down = True

    def route(request: httpx2.Request) -> httpx2.Response:
        asked.append(request.url.path)
        if down:
            return httpx2.Response(503, json={"error": {"code": 503, "message": "Loading model"}})
        return httpx2.Response(200, content=ANSWER if request.method == "POST" else MODELS)

    remote = OpenAIGenerator("http://teacher.test/v1", transport=httpx2.MockTransport(route))
    assert "Loading model" in str(refused(remote))
    assert asked == ["/v1/models"]
    down = False
    for _ in range(2):
        remote.generate(REQUEST)
    assert asked[1:] == ["/v1/models", "/props", "/api/version", "/v1/chat/completions", "/v1/chat/completions"]
    assert remote.model == "big"


def test_of_several_models_one_has_to_be_chosen() -> None:
    with FakeServer("ollama") as server:
        server.models = ("toy", "other")
        error = refused(OpenAIGenerator(server.url))
        assert isinstance(error, errors.InvalidRequest)
        assert "RAGTUNE_ENGINE_MODEL" in error.hint
        assert error.wanted == "toy, other"
        assert OpenAIGenerator(server.url, "", "other").generate(REQUEST).text


LLAMA_OVERFLOW = (
    b'{"error": {"code": 400, "message": "request (9 tokens) exceeds the available context size (8 tokens)", \
"type": "exceed_context_size_error", "n_prompt_tokens": 9, "n_ctx": 8}}'
)
VLLM_OVERFLOW = b'{"error": {"message": "This model\'s maximum context length is 8 tokens. However, ...", "code": 400}}'
OLLAMA_OVERFLOW = (
    b'{"error": {"message": "the input length exceeds the context length", "type": "invalid_request_error"}}'
)
OPENAI_OVERFLOW = b'{"error": {"message": "Your input is too long", "code": "context_length_exceeded"}}'
RAGTUNE_OVERFLOW = b'{"type": "context-overflow", "detail": "The prompt and what it may generate do not fit"}'


@pytest.mark.parametrize(
    ("status", "content", "kind"),
    [
        (401, b"no", errors.Unauthorized),
        (403, b"no", errors.Unauthorized),
        (404, b"no", errors.UnknownModel),
        (408, b"", errors.EngineTimeout),
        (418, b"tea", errors.EngineError),
        (429, b"slow down", errors.EngineBusy),
        (503, b'{"error": "server busy, please try again.  maximum pending requests exceeded"}', errors.EngineBusy),
        (503, b'{"error": {"message": "Loading model"}}', errors.EngineUnavailable),
        (504, b"", errors.EngineTimeout),
        (500, b"oops", errors.EngineUnavailable),
        (302, b"elsewhere", errors.EngineError),
        (400, LLAMA_OVERFLOW, errors.ContextOverflow),
        (400, VLLM_OVERFLOW, errors.ContextOverflow),
        (400, OLLAMA_OVERFLOW, errors.ContextOverflow),
        (400, OPENAI_OVERFLOW, errors.ContextOverflow),
        (422, RAGTUNE_OVERFLOW, errors.ContextOverflow),
        (400, b"the context of this is bad", errors.InvalidRequest),
        (400, b'{"error": {"message": "grammar: bad"}}', errors.InvalidRequest),
        (200, b"data: {broken\n\n", errors.EngineError),
        (200, b"data: [1]\n\n", errors.EngineError),
        (200, b"<html>", errors.EngineError),
        (200, b"", errors.EngineError),
        (200, events({"choices": []}, "[DONE]"), errors.EngineError),
        (200, events({"choices": "many"}), errors.EngineError),
        (200, events({"choices": [{"delta": {"content": 7}, "finish_reason": "stop"}]}), errors.EngineError),
        (200, events({"choices": [{"delta": {}, "logprobs": {"content": [{"token": "a"}]}}]}), errors.EngineError),
        (200, events({**piece("a", "stop"), "usage": {"prompt_tokens": "many"}}), errors.EngineError),
        (200, events({**piece("a", "stop"), "usage": "none"}), errors.EngineError),
        (200, events({"error": {"message": "died"}}), errors.EngineError),
        (200, b'error: {"message": "died", "code": 500}\n\n', errors.EngineUnavailable),
        (200, events({"error": {"message": "maximum context length is 8", "code": 400}}), errors.ContextOverflow),
        (200, events({"error": {"message": "too late", "code": 504}}), errors.EngineTimeout),
        (200, events(piece("Hel"), "[DONE]"), errors.EngineUnavailable),
        (200, events(piece("Hel")), errors.EngineUnavailable),
        (200, events(piece("Hel"), piece(None, "abort"), "[DONE]"), errors.EngineUnavailable),
    ],
)
def test_refusals_are_typed(status: int, content: bytes, kind: type[errors.RagtuneError]) -> None:
    assert type(refused(replying(status, content))) is kind


def test_a_busy_server_says_when_to_come_back() -> None:
    error = refused(replying(429, b"slow down", {"retry-after": "7"}))
    assert isinstance(error, errors.EngineBusy)
    assert error.retry_after_s == 7
    assert error.hint == "Try again in 7 s."
    later = refused(replying(429, b"slow down", {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}))
    assert isinstance(later, errors.EngineBusy)
    assert later.retry_after_s is None


@pytest.mark.parametrize(
    ("raised", "kind"),
    [
        (httpx2.ConnectError("refused"), errors.EngineUnavailable),
        (httpx2.ConnectTimeout("silence"), errors.EngineUnavailable),
        (httpx2.ReadError("reset"), errors.EngineUnavailable),
        (httpx2.RemoteProtocolError("cut"), errors.EngineUnavailable),
        (httpx2.ReadTimeout("slow"), errors.EngineTimeout),
    ],
)
def test_a_failing_connection_is_typed(raised: Exception, kind: type[errors.RagtuneError]) -> None:
    def handle(_request: httpx2.Request) -> httpx2.Response:
        raise raised

    assert type(refused(generator(handle))) is kind


def test_an_answer_that_breaks_off_is_told() -> None:
    def broken() -> Any:
        yield ANSWER[:60]
        raise httpx2.ReadError("reset")

    assert isinstance(refused(generator(lambda _: httpx2.Response(200, content=broken()))), errors.EngineUnavailable)


def test_a_stream_that_goes_on_past_its_time_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pings keep a connection alive, and must not keep a request alive."""
    clock = iter(range(0, 10_000, 5))
    monkeypatch.setattr("service.engine.remote.time.monotonic", lambda: float(next(clock)))

    def pings() -> Any:
        while True:
            yield b": ping\n\n"

    late = refused(generator(lambda _: httpx2.Response(200, content=pings())), replace(REQUEST, timeout_s=60))
    assert isinstance(late, errors.EngineTimeout)


@pytest.mark.parametrize("status", [400, 401, 429, 500])
def test_secrets_are_never_shown(status: int) -> None:
    def handle(request: httpx2.Request) -> httpx2.Response:
        said = f"wrong key {request.headers['authorization']} pass-word"
        return httpx2.Response(status, json={"error": {"message": said}})

    def fail(_request: httpx2.Request) -> httpx2.Response:
        raise httpx2.ConnectError(f"no way to http://me:pass-word@host with {KEY}")

    for act in (handle, fail):
        transport = httpx2.MockTransport(act)
        remote = OpenAIGenerator("http://me:pass-word@teacher.test/v1", KEY, transport=transport)
        error = refused(remote)
        shown = (
            f"{error} {error.got} {error.hint} {remote.url} {remote!r} {error.__cause__!r}"
            if act is handle
            else str(error)
        )
        assert KEY not in shown
        assert "pass-word" not in shown


@pytest.mark.parametrize("url", ["127.0.0.1:8080/v1", "ftp://host/v1", "http://", "", "http://[::1"])
def test_an_address_that_is_none_is_refused_at_once(url: str) -> None:
    with pytest.raises(errors.InvalidRequest, match="http://HOST:PORT/v1"):
        OpenAIGenerator(url)


def test_a_key_that_no_header_can_carry_is_refused_and_not_shown() -> None:
    with pytest.raises(errors.InvalidRequest) as caught:
        OpenAIGenerator("http://teacher.test/v1", "sk-\n\u2014secret")
    assert "secret" not in str(caught.value)
