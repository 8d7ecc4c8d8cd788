"""Any server of OpenAI's protocol as a ``Generator``: llama-server, vLLM, Ollama, a hosted teacher.

Knows nothing of local models. An adapter is asked for by the model name, as vLLM serves them; a
grammar is sent as ``grammar``, as llama-server takes it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Any

import httpx2

from data.errors import (
    ContextOverflow,
    EngineBusy,
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    RagtuneError,
    Unauthorized,
    UnknownModel,
)
from data.protocols import Delta, GenerationRequest, GenerationResult
from data.records import Usage

_REFUSALS: dict[int, tuple[type[RagtuneError], str]] = {
    401: (Unauthorized, "The server refuses the API key"),
    403: (Unauthorized, "The server refuses the API key"),
    404: (UnknownModel, "The server knows no such model or route"),
    408: (EngineTimeout, "The server did not answer in time"),
    429: (EngineBusy, "The server is busy"),
    504: (EngineTimeout, "The server did not answer in time"),
}


class OpenAIGenerator:
    """Generates through ``POST {base_url}/chat/completions``.

    Args:
        base_url: with its version, such as http://127.0.0.1:8080/v1.
        api_key: sent as a bearer token unless it is "".
        model: the name the server knows.
        transport: for tests; the network by default.
    """

    def __init__(
        self, base_url: str, api_key: str, model: str, *, transport: httpx2.BaseTransport | None = None
    ) -> None:
        headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._url = base_url.rstrip("/") + "/chat/completions"
        self._client = httpx2.Client(headers=headers, transport=transport)
        self._model = model

    def __enter__(self) -> OpenAIGenerator:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    @property
    def model(self) -> str:
        """Name of the base model."""
        return self._model

    def generate(self, request: GenerationRequest) -> GenerationResult:
        """Generate to the end; raises as ``Generator.generate``, and Unauthorized and UnknownModel."""
        result: GenerationResult | None = None
        for delta in self.stream(request):
            result = delta.result or result
        if result is None:
            raise EngineError("The server ended the stream without a result", got=self._url)
        return result

    def stream(self, request: GenerationRequest) -> Iterator[Delta]:
        """Yield text as it comes; closing the iterator hangs up, which cancels. Raises as ``generate``."""
        deadline = time.monotonic() + request.timeout_s
        try:
            with self._client.stream(
                "POST", self._url, json=self._body(request), timeout=request.timeout_s
            ) as response:
                if response.status_code >= 400:
                    response.read()
                    raise _refusal(response)
                yield from _deltas(response, request, deadline)
        except httpx2.TimeoutException as error:
            raise _late(request) from error
        except httpx2.HTTPError as error:
            raise EngineUnavailable(
                f"The server at {self._url} cannot be reached: {error}", hint="Check the address and that it runs."
            ) from error

    def _body(self, request: GenerationRequest) -> dict[str, Any]:
        body: dict[str, Any] = {
            "model": request.adapter or self._model,
            "messages": [{"role": message.role, "content": message.content} for message in request.messages],
            "max_tokens": request.max_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        optional = {
            "top_k": request.top_k or None,  # not OpenAI's own; llama-server, vLLM and Ollama take it
            "seed": request.seed,
            "stop": list(request.stop) or None,
            "grammar": request.grammar,
        }
        return body | {name: value for name, value in optional.items() if value is not None}


def _deltas(response: httpx2.Response, request: GenerationRequest, deadline: float) -> Iterator[Delta]:
    started = time.monotonic()
    first: float | None = None
    text: list[str] = []
    reason = "stop"
    usage = Usage()
    for event in _events(response):
        if time.monotonic() > deadline:
            raise _late(request)
        if event.get("usage"):
            usage = _usage(event["usage"])
        for choice in event.get("choices") or ():
            piece = (choice.get("delta") or {}).get("content") or ""
            reason = choice.get("finish_reason") or reason
            if piece:
                first = first or time.monotonic()
                text.append(piece)
                yield Delta(piece)
    ended = time.monotonic()
    begun = first or ended
    prefill_ms, generate_ms = (begun - started) * 1000, (ended - begun) * 1000
    reason = "length" if reason == "length" else "stop"
    yield Delta("", GenerationResult("".join(text), reason, usage, prefill_ms, generate_ms))


def _events(response: httpx2.Response) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a server-sent event stream up to ``[DONE]``."""
    for line in response.iter_lines():
        if not line.startswith("data:"):
            continue
        data = line[len("data:") :].strip()
        if data == "[DONE]":
            return
        try:
            event = json.loads(data)
        except ValueError as error:
            raise EngineError("The server sent what is not JSON", got=data[:200]) from error
        if "error" in event:
            raise EngineError("The server failed", got=str(event["error"])[:200])
        yield event


def _usage(value: dict[str, Any]) -> Usage:
    details = value.get("prompt_tokens_details") or {}
    return Usage(
        value.get("prompt_tokens") or 0, details.get("cached_tokens") or 0, value.get("completion_tokens") or 0
    )


def _refusal(response: httpx2.Response) -> RagtuneError:
    said, status = response.text[:300], response.status_code
    if status in (400, 413, 422) and "context" in said.lower():
        return ContextOverflow("The prompt does not fit into the server's context", got=said)
    kind, detail = _REFUSALS.get(
        status,
        (EngineUnavailable, "The server failed") if status >= 500 else (EngineError, "The server refused the request"),
    )
    return kind(detail, got=f"{status}: {said}")


def _late(request: GenerationRequest) -> EngineTimeout:
    return EngineTimeout("The server did not end in time", got=f"more than {request.timeout_s:g} s")
