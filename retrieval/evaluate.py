"""Measure retrieval: on a labelled corpus in a temporary index, or on questions to an indexed collection.

A labelled corpus is chunked, embedded and indexed as in production, and a document ranks where its best
chunk does. Knows nothing of answers, and leaves no trace in the store.
"""

from __future__ import annotations

import contextlib
import csv
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import InvalidRequest, NoQuestions
from data.protocols import Embedder, Index, Vectors
from data.records import METHODS, Document, Method, Passage, Question, content_id
from retrieval.chunk import chunk, embedded_text
from retrieval.hybrid import DEPTH, search_legs, understands
from retrieval.index import FaissIndex
from retrieval.lexical import TantivyIndex
from retrieval.measures import compare
from retrieval.retriever import Retriever

_TOP_K = 50
_RELEVANT = "relevant"


def evaluate_retrieval(
    corpus: Path | str,
    queries: Path | str,
    qrels: Path | str,
    embedder: Embedder,
    methods: Sequence[Method] = METHODS,
    *,
    chunk_size: int = 200,
    disagreements: int = 0,
) -> dict[str, Any]:
    """Return ``{"methods": {method: {"ndcg@10", "recall@5", "mrr", ..., "ci": {measure: [lo, hi]}}}, ...}``.

    Figures run 0 to 1 and are means over the queries that have a relevant document; ``differences``
    holds those of each two methods, with paired bootstrap intervals (see ``measures.compare``).

    Args:
        corpus: JSONL of ``{"id", "title", "text"}``.
        queries: JSONL of ``{"id", "text"}`` (or "question").
        qrels: TSV with a header: query id, document id, relevance (above 0 is relevant).
        embedder: of the dense leg; its tokens are counted for chunks.
        methods: any of hybrid, dense, lexical.
        chunk_size: tokens in a chunk, at most.
        disagreements: how many of the queries on which the methods differ most to name, at most.

    Raises:
        InvalidRequest: a file is missing or a line is malformed (named), or an unknown method.
        NoQuestions: no query has a relevant document.
    """
    ranked = rank_corpus(corpus, queries, qrels, embedder, methods, chunk_size=chunk_size)
    result = _worded(compare(ranked.rankings, ranked.relevant, disagreements), ranked.asked)
    return {**result, "queries": len(ranked.asked), "documents": ranked.documents, "chunks": ranked.chunks}


@dataclass(frozen=True, slots=True)
class RankedCorpus:
    """Rankings by method and query, the queries' words, what is relevant, and how much was indexed."""

    rankings: Mapping[str, Mapping[str, Sequence[str]]]
    asked: Mapping[str, str]
    relevant: Mapping[str, Mapping[str, float]]
    documents: int
    chunks: int


def rank_corpus(
    corpus: Path | str,
    queries: Path | str,
    qrels: Path | str,
    embedder: Embedder,
    methods: Sequence[Method] = METHODS,
    *,
    chunk_size: int = 200,
) -> RankedCorpus:
    """Return each method's ranking of a labelled corpus. Arguments and errors as ``evaluate_retrieval``."""
    documents = list(_read_corpus(Path(corpus)))
    relevant = _read_qrels(Path(qrels))
    asked = {name: text for name, text in _read_queries(Path(queries)) if relevant.get(name)}
    if not asked:
        raise NoQuestions("No query has a relevant document.", got=str(qrels), hint="Do the ids of both files agree?")
    owners, texts = _chunked(documents, embedder, chunk_size)
    rankings = rank_texts(owners, texts, embedder.embed_documents(texts), asked, embedder=embedder, methods=methods)
    return RankedCorpus(rankings, asked, relevant, len(documents), len(owners))


def rank_texts(
    owners: Sequence[str],
    texts: Sequence[str],
    vectors: Vectors,
    asked: Mapping[str, str],
    *,
    embedder: Embedder,
    methods: Sequence[Method],
) -> dict[str, dict[str, list[str]]]:
    """Index texts as in production, for this once; return each method's ranking of their owners for each query."""
    with tempfile.TemporaryDirectory(prefix="ragtune-") as folder, contextlib.ExitStack() as opened:
        legs: dict[str, Index] = {
            "dense": FaissIndex(Path(folder) / "dense", embedder.dimension),
            "lexical": TantivyIndex(Path(folder) / "lexical"),
        }
        for leg in legs.values():
            opened.callback(leg.close)
            leg.add(range(len(texts)), texts, vectors)
            leg.save()
        return _Trial(legs, owners, vectors, embedder).rankings(asked, methods)


