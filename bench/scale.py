"""Index, store and search at 10 thousand to a million passages, dense recall against exact search.

Sentences of SQuAD articles are embedded by MiniLM: the real part. The other passages are synthetic: a
text of four to five neighbouring real sentences and a number of its own, with the vector that mixes
the vectors of just these sentences and some noise. Queries are questions that people asked about the
articles. Every side runs in a fresh process. Embedding is not measured here: vectors are given.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bench.sides import STATE, peak_mb, run_side
from data.protocols import Vectors
from data.records import METHODS, Chunk, Document
from data.state import StateDirectory
from data.store import NewDocument, Store
from retrieval.chunk import embedded_text
from retrieval.generation import GenerationBuilder, open_generation
from retrieval.index import FaissIndex
from retrieval.retriever import Retriever

ROOT = STATE / "scale"
SIZES = (10_000, 30_000, 100_000, 1_000_000)
REAL, QUESTIONS, JUDGED = 12_000, 1000, 300
PER_DOCUMENT, DOCUMENTS = 100, 10
BLOCK = PER_DOCUMENT * DOCUMENTS
NOISE = 0.35
"""Length of the noise beside the mixture: a passage says more than its sentences one by one."""
IDLE_S = 20.0
SENTENCE = re.compile(r"(?<=[.!?])\s+")
COLLECTION = "default"


def read_real(folder: Path) -> tuple[list[str], list[str]]:
    """Return sentences (in the order of the articles) and questions from ``folder``/squad-train."""
    sentences: list[str] = []
    questions: list[str] = []
    with (folder / "squad-train" / "paragraphs.jsonl").open(encoding="utf-8") as lines:
        for row in map(json.loads, lines):
            sentences += [text for text in SENTENCE.split(row["text"]) if len(text) > 40]
            questions += [each["question"] for each in row["questions"]]
    rng = np.random.default_rng(0)
    chosen = sorted(rng.permutation(len(sentences))[:REAL])
    return [sentences[i] for i in chosen], [questions[i] for i in rng.permutation(len(questions))[:QUESTIONS]]


class Corpus:
    """Passages by number: the same text and vector whenever asked."""

    def __init__(self) -> None:
        self.sentences, self.questions = json.loads((ROOT / "real.json").read_text(encoding="utf-8"))
        self.vectors: Vectors = np.load(ROOT / "sentences.npy")
        self.queries: Vectors = np.load(ROOT / "questions.npy")

    def block(self, number: int, real: bool) -> tuple[list[str], Vectors]:
        """Return the texts and vectors of ``BLOCK`` passages: real sentences, or synthetic ones."""
        if real:
            part = slice(number * BLOCK, (number + 1) * BLOCK)
            return self.sentences[part], self.vectors[part]
        rng = np.random.default_rng((1, number))
        first = rng.integers(0, len(self.sentences), BLOCK)
        near = first[:, None] + np.concatenate([np.zeros((BLOCK, 1), int), rng.integers(-20, 21, (BLOCK, 4))], axis=1)
        near = np.clip(near, 0, len(self.sentences) - 1)
        weights = np.array([0.4, 0.2, 0.2, 0.1, 0.1], dtype=np.float32)
        mixed = np.einsum("ijk,j->ik", self.vectors[near], weights)
        mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
        mixed += rng.standard_normal(mixed.shape, dtype=np.float32) * np.float32(NOISE / math.sqrt(mixed.shape[1]))
        mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
        numbers = range(number * BLOCK, (number + 1) * BLOCK)
        texts = [
            " ".join([*(self.sentences[i] for i in row[: 4 + n % 2]), f"({n})"])
            for n, row in zip(numbers, near, strict=True)
        ]
        return texts, mixed


class GivenVectors:
    """An embedder for the bench: queries have their vectors, everything else must be in the cache."""

    fingerprint, dimension = "given", 384

    def __init__(self, corpus: Corpus) -> None:
        self._queries = dict(zip(corpus.questions, corpus.queries, strict=True))

    def embed_documents(self, texts: Sequence[str]) -> Vectors:
        """Refuse: nothing is embedded here."""
        raise AssertionError(f"{len(texts)} texts are not cached")

    def embed_queries(self, texts: Sequence[str]) -> Vectors:
        """Return the vectors of known questions."""
        return np.stack([self._queries[text] for text in texts])

    def count_tokens(self, text: str) -> int:
        """Count words."""
        return len(text.split())


def place(size: int, real: bool) -> Path:
    """Return the state directory of one size."""
    return ROOT / f"{size}{'-real' if real else ''}"


def document(number: int, texts: Sequence[str]) -> Document:
    """Return a document of these passages, each with a heading of its own."""
    return Document(f"document{number}", f"{number}.txt", f"Document {number}", "\n".join(texts), "text/plain", {})


def chunks_of(item: Document, texts: Sequence[str]) -> Iterator[Chunk]:
    """Yield one chunk for each text."""
    start = 0
    for text in texts:
        yield Chunk(f"{item.id}:{start}", item.id, text, start, start + len(text), item.title)
        start += len(text) + 1


def store_block(store: Store, first: int, texts: Sequence[str], vectors: Vectors) -> None:
    """Store ``texts`` as documents numbered from ``first``, and their vectors in the embedding cache."""
    new, cached = [], {}
    for start in range(0, len(texts), PER_DOCUMENT):
        part = texts[start : start + PER_DOCUMENT]
        item = document(first + start // PER_DOCUMENT, part)
        chunks = list(chunks_of(item, part))
        for chunk, vector in zip(chunks, vectors[start : start + PER_DOCUMENT], strict=True):
            cached[hashlib.sha256(embedded_text(chunk).encode()).hexdigest()] = vector.astype("<f4").tobytes()
        new.append(NewDocument(item, hashlib.sha256(item.text.encode()).hexdigest(), chunks))
    store.embeddings.put_many(GivenVectors.fingerprint, cached)
    store.documents.put_many(COLLECTION, new)


def build(size: int, real: bool) -> dict[str, Any]:
    """Fill a store and build its index; seconds of making the texts are left out."""
    corpus = Corpus()
    folder = place(size, real)
    shutil.rmtree(folder, ignore_errors=True)
    state = StateDirectory(folder).create()
    stored_s = 0.0
    with Store.open(state.db) as store:
        for number in range(size // BLOCK):
            texts, vectors = corpus.block(number, real)
            started = time.perf_counter()
            store_block(store, number * DOCUMENTS, texts, vectors)
            stored_s += time.perf_counter() - started
        before = peak_mb()
        started = time.perf_counter()
        generation = GenerationBuilder(store, state, GivenVectors(corpus), {}).build(COLLECTION, lambda _: None)
        built_s = time.perf_counter() - started
        segments = FaissIndex(state.index(COLLECTION, generation) / "dense", GivenVectors.dimension).kinds()
    index_mb = sum(path.stat().st_size for path in state.index(COLLECTION).rglob("*") if path.is_file()) / 1e6
    found = {"store_s": round(stored_s, 2), "index_s": round(built_s, 2), "segments": segments}
    found |= {
        "us_per_chunk": round((stored_s + built_s) / size * 1e6, 1),
        "peak_mb": peak_mb(),
        "peak_before_mb": before,
    }
    return found | {"index_mb": round(index_mb, 1), "database_mb": round(state.db.stat().st_size / 1e6, 1)}


def truth(size: int, real: bool) -> dict[str, Any]:
    """Find the ten nearest passages of the judged queries by comparing all of them."""
    corpus = Corpus()
    queries = corpus.queries[:JUDGED]
    scores, rows = np.full((JUDGED, 10), -2.0, dtype=np.float32), np.full((JUDGED, 10), -1)
    for number in range(size // BLOCK):
        found = queries @ corpus.block(number, real)[1].T
        scores = np.concatenate([scores, found], axis=1)
        here = np.broadcast_to(np.arange(number * BLOCK, (number + 1) * BLOCK), found.shape)
        rows = np.concatenate([rows, here], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :10]
        scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
    np.save(place(size, real) / "truth.npy", rows)
    return {
        "cosine_of_first": round(float(scores[:, 0].mean()), 3),
        "cosine_of_tenth": round(float(scores[:, 9].mean()), 3),
    }


def resident_mb() -> dict[str, float]:
    """Return the resident memory of this process by kind, in MB (10^6 bytes)."""
    fields = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    kinds = {"all": "VmRSS", "own": "RssAnon", "mapped_files": "RssFile"}
    return {name: round(int(fields[field].split()[0]) * 1024 / 1e6, 1) for name, field in kinds.items()}


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return median and 99th percentile in milliseconds."""
    return {f"p{p}_ms": round(float(np.percentile(seconds, p)) * 1e3, 2) for p in (50, 99)}


