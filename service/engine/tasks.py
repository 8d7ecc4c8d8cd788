"""One request in a stream: first it is read, then it writes (or is scored).

A task says what it wants decoded next and takes in the logits; who decodes, and with whom together, is decided
elsewhere. Knows nothing of queues, sockets or llama.cpp's context.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from data.errors import EngineError, InvalidRequest
from data.protocols import GenerationRequest, GenerationResult, TokenChoice, TokenScores, WrittenToken
from data.records import Usage
from service.engine.llama import LlamaGrammar, LlamaModel, Run
from service.engine.prompting import Prompt
from service.engine.reading import Read, Steps
from service.engine.sampling import Sampler, SamplingOptions, likeliest
from service.engine.streams import AdapterSet, Stream
from service.engine.text import TextStream

_NGRAM = 3
"""Tokens that have to repeat before what followed them is guessed to follow again (Saxena, 2023, prompt lookup)."""


class Reply(Protocol):
    """Where a task's outcome goes."""

    def text(self, text: str, tokens: Sequence[WrittenToken] = ()) -> None:
        """Pass on text that cannot change any more, and the tokens written since, where the request wants them."""

    def done(self, value: object) -> None:
        """Pass on the result."""

    def fail(self, error: Exception) -> None:
        """Pass on why there is none."""


@dataclass(slots=True)
class Task:
    """What all tasks have.

    Attributes:
        id: of the order.
        prompt: what is read.
        adapters: with which.
        reply: where the outcome goes.
        arrived: ``time.monotonic()`` when the order came.
        timeout_s: when to give up after that.
        stream: where it runs, None while it waits.
        steps: what is still to be read, None while it waits and when it is read.
        pending: the run that is to be decoded next while it is read.
        started: when it began to be read.
        cached: prompt tokens that needed no decoding.
        cancelled: whether nobody wants the rest.
    """

    id: int
    prompt: Prompt
    adapters: AdapterSet
    reply: Reply
    arrived: float
    timeout_s: float
    stream: Stream | None = None
    steps: Steps | None = None
    pending: Run | None = None
    started: float = 0.0
    cached: int = 0
    cancelled: bool = False

    @property
    def new_tokens(self) -> int:
        """How many tokens follow the prompt at most."""
        raise NotImplementedError

    @property
    def left_to_read(self) -> int:
        """About how many of the prompt's tokens are still to be decoded."""
        assert self.stream is not None
        return len(self.prompt.tokens) - len(self.stream.tokens)

    def begin(self, steps: Steps) -> None:
        """Start to read."""
        self.started = time.monotonic()
        self.steps = steps
        self._advance(None)

    def read_on(self, logits: NDArray[np.float32]) -> None:
        """Take in the logits of the pending run."""
        self._advance(logits)

    def _advance(self, logits: NDArray[np.float32] | None) -> None:
        assert self.steps is not None
        try:
            self.pending = next(self.steps) if logits is None else self.steps.send(logits)
        except StopIteration as end:
            self.steps = self.pending = None
            self.finish_reading(end.value)

    def finish_reading(self, read: Read) -> None:
        """Go on after the prompt."""
        raise NotImplementedError

    def close(self) -> None:
        """Release what llama.cpp holds for it."""


