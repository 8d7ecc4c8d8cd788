"""Search a collection: the query's vector and words against the current index generation.

A generation is opened once and never changes; when the store names another one, the next search opens
that and drops the old, so a search is answered by exactly one generation. Chunks that were deleted
since are left out. Knows nothing of prompts or answers.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data.errors import IndexMismatch, InvalidRequest, NothingIndexed, StorageCorrupt
from data.protocols import Embedder, Keys, Vectors
from data.records import METHODS, Filter, Method, Passage
from data.state import StateDirectory
from data.store import Store
from data.store.chunks import Found as StoredChunk
from retrieval.duplicates import collapse
from retrieval.embedders import Embedders, Find
from retrieval.generation import Generation, open_generation
from retrieval.hybrid import Found, mix, understands
from retrieval.legs import DenseLegs
from retrieval.rerank import CANDIDATES, Reranker, rerank
from retrieval.vectors import embed_cached

_MIN_DEPTH = 50
_DEPTH_FACTOR = 5
_DEEPER = 4
_MIN_HEAD = 5
_HEAD_FACTOR = 4
"""Of what was found, so many times the passages wanted are read from the store and compared; more only if need be."""
_OPEN_ATTEMPTS = 3
MOST_OPEN = 500
"""Collections kept open, those opened last: each takes a thread and eight maps of files, of which Linux allows a
process 65,530 (docs/scale.md)."""
_CONTEXT_SHARE = 0.4
"""Measured on follow-ups whose names were replaced by pronouns, and on changes of subject (bench/RESULTS.md)."""


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Passages, and the generation that all of them come from."""

    passages: list[Passage]
    generation: int


