"""Search one set by vectors in FAISS' files and on Milvus: what is found, and how long a query takes.

Both hold the same vectors of whole documents. Milvus is Milvus Lite unless ``--uri`` names a server: the same client,
the same calls, another engine; its latencies are those of this machine and a local socket.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from data.protocols import Index, Keys, Vectors
from retrieval.embed import SentenceTransformerEmbedder, starter_embedder_path
from retrieval.index import FaissIndex
from retrieval.milvus import MilvusLegs, MilvusServer

K = 10


def rows(path: Path) -> list[dict[str, Any]]:
    with path.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines if line.strip()]


def relevant(path: Path) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for line in path.read_text(encoding="utf-8").splitlines()[1:]:
        query, document, score = line.split("\t")
        if float(score) > 0:
            found.setdefault(query, set()).add(document)
    return found


@contextmanager
def indexes(folder: Path, dimension: int, uri: str) -> Iterator[dict[str, Index]]:
    server = MilvusServer(uri or str(folder / "milvus.db"))
    legs = MilvusLegs(server, folder)
    yield {
        "FAISS": FaissIndex(folder / "faiss", dimension),
        "Milvus": legs.open(folder / "cranfield" / "1", dimension),
    }
    legs.collect(folder / "cranfield", [])
    server.close()


def timed(index: Index, queries: Vectors, allowed: Keys | None = None) -> tuple[list[list[int]], np.ndarray[Any, Any]]:
    """Return what each query finds, and its time in ms."""
    found, times = [], []
    for query in queries:
        started = time.perf_counter()
        hits = index.search("", query[None], K, allowed)
        times.append((time.perf_counter() - started) * 1000)
        found.append([hit.key for hit in hits])
    return found, np.array(times)


def recall(found: Sequence[list[int]], wanted: Sequence[set[int]]) -> float:
    return float(np.mean([len(set(hits) & gold) / min(K, len(gold)) for hits, gold in zip(found, wanted, strict=True)]))


def measure(folder: Path, uri: str) -> dict[str, dict[str, float]]:
    corpus, judged = rows(folder / "corpus.jsonl"), relevant(folder / "qrels.tsv")
    asked = [row for row in rows(folder / "queries.jsonl") if row["id"] in judged]
    numbers = {row["id"]: number for number, row in enumerate(corpus, 1)}
    gold = [{numbers[document] for document in judged[row["id"]] if document in numbers} for row in asked]
    embedder = SentenceTransformerEmbedder(str(starter_embedder_path()))
    texts = [f"{row.get('title', '')}\n{row['text']}" for row in corpus]
    vectors, queries = embedder.embed_documents(texts), embedder.embed_queries([row["text"] for row in asked])
    keys = np.array(list(numbers.values()), dtype=np.int64)
    exact = [set(keys[np.argsort(-scores, kind="stable")[:K]].tolist()) for scores in queries @ vectors.T]
    result = {}
    with tempfile.TemporaryDirectory() as place, indexes(Path(place), embedder.dimension, uri) as both:
        for name, index in both.items():
            started = time.perf_counter()
            for start in range(0, len(keys), 1000):
                index.add(keys[start : start + 1000], texts[start : start + 1000], vectors[start : start + 1000])
            index.save()
            built_s = time.perf_counter() - started
            timed(index, queries[:20])
            found, times = timed(index, queries)
            _, narrowed = timed(index, queries, keys[::10])
            result[name] = {
                "recall@10": recall(found, gold),
                "overlap@10 with exact": float(
                    np.mean([len(set(a) & b) / K for a, b in zip(found, exact, strict=True)])
                ),
                "build_s": built_s,
                "p50_ms": float(np.percentile(times, 50)),
                "p95_ms": float(np.percentile(times, 95)),
                "p50_ms, one key in ten allowed": float(np.percentile(narrowed, 50)),
            }
    return {"rows": {"documents": len(corpus), "queries": len(asked)}, **result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="of corpus.jsonl, queries.jsonl and qrels.tsv")
    parser.add_argument("--uri", default="", help="a Milvus server; Milvus Lite by default")
    options = parser.parse_args()
    result = measure(options.folder, options.uri)
    print(json.dumps(result, indent=1))
    gap = abs(result["FAISS"]["recall@10"] - result["Milvus"]["recall@10"])
    print(f"recall@10 differs by {gap:.4f}")


if __name__ == "__main__":
    main()
