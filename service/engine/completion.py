"""A streamed chat completion, line by line, as deltas: OpenAI's form and what llama-server and vLLM add to it.

Knows nothing of HTTP or of how a request was put.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from data.errors import EngineError, EngineUnavailable, RagtuneError
from data.protocols import Delta, GenerationRequest, GenerationResult, TokenChoice, WrittenToken
from data.records import Usage
from service.engine.remote import Reply, refusal

_SHOWN_CHARS = 200
_BROKEN_OFF = ("abort", "error")
"""vLLM's reasons for an end that is none."""


@dataclass(slots=True)
class _Completion:
    """What has come so far."""

    top_logprobs: int
    started: float
    first: float | None = None
    answered: bool = False
    reason: str | None = None
    text: list[str] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    likeliest: list[tuple[TokenChoice, ...]] = field(default_factory=list)
    unsent: list[WrittenToken] = field(default_factory=list)
    usage: dict[str, Any] = field(default_factory=dict)
    timings: dict[str, Any] = field(default_factory=dict)

    def take(self, event: dict[str, Any]) -> Iterator[str]:
        """Take an event; yield its pieces of text."""
        self.usage = event.get("usage") or self.usage
        self.timings = event.get("timings") or self.timings
        for choice in event.get("choices") or ():
            self.answered = True
            self.reason = choice.get("finish_reason") or self.reason
            self._take_logprobs((choice.get("logprobs") or {}).get("content") or ())
            piece = (choice.get("delta") or {}).get("content") or ""
            if not isinstance(piece, str):
                raise TypeError(piece)
            if piece:
                self.first = self.first or time.monotonic()
                self.text.append(piece)
                yield piece

    def _take_logprobs(self, places: Iterable[dict[str, Any]]) -> None:
        for place in places:
            chosen = _choice(place)
            self.logprobs.append(chosen.logprob)
            best: tuple[TokenChoice, ...] = ()
            if self.top_logprobs:
                found = sorted(map(_choice, place.get("top_logprobs") or ()), key=lambda choice: -choice.logprob)
                best = tuple(found[: self.top_logprobs])
                self.likeliest.append(best)
            self.unsent.append(WrittenToken(chosen, best))

    def new_tokens(self) -> tuple[WrittenToken, ...]:
        """Return the tokens that came since the last call."""
        tokens, self.unsent = tuple(self.unsent), []
        return tokens

    def result(self) -> GenerationResult:
        """Return the result of what has come.

        Raises:
            EngineError: nothing has.
            EngineUnavailable: the stream broke off.
        """
        if not self.answered:
            raise EngineError("The server answered without a choice", wanted="choices in a stream of events")
        if self.reason is None or self.reason in _BROKEN_OFF:
            raise EngineUnavailable("The server broke off its answer", got=self.reason or "no finish_reason")
        prefill_ms, generate_ms, queued_ms = self._times()
        return GenerationResult(
            text="".join(self.text),
            finish_reason="length" if self.reason == "length" else "stop",
            usage=self._usage(),
            prefill_ms=prefill_ms,
            generate_ms=generate_ms,
            logprobs=tuple(self.logprobs),
            queued_ms=queued_ms,
            top_logprobs=tuple(self.likeliest),
        )

    def _times(self) -> tuple[float, float, float]:
        """Return prefill, generation and wait in ms: llama-server's own timings, else the clock's."""
        ended = time.monotonic()
        first = self.first or ended
        seen_ms = (first - self.started) * 1000
        if "prompt_ms" in self.timings:
            prefill_ms = float(self.timings["prompt_ms"])
            return prefill_ms, float(self.timings.get("predicted_ms") or 0.0), max(0.0, seen_ms - prefill_ms)
        return seen_ms, (ended - first) * 1000, 0.0

    def _usage(self) -> Usage:
        details = self.usage.get("prompt_tokens_details") or {}
        cached = details.get("cached_tokens") or self.timings.get("cache_n") or 0
        written = self.usage.get("completion_tokens") or len(self.logprobs)
        return Usage(int(self.usage.get("prompt_tokens") or 0), int(cached), int(written))


def _choice(place: dict[str, Any]) -> TokenChoice:
    # Rounding may lift a certain token's above 0.
    return TokenChoice(str(place["token"]), min(float(place["logprob"]), 0.0), tuple(place.get("bytes") or ()))


def read_completion(lines: Iterator[str], request: GenerationRequest) -> Iterator[Delta]:
    """Yield the pieces of a streamed completion and, last, its result.

    Args:
        lines: of a server-sent event stream.
        request: what was asked for; with ``logprobs`` the deltas have tokens.

    Raises:
        EngineError: what comes is no such stream, or the server reports a failure in it.
        EngineUnavailable: it ends before the answer does.
    """
    completion = _Completion(request.top_logprobs, time.monotonic())
    for event in _events(lines):
        with _readable(event):
            pieces = list(completion.take(event))
        for piece in pieces:
            yield Delta(piece, tokens=completion.new_tokens() if request.logprobs else ())
    with _readable(completion.usage):
        result = completion.result()
    yield Delta("", result, completion.new_tokens() if request.logprobs else ())


@contextmanager
def _readable(value: object) -> Iterator[None]:
    """Map what a value of another shape than the protocol's makes Python raise."""
    try:
        yield
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise EngineError("The server sent an event of another shape", got=str(value)[:_SHOWN_CHARS]) from error


def _events(lines: Iterator[str]) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a server-sent event stream up to ``[DONE]``."""
    for line in lines:
        name, _, data = line.partition(":")
        if name not in ("data", "error"):  # llama-server has sent "error: {...}" besides data with an error in it
            continue
        data = data.strip()
        if data == "[DONE]":
            return
        event = _event(data)
        if name == "error" or "error" in event:
            raise _failure(event.get("error", event))
        yield event


def _event(data: str) -> dict[str, Any]:
    try:
        event = json.loads(data)
    except ValueError as error:
        raise EngineError("The server sent what is not JSON", got=data[:_SHOWN_CHARS]) from error
    if not isinstance(event, dict):
        raise EngineError("The server sent an event that is no JSON object", got=data[:_SHOWN_CHARS])
    return event


def _failure(error: Any) -> RagtuneError:
    """Return the error that a failure within a stream is; a status in it counts as one before the stream."""
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, int) and 400 <= code < 600:
        return refusal(Reply(code, json.dumps({"error": error})))
    return EngineError("The server failed", got=str(error)[:_SHOWN_CHARS])
