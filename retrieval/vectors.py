"""Vectors through the store's cache: a text is embedded once by each embedder.

Knows nothing of indexes or files.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from data.protocols import Embedder, Vectors
from data.store import Store
from retrieval.ahead import ahead
from retrieval.chunk import embedded_text
from retrieval.preparing import require_same
from retrieval.workers import Done, Workers

T = TypeVar("T")
_BATCH = 256
_TASK_TEXTS = 64
"""Texts that are embedded at one place together: about a second of work on one core."""


def text_hash(text: str) -> str:
    """Return the name of a text in the embedding cache."""
    return hashlib.sha256(text.encode()).hexdigest()


def cache_vectors(
    store: Store, embedder: Embedder, texts: Sequence[str], alive: Callable[[], None] = lambda: None
) -> dict[str, bytes]:
    """Embed the texts that the cache does not have, batch by batch in order of length; return all by hash.

    ``alive`` is called between batches and may raise to stop.
    """
    by_hash = {text_hash(text): text for text in texts}
    cached = store.embeddings.get_many(embedder.fingerprint, by_hash)
    missing = sorted(((key, text) for key, text in by_hash.items() if key not in cached), key=lambda pair: len(pair[1]))
    fresh: dict[str, bytes] = {}
    for start in range(0, len(missing), _BATCH):
        batch = missing[start : start + _BATCH]
        vectors = embedder.embed_documents([text for _, text in batch])
        fresh.update((key, vector.astype("<f4").tobytes()) for (key, _), vector in zip(batch, vectors, strict=True))
        alive()
    if fresh:
        store.embeddings.put_many(embedder.fingerprint, fresh)
    return cached | fresh


def embed_cached(store: Store, embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """Return the vectors of ``texts``, shape (len(texts), dimension), embedding only unseen ones."""
    if not texts:
        return np.zeros((0, embedder.dimension), dtype=np.float32)
    cached = cache_vectors(store, embedder, texts)
    return np.stack([np.frombuffer(cached[text_hash(text)], dtype="<f4") for text in texts]).astype(np.float32)


@dataclass(frozen=True, slots=True)
class Embedding:
    """The function: texts become vectors, shape (len(texts), dimension). ``fingerprint`` is the embedder's."""

    embedder: Embedder
    fingerprint: str

    def __call__(self, texts: Sequence[str]) -> Vectors:
        """Embed passages.

        Raises:
            IndexMismatch: this process has another model.
        """
        require_same(self.embedder.fingerprint, self.fingerprint)
        return self.embedder.embed_documents(texts)


def embedded_ahead(
    store: Store, embedder: Embedder, workers: Workers, items: Iterable[tuple[T, Sequence[str]]]
) -> Iterator[T]:
    """Yield each item, in order, when the cache has the vectors of its texts; ``workers`` embed what it has not.

    Items are taken ahead by as much as the workers take.
    """
    sent: deque[tuple[Sequence[tuple[str, str]], Sequence[T]]] = deque()  # a task's texts; the items that it completes

    def tasks() -> Iterator[Sequence[str] | Done[Vectors]]:
        for group, texts in _groups(items):
            cached = store.embeddings.get_many(embedder.fingerprint, texts)
            missing = [pair for pair in texts.items() if pair[0] not in cached]
            for start in range(0, len(missing), _TASK_TEXTS):
                last = start + _TASK_TEXTS >= len(missing)
                sent.append((missing[start : start + _TASK_TEXTS], group if last else ()))
                yield [text for _, text in sent[-1][0]]
            if not missing:
                sent.append(((), group))
                yield Done(np.zeros((0, embedder.dimension), dtype=np.float32))

    for vectors in workers.map(Embedding(embedder, embedder.fingerprint), tasks(), lambda _: 1.0):
        pairs, completed = sent.popleft()
        if pairs:
            fresh = {key: vector.astype("<f4").tobytes() for (key, _), vector in zip(pairs, vectors, strict=True)}
            store.embeddings.put_many(embedder.fingerprint, fresh)
        yield from completed


def embed_chunks(
    store: Store, embedder: Embedder, workers: Workers, collection: str, alive: Callable[[], None]
) -> None:
    """Let ``workers`` embed all chunks of a collection whose vectors are not cached; ``alive`` may raise to stop."""
    chunks = ((None, [embedded_text(chunk)]) for _, chunk, _ in store.chunks.iterate(collection))
    with ahead(embedded_ahead(store, embedder, workers, chunks), lambda _: 1, _BATCH, alive) as done:
        for number, _ in enumerate(done):
            if number % _BATCH == 0:
                alive()


def _groups(items: Iterable[tuple[T, Sequence[str]]]) -> Iterator[tuple[list[T], dict[str, str]]]:
    """Yield items some at a time, with their texts by hash."""
    group: list[T] = []
    texts: dict[str, str] = {}
    for item, own in items:
        group.append(item)
        texts |= {text_hash(text): text for text in own}
        if len(texts) >= _BATCH or len(group) >= _BATCH:
            yield group, texts
            group, texts = [], {}
    if group:
        yield group, texts