def evaluate_questions(
    questions: Sequence[Question],
    retriever: Retriever,
    collection: str = "default",
    methods: Sequence[Method] = METHODS,
    disagreements: int = 0,
    *,
    ranks: bool = False,
) -> dict[str, Any]:
    """Measure the production retriever on questions to an indexed collection; figures as ``evaluate_retrieval``.

    A passage is relevant if it comes from the document that the question names or, where it names
    none, if it holds one of the answers. The first relevant passage counts: recall@k is the share of
    questions with one among the first k. Questions without document and answers are left out.

    Args:
        questions: to ask.
        retriever: of the collection.
        collection: that is searched.
        methods: any of hybrid, dense, lexical.
        disagreements: how many of the questions on which the methods differ most to name, at most.
        ranks: whether to list, under ``ranks``, at which place (from 1) each method found the first relevant passage
            of each question; None where it is not among the first 50.

    Raises:
        NoQuestions: no question names a document or has an answer.
        NothingIndexed, UnknownCollection, IndexMismatch: as ``Retriever.retrieve``.
    """
    asked = {each.id: each for each in questions if each.document or any(map(str.strip, each.answers))}
    if not asked:
        raise NoQuestions(
            "No question says what would be relevant.", got=len(questions), wanted="answers or a document for each"
        )
    rankings: dict[str, dict[str, list[str]]] = {}
    for method in methods:
        found = {name: retriever.search(each.question, collection, _TOP_K, method) for name, each in asked.items()}
        rankings[method] = {name: _first_relevant(passages, asked[name]) for name, passages in found.items()}
    result = compare(rankings, {name: {_RELEVANT: 1.0} for name in asked}, disagreements)
    worded = _worded(result, {name: each.question for name, each in asked.items()})
    for row in worded.get("disagreements", ()):
        question = asked[row["id"]]
        row["relevant"] = [question.document] if question.document else list(question.answers)
    if ranks:
        worded["ranks"] = [
            {"id": name, "query": each.question, "rank": {m: _place(ranked[name]) for m, ranked in rankings.items()}}
            for name, each in asked.items()
        ]
    return {**worded, "queries": len(asked), "left_out": len(questions) - len(asked)}


def _first_relevant(passages: Sequence[Passage], question: Question) -> list[str]:
    """Return the passages' sources up to the first relevant one, which is called so."""
    ranking: list[str] = []
    for passage in passages:
        if _is_relevant(passage, question):
            return [*ranking, _RELEVANT]
        ranking.append(f"{passage.source}#{passage.chunk.start}")
    return ranking


def _place(ranking: Sequence[str]) -> int | None:
    """Return the place of the relevant passage, which is the last of a ranking that has one."""
    return len(ranking) if ranking and ranking[-1] == _RELEVANT else None


def _is_relevant(passage: Passage, question: Question) -> bool:
    if question.document:
        return passage.source == question.document or passage.source.endswith(f"/{question.document}")
    text = " ".join(passage.chunk.text.casefold().split())
    return any(" ".join(answer.casefold().split()) in text for answer in question.answers if answer.strip())


def _worded(result: dict[str, Any], asked: Mapping[str, str]) -> dict[str, Any]:
    """Return the result with each disagreement's query in words."""
    rows = result.get("disagreements")
    if rows is None:
        return result
    return {**result, "disagreements": [{"id": row["id"], "query": asked[row["id"]], **row} for row in rows]}


def _chunked(documents: Sequence[Document], embedder: Embedder, chunk_size: int) -> tuple[list[str], list[str]]:
    """Return the document id and the text of each chunk."""
    owners: list[str] = []
    texts: list[str] = []
    for document in documents:
        for piece in chunk(document, embedder.count_tokens, chunk_size):
            owners.append(document.source)
            texts.append(embedded_text(piece))
    return owners, texts


class _Trial:
    """Both legs filled, and what a search of them needs."""

    def __init__(self, legs: Mapping[str, Index], owners: Sequence[str], vectors: Vectors, embedder: Embedder) -> None:
        self._legs, self._owners, self._vectors, self._embedder = legs, owners, vectors, embedder

    def rankings(self, asked: Mapping[str, str], methods: Sequence[Method]) -> dict[str, dict[str, list[str]]]:
        """Return the documents each method finds for each query, best first."""
        vectors = self._embedder.embed_queries(list(asked.values()))
        return {
            method: {
                name: self._ranking(text, vectors[row : row + 1], method)
                for row, (name, text) in enumerate(asked.items())
            }
            for method in methods
        }

    def _ranking(self, query: str, vector: NDArray[np.float32], method: Method) -> list[str]:
        found = search_legs(
            self._legs,
            query,
            vector,
            method,
            DEPTH,
            vectors_of=lambda keys: self._vectors[list(keys)],
            understood=understands(self._embedder, query),
        )
        return list(dict.fromkeys(self._owners[hit.key] for hit in found))


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
