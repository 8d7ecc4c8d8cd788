"""Ingest a folder of Markdown, against LangChain: same token budget, same MiniLM weights, both into FAISS.

Ours stores documents and chunks durably, and builds a dense and a lexical index that are checked
before they serve; the peer is a ``TextLoader``, a ``RecursiveCharacterTextSplitter`` that counts with
the model's tokenizer, ``HuggingFaceEmbeddings`` and ``FAISS``, saved to disk. The peer needs
langchain-community and langchain-huggingface, which may be in an environment of their own
(``--peer-python``).
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.sides import peak_mb, ratio, run_side

CHUNK_SIZE = 200


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


def langchain(folder: Path) -> dict[str, Any]:
    """Ingest with LangChain; the clock starts when the model is loaded."""
    from langchain_community.document_loaders import TextLoader
    from langchain_community.vectorstores import FAISS
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


SIDES = {"ours": ours, "langchain": langchain}


def main(arguments: list[str] | None = None) -> None:
    """Run both sides, or one of them (``--side``), and print what they took."""
    parser = argparse.ArgumentParser(prog="python -m bench ingest", description=__doc__)
    parser.add_argument("--folder", type=Path, default=Path("data/samples/corpus"), help="a folder of Markdown files")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter that has LangChain")
    parser.add_argument("--side", choices=SIDES, help="run this side only, in this process")
    options = parser.parse_args(arguments)
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
