"""What a tuned embedder gains on held-out questions, and what it loses on another corpus (forgetting).

Both embedders rank the same chunks for the same questions, so differences are taken question by
question. Knows nothing of how an embedder was tuned.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import InvalidRequest
from data.protocols import Embedder, Report, Vectors
from data.records import Method, Progress
from data.store import Store
from retrieval.chunk import embedded_text
from retrieval.evaluate import rank_corpus, rank_texts
from retrieval.hybrid import KnowsWords
from retrieval.measures import compare
from retrieval.negatives import Asked
from retrieval.vectors import embed_cached
from retrieval.wording import stretch_of

SAMPLES = Path(__file__).parents[1] / "data" / "samples"
MAX_CHUNKS = 20_000
"""Of larger collections the held-out documents and an even sample of the others are ranked, about so many."""

_METHODS: tuple[Method, ...] = ("dense", "hybrid")
_FIGURES = ("ndcg@10", "recall@5", "mrr")
_BATCH = 256

Rankings = Mapping[str, Mapping[str, Sequence[str]]]


@dataclass(frozen=True, slots=True)
class Labelled:
    """A corpus to rank: JSONL of id, title, text; JSONL of id, text; TSV of query, document, relevance."""

    corpus: Path
    queries: Path
    qrels: Path

    @staticmethod
    def of(folder: Path) -> Labelled:
        """Return the corpus in ``folder``.

        Raises:
            InvalidRequest: a file is missing.
        """
        paths = [folder / name for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv")]
        for path in paths:
            if not path.is_file():
                wanted = "a folder with corpus.jsonl, queries.jsonl, qrels.tsv"
                raise InvalidRequest("This is no labelled corpus.", got=str(path), wanted=wanted)
        return Labelled(*paths)


def measure_held_out(
    store: Store, collection: str, held: Sequence[Asked], embedders: tuple[Embedder, Embedder], report: Report
) -> dict[str, Any]:
    """Rank the collection's chunks with both embedders, before and after, for questions not tuned on.

    Returns:
        ``{method: {"before": {figure: x}, "after": {figure: x}, "gain": {figure: {"difference", "ci",
        "p"}}}, "questions": n, "chunks": n}`` for dense and hybrid; see ``measures.compare``.

    Raises:
        JobCancelled: ``report`` said so.
    """
    owners, texts = _ranked(store, collection, {chunk.document_id for each in held for chunk in each.gold})
    asked = {each.id: each.question for each in held}
    relevant = {each.id: {chunk.id: 1.0 for chunk in each.gold} for each in held}

    def rankings(embedder: Embedder) -> Rankings:
        # Through the cache: a promotion embeds nothing twice.
        batches = range(0, len(texts), _BATCH)
        rows: list[Vectors] = []
        for start in batches:
            rows.extend(embed_cached(store, embedder, texts[start : start + _BATCH]))
            report(Progress(min(start + _BATCH, len(texts)), len(texts), "chunks", None, "measure"))
        return rank_texts(owners, texts, np.stack(rows), asked, embedder=embedder, methods=_METHODS)

    before, after = map(rankings, embedders)
    figures = _figures(before, after, relevant)
    return {**figures, "questions": len(held), "chunks": len(texts)}


def measure_corpus(
    labelled: Labelled, embedders: tuple[Embedder, Embedder], chunk_size: int, report: Report
) -> dict[str, Any]:
    """Rank another corpus with both embedders; returns and raises as ``measure_held_out`` and ``rank_corpus``."""
    ranked = [
        rank_corpus(
            labelled.corpus,
            labelled.queries,
            labelled.qrels,
            _Watched(embedder, report),
            _METHODS,
            chunk_size=chunk_size,
        )
        for embedder in embedders
    ]
    figures = _figures(ranked[0].rankings, ranked[1].rankings, ranked[0].relevant)
    return {**figures, "questions": len(ranked[0].asked), "chunks": ranked[0].chunks}


def write_samples(folder: Path) -> Labelled:
    """Write the packaged articles as a labelled corpus: paragraphs, relevant where they hold an answer."""
    paragraphs: dict[str, list[tuple[str, str]]] = {}
    for path in sorted((SAMPLES / "corpus").glob("*.md")):
        parts = [part for part in path.read_text(encoding="utf-8").split("\n\n") if not part.startswith("#")]
        paragraphs[path.name] = [(f"{path.name}#{number}", part) for number, part in enumerate(parts)]
    found = Labelled(folder / "corpus.jsonl", folder / "queries.jsonl", folder / "qrels.tsv")
    rows = [{"id": name, "text": text} for held in paragraphs.values() for name, text in held]
    queries, qrels = [], ["query\tdocument\trelevance"]
    for line in (SAMPLES / "questions.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        held = paragraphs.get(row.get("document") or "", [])
        gold = [name for name, text in held if any(stretch_of(answer, text) for answer in row["answers"])]
        if gold:
            queries.append({"id": row["id"], "text": row["question"]})
            qrels += [f"{row['id']}\t{name}\t1" for name in gold]
    _write(found.corpus, [json.dumps(row, ensure_ascii=False) for row in rows])
    _write(found.queries, [json.dumps(row, ensure_ascii=False) for row in queries])
    _write(found.qrels, qrels)
    return found


def holds_samples(store: Store, collection: str) -> bool:
    """Say whether a collection is (mostly) the packaged articles: they are no second corpus then."""
    names = {path.name for path in (SAMPLES / "corpus").glob("*.md")}
    sources = {Path(source).name for source in store.documents.by_source(collection)}
    return 2 * len(names & sources) >= len(names)


def _write(path: Path, lines: Sequence[str]) -> None:
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _ranked(store: Store, collection: str, documents: set[str]) -> tuple[list[str], list[str]]:
    """Return id and text of the chunks to rank: all, or those of ``documents`` and a sample of the others."""
    share = MAX_CHUNKS / max(store.chunks.count(collection), 1)
    owners, texts = [], []
    for _, chunk, _ in store.chunks.iterate(collection):
        if share >= 1 or chunk.document_id in documents or zlib.crc32(chunk.id.encode()) < share * 2**32:
            owners.append(chunk.id)
            texts.append(embedded_text(chunk))
    return owners, texts


def _figures(before: Rankings, after: Rankings, relevant: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for method in _METHODS:
        result = compare({"after": after[method], "before": before[method]}, relevant)
        found[method] = {
            **{side: {name: result["methods"][side][name] for name in _FIGURES} for side in ("before", "after")},
            "gain": {name: result["differences"]["after-before"][name] for name in _FIGURES},
        }
    return found


class _Watched:
    """An embedder that reports how far it is."""

    def __init__(self, embedder: Embedder, report: Report) -> None:
        self._embedder, self._report = embedder, report
        self.fingerprint, self.dimension = embedder.fingerprint, embedder.dimension
        self.count_tokens, self.embed_queries = embedder.count_tokens, embedder.embed_queries

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        rows: list[Vectors] = []
        for start in range(0, len(texts), _BATCH):
            rows.extend(self._embedder.embed_documents(texts[start : start + _BATCH]))
            self._report(Progress(min(start + _BATCH, len(texts)), len(texts), "chunks", None, "second corpus"))
        return np.stack(rows) if rows else self._embedder.embed_documents([])

    def unknown_share(self, text: str) -> float:
        return self._embedder.unknown_share(text) if isinstance(self._embedder, KnowsWords) else 0.0
