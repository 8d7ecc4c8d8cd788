"""The swap points: Embedder, Index and Generator, and the values they exchange.

A class that satisfies a protocol is passed in by ``service``; there is no registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from data.records import Message, Progress, Usage

Vectors = NDArray[np.float32]
"""Shape (n, dimension), rows of unit L2 norm."""

Keys = NDArray[np.int64]
"""The store's integer keys of chunks, ascending and each once."""

Report = Callable[[Progress], None]
"""Receives a job's progress. Raises ``JobCancelled`` when the job was asked to stop."""


class Embedder(Protocol):
    """Turns text into vectors whose inner product is cosine similarity."""

    @property
    def fingerprint(self) -> str:
        """Name the weights and settings: equal fingerprints give equal vectors."""

    @property
    def dimension(self) -> int:
        """Length of one vector."""

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Embed passages; shape (len(texts), dimension)."""

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Embed queries; shape (len(texts), dimension)."""

    def count_tokens(self, text: str) -> int:
        """Count the tokens of ``text`` as this embedder sees it, special tokens left out."""


@dataclass(frozen=True, slots=True)
class Hit:
    """A found key (the store's integer key of a chunk) and its score, higher is better."""

    key: int
    score: float


class Index(Protocol):
    """One searchable leg (dense or lexical) of an index generation."""

    def add(self, keys: Sequence[int] | Keys, texts: Sequence[str], vectors: Vectors) -> None:
        """Add entries; a lexical index ignores ``vectors``, a dense one ``texts``."""

    def remove(self, keys: Sequence[int] | Keys) -> None:
        """Remove entries; absent keys are ignored."""

    def search(self, query: str, vector: Vectors, k: int, allowed: Keys | None = None) -> list[Hit]:
        """Return at most ``k`` hits, best first; ``vector`` has shape (1, dimension).

        ``allowed`` narrows the search itself: the hits are the best among those keys (None: all keys).
        """

    def keys(self) -> Keys:
        """Return every key held."""

    def save(self) -> None:
        """Make all changes durable in the index's folder."""

    def close(self) -> None:
        """Release files and threads."""

    def __len__(self) -> int: ...


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """What to generate.

    Attributes:
        messages: the prompt.
        adapter: key under which the generator knows an adapter, None for the base model.
        adapter_scale: factor on the adapter's effect.
        added_adapters: keys and scales of further adapters, summed onto ``adapter``.
        max_tokens: most tokens to write.
        temperature: 0 is greedy.
        top_p: the likeliest tokens of this joint probability stay; 1 keeps all.
        top_k: so many of the likeliest tokens stay; 0 keeps all.
        min_p: tokens at least this share as likely as the likeliest stay; 0 keeps all.
        repeat_penalty: divides the logits of tokens written before; 1 does nothing.
        presence_penalty: subtracted from the logit of a token written before.
        frequency_penalty: subtracted once for each time it was written.
        logit_bias: added to the logits of tokens, by id.
        seed: of the choices; None draws one.
        stop: strings that end the text and are cut off.
        grammar: GBNF that the text has to fit.
        json_schema: JSON schema that the text has to fit; at most one of the two.
        top_logprobs: how many of the likeliest tokens to report at each place.
        logprobs: whether a stream's deltas hold the tokens (``Delta.tokens``), not only their text.
        timeout_s: when to give up, counted from the request's arrival.
    """

    messages: tuple[Message, ...]
    adapter: str | None = None
    adapter_scale: float = 1.0
    added_adapters: tuple[tuple[str, float], ...] = ()
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    seed: int | None = None
    stop: tuple[str, ...] = ()
    grammar: str | None = None
    json_schema: str | None = None
    top_logprobs: int = 0
    logprobs: bool = False
    timeout_s: float = 300.0

    @property
    def adapters(self) -> tuple[tuple[str, float], ...]:
        """Return all adapters with their scales, in one order for every way to ask for them."""
        own = () if self.adapter is None else ((self.adapter, self.adapter_scale),)
        return tuple(sorted((*own, *self.added_adapters)))


@dataclass(frozen=True, slots=True)
class TokenChoice:
    """A token that could have been written.

    Attributes:
        text: as text; what is no whole character is U+FFFD there.
        logprob: natural log-probability.
        utf8: its bytes, () where they are not known; a character may begin in one token and end in another.
    """

    text: str
    logprob: float
    utf8: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class WrittenToken:
    """A token that was written, and the likeliest ones at its place, best first (empty unless asked for)."""

    choice: TokenChoice
    likeliest: tuple[TokenChoice, ...] = ()


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """What was generated.

    Attributes:
        text: without stop strings.
        finish_reason: stop, length or cancelled.
        usage: tokens.
        prefill_ms: from the moment the prompt began to be read until the first token could be chosen.
        generate_ms: from then to the end.
        logprobs: natural log-probability of each generated token (under temperature 1).
        queued_ms: how long the request waited before its prompt began to be read.
        top_logprobs: for each token the likeliest ones, best first; empty unless asked for.
    """

    text: str
    finish_reason: str
    usage: Usage
    prefill_ms: float
    generate_ms: float
    logprobs: tuple[float, ...] = ()
    queued_ms: float = 0.0
    top_logprobs: tuple[tuple[TokenChoice, ...], ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of streamed text; the last one carries the result.

    ``tokens`` are those written since the delta before, where the request wanted them: text is held back while it
    may become a stop string or a character is incomplete, so that they are not exactly those of ``text``.
    """

    text: str
    result: GenerationResult | None = None
    tokens: tuple[WrittenToken, ...] = ()


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Teacher-forced logits of a completion.

    ``prompt_ids`` and ``completion_ids`` are the tokens as the generator made them (the completion
    ends with the end-of-turn token); ``logits`` has shape (len(completion_ids), n_vocab), float32:
    row i predicts completion token i.
    """

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    logits: NDArray[np.float32] = field(repr=False)


class Generator(Protocol):
    """A text generator: the local engine, or a server that speaks OpenAI's protocol."""

    @property
    def model(self) -> str:
        """Name of the base model."""

    def generate(self, request: GenerationRequest) -> GenerationResult:
        """Generate to the end.

        Raises:
            EngineBusy: the queue is full.
            ContextOverflow: prompt and max_tokens exceed the context window.
            EngineTimeout: no end within ``timeout_s``.
            EngineUnavailable: the engine is down.
        """

    def stream(self, request: GenerationRequest) -> Iterator[Delta]:
        """Yield text as it comes; closing the iterator cancels the generation. Raises as generate."""
