"""Search a collection: the query's vector and words against the current index generation.

A generation is opened once and never changes; when the store names another one, the next search opens
that and drops the old, so a search is answered by exactly one generation. Chunks that were deleted
since are left out. Knows nothing of prompts or answers.
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from dataclasses import dataclass

from data.errors import IndexMismatch, InvalidRequest, NothingIndexed, StorageCorrupt
from data.protocols import Embedder, Vectors
from data.records import METHODS, Method, Passage
from data.state import StateDirectory
from data.store import Store
from retrieval.generation import Found, Generation, open_generation

_MIN_DEPTH = 50
_DEPTH_FACTOR = 5
_DEEPER = 4
_OPEN_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Passages, and the generation that all of them come from."""

    passages: list[Passage]
    generation: int


class Retriever:
    """Finds passages; safe to share between threads."""

    def __init__(self, store: Store, state: StateDirectory, embedder: Embedder) -> None:
        self._store = store
        self._state = state
        self._embedder = embedder
        self._open: dict[str, Generation] = {}
        self._lock = threading.Lock()

    def search(
        self,
        query: str,
        collection: str = "default",
        top_k: int = 4,
        method: Method = "hybrid",
        exclude_chunks: Collection[str] = (),
    ) -> list[Passage]:
        """Return the ``top_k`` best passages, best first. Raises as ``retrieve``."""
        return self.retrieve(query, collection, top_k, method, exclude_chunks).passages

    def retrieve(
        self,
        query: str,
        collection: str = "default",
        top_k: int = 4,
        method: Method = "hybrid",
        exclude_chunks: Collection[str] = (),
    ) -> Retrieved:
        """Return the ``top_k`` best passages, best first, with the number of their generation.

        ``method`` is hybrid (both legs, fused by rank), dense or lexical; ``exclude_chunks`` are chunk
        ids to leave out. A lexical search finds fewer passages if fewer share a word with the query.

        Raises:
            UnknownCollection: no such collection.
            NothingIndexed: nothing is indexed in it.
            IndexMismatch: it was indexed with another embedder.
            InvalidRequest: an unknown method, or ``top_k`` below 1.
            StorageCorrupt: the index is damaged.
        """
        if method not in METHODS:
            raise InvalidRequest("Unknown search method.", got=method, wanted=", ".join(METHODS))
        if top_k < 1:
            raise InvalidRequest("top_k must be positive.", got=top_k, wanted="1 or more")
        vector = None if method == "lexical" else self._embedder.embed_queries([query])
        while True:
            generation = self._current(collection)
            passages = self._search(generation, (query, vector, method), top_k, frozenset(exclude_chunks))
            # Fewer than asked may mean that the documents changed under an index that was just replaced.
            if len(passages) == top_k or self.generation(collection) == generation.number:
                return Retrieved(passages, generation.number)

    def generation(self, collection: str = "default") -> int | None:
        """Return the number of the current generation, None before the first.

        Raises:
            UnknownCollection: no such collection.
        """
        return self._store.collections.current_generation(collection)

    def close(self) -> None:
        """Forget the opened generations; the next search opens what it needs."""
        with self._lock:
            self._open.clear()

    def _current(self, collection: str) -> Generation:
        for attempt in range(_OPEN_ATTEMPTS):
            number = self._store.collections.current_generation(collection)
            if number is None:
                raise _nothing(collection)
            opened = self._open.get(collection)
            if opened is None or opened.number != number:
                try:
                    opened = self._swap(collection, number)
                except StorageCorrupt:
                    # Between the two reads it may have been replaced and pruned; a damaged one stays current.
                    if attempt + 1 < _OPEN_ATTEMPTS:
                        continue
                    raise
            if len(opened) == 0:
                raise _nothing(collection)
            return opened
        raise AssertionError("unreachable")

    def _swap(self, collection: str, number: int) -> Generation:
        """Open a generation and let it take the place of the one that was open.

        The old one is not closed: searches in other threads may still read it, and its files go with
        the last reference.
        """
        with self._lock:
            opened = self._open.get(collection)
            if opened is None or opened.number != number:
                opened = open_generation(self._state.index(collection, number))
                if opened.manifest["embedder"] != self._embedder.fingerprint:
                    raise IndexMismatch(
                        "The index was built with another embedder.",
                        got=opened.manifest["embedder"],
                        wanted=self._embedder.fingerprint,
                        hint="Set the embedder it was built with, or run: ragtune index rebuild.",
                    )
                self._open[collection] = opened
        return opened

    def _search(
        self, generation: Generation, asked: tuple[str, Vectors | None, Method], top_k: int, excluded: frozenset[str]
    ) -> list[Passage]:
        """Search, and search deeper while too many of the chunks found are deleted or excluded."""
        depth = max(_MIN_DEPTH, _DEPTH_FACTOR * top_k)
        while True:
            passages = self._passages(generation.search(*asked, depth), top_k, excluded)
            if len(passages) == top_k or depth >= len(generation):
                return passages
            depth *= _DEEPER

    def _passages(self, found: list[Found], top_k: int, excluded: frozenset[str]) -> list[Passage]:
        rows = self._store.chunks.by_keys(hit.key for hit in found)
        passages: list[Passage] = []
        for hit in found:
            if hit.key not in rows:
                continue
            chunk, source, title = rows[hit.key]
            if chunk.id not in excluded:
                passages.append(Passage(chunk, hit.score, len(passages) + 1, hit.origin, source, title))
            if len(passages) == top_k:
                break
        return passages


def _nothing(collection: str) -> NothingIndexed:
    return NothingIndexed(
        "Nothing is indexed in this collection.", got=collection, hint="Index documents first: ragtune ingest PATH."
    )
