"""Embed and store documents in windows: many documents to a batch, and to a transaction.

A window's texts are embedded sorted by length, whichever documents they belong to, and its documents
are committed together: what a flush returned survives a power cut. Knows nothing of files.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from data.protocols import Embedder
from data.store import DocumentRow, NewDocument, Store
from retrieval.chunk import embedded_text
from retrieval.vectors import cache_vectors


@dataclass(frozen=True, slots=True)
class Window:
    """When a window is full: documents, chunks, characters, or seconds since its first document."""

    documents: int = 256
    chunks: int = 512
    characters: int = 8 * 2**20
    seconds: float = 1.0


class Writer:
    """Collects documents of one collection, then embeds and stores them together."""

    def __init__(
        self, store: Store, embedder: Embedder, collection: str, window: Window, alive: Callable[[], None]
    ) -> None:
        """Keep what a flush needs; ``alive`` is called between batches and may raise to stop."""
        self._store, self._embedder, self._collection = store, embedder, collection
        self._window, self._alive = window, alive
        self._empty()

    def _empty(self) -> None:
        self._documents: list[NewDocument] = []
        self._chunks = self._characters = 0
        self._since = time.monotonic()

    def add(self, document: NewDocument) -> list[DocumentRow]:
        """Take a document; return the rows that are stored now, if the window was full."""
        if not self._documents:
            self._since = time.monotonic()
        self._documents.append(document)
        self._chunks += len(document.chunks)
        self._characters += len(document.document.text)
        window = self._window
        full = (
            len(self._documents) >= window.documents
            or self._chunks >= window.chunks
            or self._characters >= window.characters
            or time.monotonic() - self._since >= window.seconds
        )
        return self.flush() if full else []

    def flush(self) -> list[DocumentRow]:
        """Embed and store what was collected; return its rows, in the order of ``add``."""
        documents = self._documents
        if not documents:
            return []
        texts = [embedded_text(chunk) for item in documents for chunk in item.chunks]
        cache_vectors(self._store, self._embedder, texts, self._alive)
        rows = self._store.documents.put_many(self._collection, documents)
        self._empty()
        return rows
