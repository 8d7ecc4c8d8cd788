"""The swap points: Embedder, Index and Generator, and the values they exchange.

A class that satisfies a protocol is passed in by ``service``; there is no registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
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

    ``adapter`` is the key under which the engine knows an adapter file, or None for the base model.
    ``grammar`` is GBNF. ``temperature`` 0 is greedy. ``stop`` strings end the text and are cut off.
    """

    messages: tuple[Message, ...]
    adapter: str | None = None
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    grammar: str | None = None
    timeout_s: float = 300.0


@dataclass(frozen=True, slots=True)
class GenerationResult:
    """What was generated. ``finish_reason`` is stop, length or cancelled; timings in milliseconds.

    ``logprobs`` holds the natural log-probability of each generated token (under temperature 1).
    """

    text: str
    finish_reason: str
    usage: Usage
    prefill_ms: float
    generate_ms: float
    logprobs: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Delta:
    """A piece of streamed text; the last one carries the result."""

    text: str
    result: GenerationResult | None = None


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
