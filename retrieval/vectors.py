"""Vectors through the store's cache: a text is embedded once by each embedder.

Knows nothing of chunks, indexes or files.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from data.protocols import Embedder, Vectors
from data.store import Store

_BATCH = 256


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
