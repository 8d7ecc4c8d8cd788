"""Measure retrieval on a labelled corpus: nDCG@10, recall@5 and MRR of each method, with intervals.

Documents are chunked, embedded and indexed as in production, in a temporary folder; a document ranks
where its best chunk does. Knows nothing of answers, and leaves no trace in the store.
"""

from __future__ import annotations

import csv
import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import InvalidRequest, NoQuestions
from data.protocols import Embedder, Index
from data.records import METHODS, Document, Method, content_id
from retrieval.chunk import chunk, embedded_text
from retrieval.generation import search_legs
from retrieval.index import FaissIndex
from retrieval.lexical import TantivyIndex

_DEPTH = 100
_RESAMPLES = 1000
_SEED = 0

Ranking = Sequence[str]
Relevant = Mapping[str, float]


def ndcg_at(ranking: Ranking, relevant: Relevant, k: int) -> float:
    """Return nDCG at ``k``, 0 to 1, with linear gains as trec_eval computes it (Järvelin & Kekäläinen 2002)."""
    gained = sum(relevant.get(item, 0.0) / math.log2(rank + 1) for rank, item in enumerate(ranking[:k], start=1))
    ideal = sorted(relevant.values(), reverse=True)[:k]
    best = sum(gain / math.log2(rank + 1) for rank, gain in enumerate(ideal, start=1))
    return gained / best if best else 0.0


def recall_at(ranking: Ranking, relevant: Relevant, k: int) -> float:
    """Return the share of the relevant documents among the first ``k``, 0 to 1."""
    return len(set(ranking[:k]) & relevant.keys()) / len(relevant) if relevant else 0.0


def reciprocal_rank(ranking: Ranking, relevant: Relevant) -> float:
    """Return 1 / rank of the first relevant document, 0 if none was found."""
    return next((1.0 / rank for rank, item in enumerate(ranking, start=1) if item in relevant), 0.0)


MEASURES: dict[str, Callable[[Ranking, Relevant], float]] = {
    "ndcg@10": lambda ranking, relevant: ndcg_at(ranking, relevant, 10),
    "recall@5": lambda ranking, relevant: recall_at(ranking, relevant, 5),
    "mrr": reciprocal_rank,
}


def evaluate_retrieval(
    corpus: Path | str,
    queries: Path | str,
    qrels: Path | str,
    embedder: Embedder,
    methods: Sequence[Method] = METHODS,
    *,
    chunk_size: int = 200,
) -> dict[str, Any]:
    """Return ``{"methods": {method: {"ndcg@10", "recall@5", "mrr", "ci": {measure: [lo, hi]}}}, ...}``.

    Figures run 0 to 1 and are means over the queries that have a relevant document; ``ci`` are 95 %
    percentile bootstrap intervals over queries (1,000 resamples, fixed seed).

    Args:
        corpus: JSONL of ``{"id", "title", "text"}``.
        queries: JSONL of ``{"id", "text"}`` (or "question").
        qrels: TSV with a header: query id, document id, relevance (above 0 is relevant).
        embedder: of the dense leg; its tokens are counted for chunks.
        methods: any of hybrid, dense, lexical.
        chunk_size: tokens in a chunk, at most.

    Raises:
        InvalidRequest: a file is missing or a line is malformed (named), or an unknown method.
        NoQuestions: no query has a relevant document.
    """
    documents = list(_read_corpus(Path(corpus)))
    relevant = _read_qrels(Path(qrels))
    asked = {name: text for name, text in _read_queries(Path(queries)) if relevant.get(name)}
    if not asked:
        raise NoQuestions("No query has a relevant document.", got=str(qrels), hint="Do the ids of both files agree?")
    with tempfile.TemporaryDirectory(prefix="ragtune-") as folder:
        legs: dict[str, Index] = {
            "dense": FaissIndex(Path(folder) / "dense", embedder.dimension),
            "lexical": TantivyIndex(Path(folder) / "lexical"),
        }
        owners = _index(documents, legs, embedder, chunk_size)
        vectors = embedder.embed_queries(list(asked.values()))
        result: dict[str, Any] = {}
        for method in methods:
            rankings = {
                name: _ranking(legs, owners, text, vectors[i : i + 1], method)
                for i, (name, text) in enumerate(asked.items())
            }
            result[method] = _figures(rankings, relevant)
        for leg in legs.values():
            leg.close()
    return {"methods": result, "queries": len(asked), "documents": len(documents), "chunks": len(owners)}


def _index(documents: Sequence[Document], legs: Mapping[str, Index], embedder: Embedder, chunk_size: int) -> list[str]:
    """Fill both legs; return the document id of each chunk, whose key is its position."""
    owners: list[str] = []
    texts: list[str] = []
    for document in documents:
        for piece in chunk(document, embedder.count_tokens, chunk_size):
            owners.append(document.source)
            texts.append(embedded_text(piece))
    vectors = embedder.embed_documents(texts)
    for leg in legs.values():
        leg.add(range(len(texts)), texts, vectors)
        leg.save()
    return owners


def _ranking(
    legs: Mapping[str, Index], owners: Sequence[str], query: str, vector: NDArray[np.float32], method: Method
) -> list[str]:
    found = search_legs(legs, query, vector, method, _DEPTH)
    return list(dict.fromkeys(owners[hit.key] for hit in found))


def _figures(rankings: Mapping[str, Ranking], relevant: Mapping[str, Relevant]) -> dict[str, Any]:
    random = np.random.default_rng(_SEED)
    samples = random.integers(0, len(rankings), size=(_RESAMPLES, len(rankings)))
    figures: dict[str, Any] = {}
    intervals: dict[str, list[float]] = {}
    for name, measure in MEASURES.items():
        scores = np.array([measure(ranking, relevant[query]) for query, ranking in rankings.items()])
        figures[name] = round(float(scores.mean()), 4)
        low, high = np.percentile(scores[samples].mean(axis=1), [2.5, 97.5])
        intervals[name] = [round(float(low), 4), round(float(high), 4)]
    return {**figures, "ci": intervals}


def _rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise InvalidRequest(f"Line {number} of {path} is no JSON.", got=line[:80]) from error
        if not isinstance(row, dict) or "id" not in row:
            raise InvalidRequest(f"Line {number} of {path} has no id.", got=line[:80])
        yield number, row


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"The file cannot be read: {error}", got=str(path), wanted="UTF-8 text") from error


def _read_corpus(path: Path) -> Iterator[Document]:
    for number, row in _rows(path):
        text = row.get("text")
        if not isinstance(text, str):
            raise InvalidRequest(f"Line {number} of {path} has no text.", got=sorted(row))
        name = str(row["id"])
        yield Document(content_id(name, text), name, str(row.get("title") or ""), text, "text/plain")


def _read_queries(path: Path) -> Iterator[tuple[str, str]]:
    for number, row in _rows(path):
        text = row.get("text", row.get("question"))
        if not isinstance(text, str):
            raise InvalidRequest(f"Line {number} of {path} has no text.", got=sorted(row))
        yield str(row["id"]), text


def _read_qrels(path: Path) -> dict[str, dict[str, float]]:
    relevant: dict[str, dict[str, float]] = {}
    for number, row in enumerate(csv.reader(_lines(path), delimiter="\t"), start=1):
        if number == 1 or not row:
            continue
        try:
            query, document, gain = row[0], row[1], float(row[2])
        except (IndexError, ValueError) as error:
            raise InvalidRequest(
                f"Line {number} of {path} is malformed.", got=row, wanted="query id, document id, relevance"
            ) from error
        if gain > 0:
            relevant.setdefault(query, {})[document] = gain
    return relevant