class Retriever:
    """Finds passages; safe to share between threads."""

    def __init__(
        self,
        store: Store,
        state: StateDirectory,
        embedder: Embedder,
        find: Find | None = None,
        legs: DenseLegs | None = None,
    ) -> None:
        """Keep what searches need; ``find`` knows embedders of indexes that ``embedder`` did not build."""
        self._store = store
        self._legs = legs
        self._state = state
        self._embedders = Embedders(store, embedder, find)
        self._open: OrderedDict[str, _Opened] = OrderedDict()
        self._lock = threading.Lock()

    def search(
        self,
        query: str,
        collection: str = "default",
        top_k: int = 4,
        method: Method = "hybrid",
        exclude_chunks: Collection[str] = (),
        *,
        context: str = "",
        filter: Filter | None = None,
        reranker: Reranker | None = None,
    ) -> list[Passage]:
        """Return the ``top_k`` best passages, best first. Raises as ``retrieve``."""
        narrowed: dict[str, Any] = {"context": context, "filter": filter, "reranker": reranker}
        return self.retrieve(query, collection, top_k, method, exclude_chunks, **narrowed).passages

    def retrieve(
        self,
        query: str,
        collection: str = "default",
        top_k: int = 4,
        method: Method = "hybrid",
        exclude_chunks: Collection[str] = (),
        *,
        context: str = "",
        filter: Filter | None = None,
        reranker: Reranker | None = None,
    ) -> Retrieved:
        """Return the ``top_k`` best passages, best first, with the number of their generation.

        Near-copies of a better passage are left out and counted on it. A lexical search finds fewer
        passages if fewer share a word with the query.

        Args:
            query: what to search for.
            collection: where.
            top_k: passages to return, at most.
            method: hybrid (both legs, blended), dense or lexical.
            exclude_chunks: chunk ids to leave out.
            context: what a follow-up question goes back to, the question before it say: what is found
                together with it counts two fifths, what is found alone the rest.
            filter: which documents to search, inside both searches; None for all.
            reranker: reads the best passages again and reorders them.

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
        queries = [query, f"{context} {query}"] if context.strip() else [query]
        embedder: Embedder | None = None
        vectors = None
        wanted = top_k if reranker is None else max(top_k, CANDIDATES)
        while True:
            opened = self._current(collection)
            generation = opened.generation
            if method != "lexical" and embedder is not opened.embedder:
                vectors = opened.embedder.embed_queries(queries)
            embedder = opened.embedder
            allowed = None if filter is None else self._store.chunks.matching(collection, filter)
            asked = _Asked(tuple(queries), vectors, method, allowed, frozenset(exclude_chunks))
            passages = self._search(opened, asked, wanted)
            # Fewer than asked may mean that the documents changed under an index that was just replaced.
            if len(passages) == wanted or self.generation(collection) == generation.number:
                break
        if reranker is not None:
            passages = rerank(query, passages, reranker)[:top_k]
        return Retrieved(passages, generation.number)

    def vectors(self, texts: Sequence[str], collection: str = "default") -> Vectors:
        """Return the vectors of texts, shape (len(texts), dimension), by the embedder that searches the collection."""
        return embed_cached(self._store, self._embedders.of(collection), texts)

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

    def _current(self, collection: str) -> _Opened:
        for attempt in range(_OPEN_ATTEMPTS):
            number = self._store.collections.current_generation(collection)
            if number is None:
                raise _nothing(collection)
            opened = self._open.get(collection)
            if opened is None or opened.generation.number != number:
                try:
                    opened = self._swap(collection, number)
                except StorageCorrupt:
                    # Between the two reads it may have been replaced and pruned; a damaged one stays current.
                    if attempt + 1 < _OPEN_ATTEMPTS:
                        continue
                    raise
            if len(opened.generation) == 0:
                raise _nothing(collection)
            return opened
        raise AssertionError("unreachable")

    def _swap(self, collection: str, number: int) -> _Opened:
        """Open a generation and let it take the place of the one that was open.

        The old one is not closed: searches in other threads may still read it, and its files go with
        the last reference.
        """
        with self._lock:
            opened = self._open.get(collection)
            if opened is None or opened.generation.number != number:
                generation = open_generation(self._state.index(collection, number), self._legs)
                embedder = self._embedders.named(generation.manifest["embedder"])
                if embedder is None:
                    raise IndexMismatch(
                        "The index was built with another embedder.",
                        got=generation.manifest["embedder"],
                        wanted=self._embedders.configured.fingerprint,
                        hint="Set the embedder it was built with, or run: ragtune index rebuild.",
                    )
                opened = _Opened(generation, embedder)
                self._open[collection] = opened
                self._open.move_to_end(collection)
                while len(self._open) > MOST_OPEN:
                    self._open.popitem(last=False)
        return opened

    def _search(self, opened: _Opened, asked: _Asked, wanted: int) -> list[Passage]:
        """Search, and search deeper while too many of the chunks found are deleted, excluded or copies."""
        generation, depth = opened.generation, max(_MIN_DEPTH, _DEPTH_FACTOR * wanted)
        reach = len(generation) if asked.allowed is None else min(len(generation), len(asked.allowed))
        rows = _Rows(self._store)
        while True:
            found = _ranking(opened, asked, 0, depth)
            if len(asked.queries) > 1:
                found = mix(found, _ranking(opened, asked, 1, depth), _CONTEXT_SHARE)
            head = _HEAD_FACTOR * max(wanted, _MIN_HEAD)
            for examined in (found[:head], found[: _HEAD_FACTOR * head], found):
                held = rows.get(hit.key for hit in examined)
                passages = collapse(_passages(examined, held, asked.excluded), wanted)
                if len(passages) == wanted:
                    return passages
            if depth >= reach:
                return passages
            depth *= _DEEPER


def _ranking(opened: _Opened, asked: _Asked, number: int, depth: int) -> list[Found]:
    query = asked.queries[number]
    vector = None if asked.vectors is None else asked.vectors[number : number + 1]
    understood = asked.method != "hybrid" or understands(opened.embedder, query)
    return opened.generation.search(query, vector, asked.method, depth, asked.allowed, understood=understood)


@dataclass(frozen=True, slots=True)
class _Opened:
    """A generation, and the embedder it was built with."""

    generation: Generation
    embedder: Embedder


@dataclass(frozen=True, slots=True)
class _Asked:
    """One query, alone and with its context where it has one, and what narrows its search."""

    queries: tuple[str, ...]
    vectors: Vectors | None
    method: Method
    allowed: Keys | None
    excluded: frozenset[str]


class _Rows:
    """The chunks that one search looks at, each read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: dict[int, StoredChunk] = {}
        self._asked: set[int] = set()

    def get(self, keys: Iterable[int]) -> Mapping[int, StoredChunk]:
        """Return what the store holds under these keys and those before."""
        new = set(keys) - self._asked
        if new:
            self._held.update(self._store.chunks.by_keys(sorted(new)))
            self._asked |= new
        return self._held


def _passages(found: list[Found], rows: Mapping[int, StoredChunk], excluded: frozenset[str]) -> Iterator[Passage]:
    for rank, hit in enumerate(found, start=1):
        if hit.key in rows:
            chunk, source, title = rows[hit.key]
            if chunk.id not in excluded:
                yield Passage(chunk, hit.score, rank, hit.origin, source, title)


def _nothing(collection: str) -> NothingIndexed:
    return NothingIndexed(
        "Nothing is indexed in this collection.", got=collection, hint="Index documents first: ragtune ingest PATH."
    )