def timed(call: Callable[[str], object], questions: Sequence[str]) -> dict[str, float]:
    """Time one call per question, the first twenty left out."""
    seconds = []
    for number, question in enumerate(questions):
        started = time.perf_counter()
        call(question)
        if number >= 20:
            seconds.append(time.perf_counter() - started)
    return percentiles(seconds)


def serve(size: int, real: bool) -> dict[str, Any]:
    """Search from a fresh process: latency of each method, recall, memory; then the embedder beside it."""
    corpus, state = Corpus(), StateDirectory(place(size, real))
    found: dict[str, Any] = {"resident_before": resident_mb()}
    with Store.open(state.db) as store:
        embedder = GivenVectors(corpus)
        retriever = Retriever(store, state, embedder)
        started = time.perf_counter()
        retriever.search(corpus.questions[0], COLLECTION)
        found["first_search_ms"] = round((time.perf_counter() - started) * 1e3, 1)
        for method in METHODS:
            found[method] = timed(partial(retriever.search, collection=COLLECTION, method=method), corpus.questions)
        found["resident"] = resident_mb()
        found["recall_at_10"] = recall(store, state, corpus, size, real)
    from retrieval.embed import SentenceTransformerEmbedder, starter_embedder_path

    minilm = SentenceTransformerEmbedder(starter_embedder_path())
    found["embed_query"] = timed(lambda text: minilm.embed_queries([text]), corpus.questions[:220])
    found["resident_with_embedder"] = resident_mb()
    return found


