"""Ingest a folder of Markdown, against LangChain: same token budget, same MiniLM weights, both into FAISS.

Ours stores documents and chunks durably, and builds a dense and a lexical index that are checked
before they serve; the peer is a ``TextLoader``, a ``RecursiveCharacterTextSplitter`` that counts with
the model's tokenizer, ``HuggingFaceEmbeddings`` and ``FAISS``, saved to disk. The peer needs
langchain-community and langchain-huggingface, which may be in an environment of their own
(``--peer-python``). ``--ranking FOLDER`` instead lets both sides, as they were set there, rank a set with
corpus.jsonl, queries.jsonl and qrels.tsv: a document ranks where its best chunk does.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.retrieval import rows
from bench.sides import peak_mb, ratio, run_side

CHUNK_SIZE = 200
_DEPTH = 100


def ours(folder: Path) -> dict[str, Any]:
    """Ingest with ragtune; the clock starts when the model is loaded."""
    from service.settings import Settings
    from service.workspace import Workspace

    with tempfile.TemporaryDirectory(prefix="ragtune-bench-") as state:
        settings = Settings.load(state_dir=Path(state), embedder="starter", chunk_size=CHUNK_SIZE, chunk_overlap=0)
        with Workspace(settings) as workspace:
            workspace.embedder.embed_documents(["Load the model."])
            loaded_mb, started = peak_mb(), time.perf_counter()
            report = workspace.ingestor.ingest("default", [folder])
            seconds = time.perf_counter() - started
            chunks = sum(row["chunks"] for row in report.indexed)
            characters = sum(len(chunk.text) for _, chunk, _ in workspace.store.chunks.iterate("default"))
    return _result(len(report.indexed), chunks, characters, seconds, loaded_mb)


def _langchain_parts() -> tuple[Any, Any]:
    """Return LangChain's splitter and embeddings, both of the starter's MiniLM, with the model loaded."""
    from langchain_huggingface import HuggingFaceEmbeddings
    from langchain_text_splitters import RecursiveCharacterTextSplitter
    from transformers import AutoTokenizer

    from retrieval.embed import starter_embedder_path

    model = str(starter_embedder_path())
    embeddings = HuggingFaceEmbeddings(
        model_name=model, model_kwargs={"device": "cpu"}, encode_kwargs={"normalize_embeddings": True}
    )
    embeddings.embed_documents(["Load the model."])
    splitter = RecursiveCharacterTextSplitter.from_huggingface_tokenizer(
        AutoTokenizer.from_pretrained(model), chunk_size=CHUNK_SIZE, chunk_overlap=0
    )
    return splitter, embeddings


def langchain(folder: Path) -> dict[str, Any]:
    """Ingest with LangChain; the clock starts when the model is loaded."""
    from langchain_community.document_loaders import TextLoader
    from langchain_community.vectorstores import FAISS

    splitter, embeddings = _langchain_parts()
    loaded_mb, started = peak_mb(), time.perf_counter()
    files = sorted(folder.rglob("*.md"))
    documents = [document for file in files for document in TextLoader(str(file), encoding="utf-8").load()]
    chunks = splitter.split_documents(documents)
    with tempfile.TemporaryDirectory(prefix="langchain-bench-") as saved:
        FAISS.from_documents(chunks, embeddings).save_local(saved)
        seconds = time.perf_counter() - started
    return _result(len(files), len(chunks), sum(len(chunk.page_content) for chunk in chunks), seconds, loaded_mb)


def _result(files: int, chunks: int, characters: int, seconds: float, loaded_mb: float) -> dict[str, Any]:
    facts = {"files": files, "chunks": chunks, "characters": characters, "seconds": round(seconds, 2)}
    facts |= {"chunks_per_s": round(chunks / seconds, 1), "characters_per_s": round(characters / seconds)}
    return facts | {"loaded_mb": loaded_mb, "peak_mb": peak_mb()}


def langchain_ranking(folder: Path) -> dict[str, Any]:
    """Return the documents of a labelled set that LangChain's FAISS store finds for each query, best first."""
    from langchain_community.vectorstores import FAISS
    from langchain_core.documents import Document

    splitter, embeddings = _langchain_parts()
    documents = [
        Document(page_content=f"{row.get('title') or ''}\n\n{row['text']}", metadata={"id": str(row["id"])})
        for row in rows(folder / "corpus.jsonl")
    ]
    store = FAISS.from_documents(splitter.split_documents(documents), embeddings)
    found = {}
    for row in rows(folder / "queries.jsonl"):
        hits = store.similarity_search(row["text"], k=_DEPTH)
        found[str(row["id"])] = list(dict.fromkeys(hit.metadata["id"] for hit in hits))
    return found


def rank(folder: Path, peer_python: str) -> dict[str, Any]:
    """Return the measures of both sides' rankings of a labelled set, and their paired differences."""
    from retrieval.embed import SentenceTransformerEmbedder, starter_embedder_path
    from retrieval.evaluate import rank_corpus
    from retrieval.measures import compare

    files = [folder / name for name in ("corpus.jsonl", "queries.jsonl", "qrels.tsv")]
    ranked = rank_corpus(*files, SentenceTransformerEmbedder(starter_embedder_path()), chunk_size=CHUNK_SIZE)
    peer = run_side("bench.ingest", "langchain-ranking", "--folder", str(folder), python=peer_python)
    rankings = {**ranked.rankings, "langchain": {name: peer[name] for name in ranked.asked}}
    return compare(rankings, ranked.relevant)


SIDES = {"ours": ours, "langchain": langchain, "langchain-ranking": langchain_ranking}


def main(arguments: list[str] | None = None) -> None:
    """Run both sides, or one of them (``--side``), and print what they took."""
    parser = argparse.ArgumentParser(prog="python -m bench ingest", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("data/samples/corpus"), help="a folder of Markdown files")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has LangChain")
    parser.add_argument("--side", choices=SIDES, help="run this side only, in this process")
    parser.add_argument("--ranking", type=Path, help="rank this labelled set instead, cranfield for one")
    options = parser.parse_args(arguments)
    if options.ranking:
        result = rank(options.ranking, options.peer_python)
        print(json.dumps({"ranking": result}))
        for method, figures in result["methods"].items():
            print(f"{method:>18}: nDCG@10 {figures['ndcg@10']:.4f}  recall@5 {figures['recall@5']:.4f}")
        return
    if options.side:
        print(json.dumps(SIDES[options.side](options.folder)))
        return
    pythons = {"ours": sys.executable, "langchain": options.peer_python}
    found: dict[str, Any] = {}
    for side, python in pythons.items():
        started = time.perf_counter()
        found[side] = run_side("bench.ingest", side, "--folder", str(options.folder), python=python)
        found[side]["process_s"] = round(time.perf_counter() - started, 1)
    names = ("chunks_per_s", "characters_per_s", "seconds", "process_s", "peak_mb")
    found["ratio"] = {name: ratio(found["ours"][name], found["langchain"][name]) for name in names}
    print(json.dumps({"ingest": found}))
    for name in names:
        print(f"{name:>18}: {found['ours'][name]:>9} / {found['langchain'][name]:<9} = {found['ratio'][name]}")


if __name__ == "__main__":
    main()
