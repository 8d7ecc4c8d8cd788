"""What each further collection costs a process that has it open: file descriptors, maps, threads, memory, time.

Collections of ten chunks; their size does not enter, since index files are mapped. Linux only (/proc).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import psutil

from data.records import Chunk, Document, content_id
from data.state import StateDirectory
from data.store import Store
from retrieval.generation import GenerationBuilder
from retrieval.retriever import Retriever
from tests.retrieval.hashing import HashingEmbedder

CHUNKS = 10


def fill(store: Store, builder: GenerationBuilder, collection: str) -> None:
    for number in range(CHUNKS):
        text = " ".join(f"sentence {number} {place} of {collection}" for place in range(10))
        document = Document(content_id(collection, str(number)), f"{number}.txt", "", text, "text/plain")
        chunk = Chunk(content_id(document.id, "0"), document.id, text, 0, len(text), "")
        store.documents.put(collection, document, content_id(text), [chunk])
    builder.build(collection, lambda _: None)


def taken() -> dict[str, float]:
    process = psutil.Process()
    maps = len(Path("/proc/self/maps").read_text().splitlines())
    memory_kb = process.memory_info().rss / 1000
    return {"descriptors": process.num_fds(), "maps": maps, "threads": process.num_threads(), "memory_kb": memory_kb}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--collections", type=int, default=40)
    count = parser.parse_args().collections
    with tempfile.TemporaryDirectory() as place:
        state = StateDirectory(Path(place) / "var").create()
        with Store.open(state.db) as store:
            builder = GenerationBuilder(store, state, HashingEmbedder(), {})
            for number in range(count):
                fill(store, builder, f"c{number}")
            retriever = Retriever(store, state, HashingEmbedder())
            retriever.search("sentence", "c0")
            before, started = taken(), time.process_time()
            for number in range(1, count):
                retriever.search("sentence", f"c{number}")
            cpu_ms = (time.process_time() - started) * 1000
            after = taken()
        each = {name: (after[name] - before[name]) / (count - 1) for name in before} | {"cpu_ms": cpu_ms / (count - 1)}
    print(json.dumps({"collections": count, "first": before, "each further one": each}))


if __name__ == "__main__":
    main()