def recall(store: Store, state: StateDirectory, corpus: Corpus, size: int, real: bool) -> float:
    """Return the share of the exact ten nearest that the dense leg finds among its ten."""
    number = store.collections.current_generation(COLLECTION)
    generation = open_generation(state.index(COLLECTION, int(number or 0)))
    keys = store.chunks.key_array(COLLECTION)
    exact = keys[np.load(place(size, real) / "truth.npy")]
    shared = 0
    for vector, wanted in zip(corpus.queries[:JUDGED], exact, strict=True):
        hits = generation.search("", vector[None], "dense", 10)
        shared += len({hit.key for hit in hits} & set(wanted.tolist()))
    return round(float(shared / exact.size), 4)


def change(size: int, real: bool) -> dict[str, Any]:
    """Replace one document in a hundred, then bring the index up to date; as nice as the server's jobs are."""
    os.nice(10)
    corpus, state = Corpus(), StateDirectory(place(size, real))
    with Store.open(state.db) as store:
        changed = max(1, size // PER_DOCUMENT // 100)
        texts, vectors = zip(*(corpus.block(10**6 + n, False) for n in range(-(-changed // DOCUMENTS))), strict=True)
        flat = [text for block in texts for text in block][: changed * PER_DOCUMENT]
        for number in range(changed):
            store.documents.delete(f"document{number * 100}")
        store_block(store, 10**6, flat, np.concatenate(vectors)[: len(flat)])
        started = time.perf_counter()
        generation = GenerationBuilder(store, state, GivenVectors(corpus), {}).build(COLLECTION, lambda _: None)
        ended = time.perf_counter()  # One clock for all processes of a machine.
        return {
            "changed": changed * PER_DOCUMENT,
            "rebuild_s": round(ended - started, 2),
            "rebuild": [started, ended],
            "generation": generation,
        }


def live(size: int, real: bool) -> dict[str, Any]:
    """Search without pause, idle, while another process rebuilds, over the swap, and over a rollback."""
    corpus, state = Corpus(), StateDirectory(place(size, real))
    rows: list[tuple[float, float, int]] = []
    failed: list[str] = []
    stop = threading.Event()
    with Store.open(state.db) as store:
        retriever = Retriever(store, state, GivenVectors(corpus))

        def search() -> None:
            for number in range(10**9):
                if stop.wait(0.005):
                    return
                began = time.perf_counter()
                try:
                    served = retriever.retrieve(corpus.questions[number % QUESTIONS], COLLECTION).generation
                    rows.append((began, time.perf_counter() - began, served))
                except Exception as error:
                    failed.append(repr(error))

        thread = threading.Thread(target=search)
        thread.start()
        time.sleep(2)
        marks = [time.perf_counter()]
        time.sleep(IDLE_S)
        marks.append(time.perf_counter())
        changed = run_side("bench.scale", "change", "--size", str(size), *(["--real"] if real else []))
        marks.append(time.perf_counter())
        time.sleep(3)
        started = time.perf_counter()
        back = GenerationBuilder(store, state, GivenVectors(corpus), {}).rollback(COLLECTION)
        rolled_s = time.perf_counter() - started
        time.sleep(3)
        stop.set()
        thread.join()
    swap = next(row for row in rows if row[2] == changed["generation"])
    undone = next(row for row in rows if row[0] > marks[2] + 2 and row[2] == back)
    idle = [row[1] for row in rows if marks[0] <= row[0] < marks[1]]
    started, ended = changed.pop("rebuild")
    storing = [row[1] for row in rows if marks[1] <= row[0] < started]
    during = [row[1] for row in rows if started <= row[0] < min(ended, swap[0])]
    return changed | {
        "queries": len(rows),
        "failed": failed[:3],
        "failures": len(failed),
        "idle": percentiles(idle),
        "while_storing": percentiles(storing),
        "during_rebuild": percentiles(during),
        "p99_ratio": round(float(np.percentile(during, 99) / np.percentile(idle, 99)), 2),
        "swap_ms": round(swap[1] * 1e3, 1),
        "rollback_call_ms": round(rolled_s * 1e3, 1),
        "rollback_first_query_ms": round(undone[1] * 1e3, 1),
    }


def prepare(folder: Path) -> None:
    """Embed the real sentences and questions once; the vectors are kept for the next run."""
    ROOT.mkdir(parents=True, exist_ok=True)
    if (ROOT / "questions.npy").exists():
        return
    from retrieval.embed import SentenceTransformerEmbedder, starter_embedder_path

    sentences, questions = read_real(folder)
    embedder = SentenceTransformerEmbedder(starter_embedder_path())
    (ROOT / "real.json").write_text(json.dumps([sentences, questions]), encoding="utf-8")
    np.save(ROOT / "sentences.npy", embedder.embed_documents(sentences))
    np.save(ROOT / "questions.npy", embedder.embed_queries(questions))


def slope(costs: dict[int, float]) -> float:
    """Return the exponent of the seconds over the passages, by least squares in logarithms (1: linear)."""
    sizes = sorted(costs)
    return round(float(np.polyfit(np.log(sizes), np.log([costs[size] for size in sizes]), 1)[0]), 3)


SIDES: dict[str, Callable[[int, bool], dict[str, Any]]] = {
    "build": build,
    "truth": truth,
    "serve": serve,
    "change": change,
    "live": live,
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every size, or run one side of one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, help="folder that holds squad-train/paragraphs.jsonl")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--size", type=int)
    parser.add_argument("--real", action="store_true")
    parser.add_argument("--keep", action="store_true", help="keep the stores and indexes")
    options = parser.parse_args(arguments)
    if options.side:
        print(json.dumps(SIDES[options.side](options.size, options.real)))
        return
    if options.data is None and not (ROOT / "questions.npy").exists():
        raise SystemExit("scale: --data FOLDER is needed for the first run: it holds squad-train/paragraphs.jsonl")
    os.environ["OMP_NUM_THREADS"] = "1"
    if not (ROOT / "questions.npy").exists():
        subprocess.run(
            [sys.executable, "-c", f"from bench.scale import *; prepare(Path({str(options.data)!r}))"], check=True
        )
    costs: dict[int, float] = {}
    for size, real in [(10_000, True), *((size, False) for size in options.sizes)]:
        result: dict[str, Any] = {"size": size, "text": "real" if real else "synthetic"}
        for side in ("build", "truth", "serve", "live"):
            result[side] = run_side("bench.scale", side, "--size", str(size), *(["--real"] if real else []))
        if not real:
            costs[size] = result["build"]["store_s"] + result["build"]["index_s"]
        print(json.dumps(result), flush=True)
        if not options.keep:
            shutil.rmtree(place(size, real), ignore_errors=True)
    if len(costs) > 1:
        print(json.dumps({"ingest_slope": slope(costs)}))


if __name__ == "__main__":
    main()
