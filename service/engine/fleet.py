"""Several servers of OpenAI's protocol, with the same model, as one ``Generator``.

Each request goes where ``routing`` expects the earliest answer; a server that is gone costs a detour, not an answer.
Knows nothing of what is asked.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

from data.errors import EngineBusy, EngineError, EngineUnavailable, UnknownAdapter
from data.protocols import Delta, GenerationRequest, GenerationResult
from service.engine.dialects import Found
from service.engine.openai import OpenAIGenerator
from service.engine.routing import Seat, order, prefix_blocks

log = logging.getLogger(__name__)
_T = TypeVar("_T")

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 30.0
"""A server that is down is left alone for a second, then twice as long each time, up to this."""


class Broken(EngineUnavailable):
    """A server was lost in the middle of an answer that no other one can go on with."""


class Fleet:
    """Generates on whichever of ``replicas`` is best for a request. Thread-safe.

    A request whose server is lost before its first word, or is busy, goes to another one. One that is lost later is
    written again elsewhere where that gives the same words (greedy, or with a seed): what was sent already is compared
    and left out. Other texts end in an error, because another server would say something else.

    Args:
        replicas: of the same model.
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, replicas: Sequence[OpenAIGenerator], clock: Callable[[], float] = time.monotonic) -> None:
        self._replicas = tuple(replicas)
        self._seats = [Seat() for _ in replicas]
        self._clock = clock
        self._mutex = threading.Lock()
        self._adapters: dict[str, tuple[str | Path, str, str]] = {}
        self._known: list[set[str]] = [set() for _ in replicas]
        self._resumed = 0

    def __enter__(self) -> Fleet:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        for replica in self._replicas:
            replica.close()

    @property
    def url(self) -> str:
        """The servers' addresses, without passwords."""
        return ",".join(replica.url for replica in self._replicas)

    @property
    def model(self) -> str:
        """Name of the base model, as the first server that answers has it."""
        return self._first(lambda replica: replica.model)

    @property
    def takes_grammars(self) -> bool:
        """Whether the servers hold a text to a grammar."""
        return self._first(lambda replica: replica.takes_grammars)

    def check(self) -> Found:
        """Ask the first server that answers what it is. Raises as ``OpenAIGenerator.check``."""
        return self._first(lambda replica: replica.check())

    def statistics(self) -> dict[str, Any]:
        """Return counts for ``/metrics``; those of each server under ``replicas``."""
        with self._mutex:
            now = self._clock()
            each = [
                {
                    "url": replica.url,
                    "up": float(seat.down_until <= now),
                    "running": seat.running,
                    "requests": seat.requests,
                    "failures": seat.failures,
                    "prefix_blocks": seat.asked_blocks,
                    "prefix_blocks_matched": seat.matched_blocks,
                }
                for replica, seat in zip(self._replicas, self._seats, strict=True)
            ]
            totals = {name: sum(int(one[name]) for one in each) for name in ("running", "requests")}  # type: ignore[call-overload]
            return {**totals, "resumed": self._resumed, "replicas": each}

    def generate(self, request: GenerationRequest) -> GenerationResult:
        """Generate to the end. Raises as ``OpenAIGenerator.generate``."""
        result: GenerationResult | None = None
        for delta in self.stream(request):
            result = delta.result or result
        assert result is not None
        return result

    def stream(self, request: GenerationRequest) -> Iterator[Delta]:
        """Yield text as it comes; closing the iterator hangs up.

        Raises:
            EngineBusy: every server is busy.
            EngineUnavailable: none is there, or the one that wrote was lost and its text cannot be had again.
            EngineError: as ``OpenAIGenerator.stream``.
        """
        keys = [key for key, _ in request.adapters]
        blocks = prefix_blocks(request.messages, keys)
        sent = _Sent()
        tried: set[int] = set()
        last: EngineError | None = None
        while (number := self._next(blocks, tried)) is not None:
            tried.add(number)
            try:
                with self._seated(number, blocks):
                    yield from self._written(number, request, sent)
            except (EngineBusy, EngineUnavailable) as error:
                last = error
                if isinstance(error, Broken) or (sent.text and not _repeatable(request)):
                    raise
                log.warning("%s: %s; another one is asked", self._replicas[number].url, error.detail)
            else:
                return
        assert last is not None
        raise last

    def _written(self, number: int, request: GenerationRequest, sent: _Sent) -> Iterator[Delta]:
        for key, _ in request.adapters:
            self._offer(number, key)
        if sent.text:
            with self._mutex:
                self._resumed += 1
        again = _Sent()
        ended = False
        for delta in self._replicas[number].stream(request):
            new = sent.after(again, delta)
            ended = ended or delta.result is not None
            if new is not None:
                yield new
        if not ended:
            raise EngineUnavailable("The server ended the stream without a result", got=self._replicas[number].url)

    def add_adapter(self, key: str, gguf_path: str | Path, base_sha256: str, attention: str = "full") -> float:
        """Make ``key`` usable on every server that is there, on others when they are; return NaN.

        Raises:
            As ``OpenAIGenerator.add_adapter``, where no server has it.
        """
        with self._mutex:
            self._adapters[key] = (gguf_path, base_sha256, attention)
        errors: list[EngineError] = []
        for number in range(len(self._replicas)):
            try:
                self._offer(number, key)
            except (EngineBusy, EngineUnavailable) as error:
                errors.append(error)
        if len(errors) == len(self._replicas):
            with self._mutex:
                self._adapters.pop(key, None)
            raise errors[-1]
        return math.nan

    def remove_adapter(self, key: str) -> None:
        """Forget ``key``, and unload it where it was loaded."""
        with self._mutex:
            self._adapters.pop(key, None)
            held = [number for number, known in enumerate(self._known) if key in known]
            for known in self._known:
                known.discard(key)
        for number in held:
            self._replicas[number].remove_adapter(key)

    def _offer(self, number: int, key: str) -> None:
        """Give an adapter to a server that does not have it yet."""
        with self._mutex:
            given = self._adapters.get(key)
            if key in self._known[number]:
                return
        if given is None:
            raise UnknownAdapter("No such adapter was given to the servers", got=key)
        self._replicas[number].add_adapter(key, *given)
        with self._mutex:
            self._known[number].add(key)

    def _next(self, blocks: Sequence[bytes], tried: set[int]) -> int | None:
        with self._mutex:
            best = order(self._seats, blocks, self._clock())
        return next((number for number in best if number not in tried), None)

    @contextmanager
    def _seated(self, number: int, blocks: Sequence[bytes]) -> Iterator[None]:
        """Count a request under way, and learn from how it ends whether the server is there."""
        seat = self._seats[number]
        with self._mutex:
            seat.note(blocks)
        try:
            yield
        except EngineUnavailable as error:
            with self._mutex:
                if not isinstance(error, Broken):
                    seat.fail(self._clock(), FIRST_PAUSE_S, LONGEST_PAUSE_S)
                    self._known[number].clear()
            raise
        else:
            with self._mutex:
                seat.recover()
        finally:
            with self._mutex:
                seat.running -= 1

    def _first(self, ask: Callable[[OpenAIGenerator], _T]) -> _T:
        """Ask the servers in turn, those that are down last, and return the first answer."""
        last: EngineError | None = None
        with self._mutex:
            numbers = order(self._seats, (), self._clock())
        for number in numbers:
            try:
                found = ask(self._replicas[number])
            except (EngineBusy, EngineUnavailable) as error:
                last = error
            else:
                with self._mutex:
                    self._seats[number].recover()
                return found
        assert last is not None
        raise last


class _Sent:
    """What of a text, and how many of its tokens, were handed on."""

    def __init__(self) -> None:
        self.text = ""
        self.tokens = 0

    def after(self, again: _Sent, delta: Delta) -> Delta | None:
        """Return what is new in a delta of a text that is written again; None where nothing is.

        Raises:
            Broken: the text is another one this time.
        """
        start, first = len(again.text), again.tokens
        again.text += delta.text
        again.tokens += len(delta.tokens)
        known = self.text[start : start + len(delta.text)]
        if not delta.text.startswith(known) or (delta.result is not None and len(again.text) < len(self.text)):
            raise Broken(
                "The server that wrote this answer is gone, and another one writes it otherwise", hint="Ask again."
            )
        text = delta.text[len(known) :]
        tokens = delta.tokens[max(0, self.tokens - first) :]
        self.text += text
        self.tokens = max(self.tokens, again.tokens)
        return Delta(text, delta.result, tokens) if text or tokens or delta.result is not None else None


def _repeatable(request: GenerationRequest) -> bool:
    return request.temperature == 0 or request.seed is not None