@dataclass(slots=True)
class Writing(Task):
    """A generation."""

    request: GenerationRequest = field(kw_only=True)
    model: LlamaModel = field(kw_only=True)
    grammar: LlamaGrammar | None = field(kw_only=True, default=None)
    sampler: Sampler = field(init=False)
    shown: TextStream = field(init=False)
    logprobs: list[float] = field(init=False, default_factory=list)
    choices: list[tuple[TokenChoice, ...]] = field(init=False, default_factory=list)
    unsent: list[WrittenToken] = field(init=False, default_factory=list)
    next_token: int | None = field(init=False, default=None)
    first_at: float = field(init=False, default=0.0)
    guessed: int = field(init=False, default=0)
    guessed_right: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        r = self.request
        self.shown = TextStream(r.stop)
        self.sampler = Sampler(
            SamplingOptions(
                temperature=r.temperature,
                top_p=r.top_p,
                top_k=r.top_k,
                min_p=r.min_p,
                repeat_penalty=r.repeat_penalty,
                presence_penalty=r.presence_penalty,
                frequency_penalty=r.frequency_penalty,
                logit_bias=r.logit_bias,
                seed=r.seed,
            )
        )

    @property
    def new_tokens(self) -> int:
        """How many tokens follow the prompt at most."""
        return self.request.max_tokens

    def finish_reading(self, read: Read) -> None:
        """Choose the first token."""
        self.first_at = time.monotonic()
        self.cached = read.cached
        peak = float(read.logits.max())
        self.take(read.logits, peak + float(np.log(np.exp(read.logits - peak).sum())))

    def take(self, logits: NDArray[np.float32], normalizer: float) -> None:
        """Choose a token from the logits after the last one; ``next_token`` is None when the generation has ended.

        Raises:
            EngineError: the logits are not numbers.
            InvalidRequest: the grammar allows neither a token of this model nor the end.
        """
        self.next_token = None
        if not np.isfinite(normalizer):
            raise EngineError(
                "The model's logits are not numbers",
                got=f"after {len(self.logprobs)} tokens",
                hint="The model or the adapter is damaged, or its scale too large.",
            )
        token = self.sampler.choose(logits, self.grammar)
        if token is None:
            raise self._dead_end()
        if self.model.is_eog(token):
            self._end("stop")
            return
        if self.grammar is not None:
            self.grammar.accept(token)
        self.sampler.accept(token)
        self.logprobs.append(float(logits[token]) - normalizer)
        self._note(token, logits, normalizer)
        if text := self.shown.feed(self.model.piece(token)):
            self._send(text)
        if self.shown.stopped or len(self.logprobs) == self.request.max_tokens:
            self._end("stop" if self.shown.stopped else "length")
            return
        self.next_token = token

    def cancel(self) -> None:
        """End here."""
        self._end("cancelled")

    def close(self) -> None:
        """Release the grammar."""
        if self.grammar is not None:
            self.grammar.free()
            self.grammar = None

    def draft(self, length: int) -> list[int]:
        """Guess up to ``length`` tokens after the next one: those that followed when the last ones stood before."""
        assert self.stream is not None
        assert self.next_token is not None
        length = min(length, self.request.max_tokens - len(self.logprobs) - 1)
        if length < 1:
            return []
        seen = np.asarray([*self.stream.tokens, self.next_token], np.int32)
        if len(seen) <= _NGRAM:
            return []
        windows = np.lib.stride_tricks.sliding_window_view(seen[:-1], _NGRAM)
        places = np.flatnonzero((windows == seen[-_NGRAM:]).all(axis=1))
        if not len(places):
            return []
        start = int(places[-1]) + _NGRAM
        return [int(token) for token in seen[start : start + length]]

    def _note(self, token: int, logits: NDArray[np.float32], normalizer: float) -> None:
        """Take note of what the request wants to know about a token that was written."""

        def choice(token: int) -> TokenChoice:
            piece = self.model.piece(token)
            return TokenChoice(piece.decode(errors="replace"), float(logits[token]) - normalizer, tuple(piece))

        count = self.request.top_logprobs
        best = tuple(choice(other) for other in likeliest(logits, count)) if count else ()
        if count:
            self.choices.append(best)
        if self.request.logprobs:
            self.unsent.append(WrittenToken(choice(token), best))

    def _send(self, text: str) -> None:
        self.reply.text(text, self.unsent)
        self.unsent = []

    def _dead_end(self) -> InvalidRequest:
        return InvalidRequest(
            "The grammar leads to a dead end: it allows no token of this model, and the text is not complete",
            got=f"after {len(self.logprobs)} tokens: {self.shown.text[-100:]!r}",
            wanted="a grammar that this model's tokens can complete",
            hint="Check the character classes of the grammar, or leave it out.",
        )

    def _end(self, reason: str) -> None:
        self.next_token = None
        text = self.shown.finish()
        if text or self.unsent:
            self._send(text)
        now = time.monotonic()
        first = self.first_at or now
        self.reply.done(
            GenerationResult(
                text=self.shown.text,
                finish_reason=reason,
                usage=Usage(len(self.prompt.tokens), self.cached, len(self.logprobs)),
                prefill_ms=(first - (self.started or now)) * 1000,
                generate_ms=(now - first) * 1000,
                logprobs=tuple(self.logprobs),
                queued_ms=((self.started or now) - self.arrived) * 1000,
                top_logprobs=tuple(self.choices),
            )
        )


@dataclass(slots=True)
class Scoring(Task):
    """Teacher-forced logits of ``target`` after the prompt."""

    target: tuple[int, ...] = field(kw_only=True)
    n_batch: int = field(kw_only=True)
    _rows: list[NDArray[np.float32]] = field(init=False, default_factory=list)

    @property
    def new_tokens(self) -> int:
        """How many tokens follow the prompt at most."""
        return len(self.target)

    def begin(self, steps: Steps) -> None:
        """Start to read the prompt and then the target."""
        Task.begin(self, self._and_target(steps))

    def _and_target(self, steps: Steps) -> Generator[Run, Any, Read]:
        read = yield from steps
        assert self.stream is not None
        self._rows.append(read.logits[None])
        fed: Sequence[int] = self.target[:-1]
        for start in range(0, len(fed), self.n_batch):
            part = fed[start : start + self.n_batch]
            rows = yield Run(self.stream.number, len(self.prompt.tokens) + start, part, 0)
            self.stream.tokens += part
            self._rows.append(rows.copy())
        return read

    def finish_reading(self, read: Read) -> None:
        """Reply."""
        self.cached = read.cached
        self.reply.done(TokenScores(self.prompt.tokens, self.target, np.concatenate(self._rows)))
