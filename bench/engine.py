"""The engine against llama-cpp-python's own ``Llama``, on requests that alternate between two adapters.

``Llama`` takes one adapter when it is made. So there are two peers: ``reload`` makes it anew at each
switch, ``resident`` keeps one for each adapter, with twice the weights in memory. All sides get the
same GGUF files, prompts, context length and threads, decode greedily, and run one after another in a
fresh process each. No two requests share a passage, so the engine's prefix reuse gains next to nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from bench.sides import peak_mb, prepare, ratio, read_prepared, run_side
from data.formats import read_questions
from data.prompt import answer_messages, pair_messages
from data.protocols import GenerationRequest
from data.records import Chunk, Message, Model, Passage
from service.engine import Engine

SAMPLES = Path(__file__).parents[1] / "data" / "samples"
CORPUS = SAMPLES / "corpus"
N_CTX, MAX_TOKENS, SEQUENCES = 2048, 32, 2
"""The engine keeps one prompt state for each adapter (its default is 4), as ``resident`` does."""
PEERS = ("reload", "resident")
Ask = Callable[[str, tuple[Message, ...]], str]


def requests(count: int) -> Iterator[tuple[str, tuple[Message, ...]]]:
    """Yield adapter and messages: a question over two passages for the reader, a third for the pair writer."""
    questions = read_questions(SAMPLES / "questions.jsonl")
    asked = {question.document for question in questions}
    others = [p for path in sorted(CORPUS.glob("*.md")) if path.name not in asked for p in paragraphs(path)]
    used: set[str] = set()
    for question in questions:
        passages = paragraphs(CORPUS / str(question.document))
        gold = next((p for p in passages if any(answer in p.chunk.text for answer in question.answers)), None)
        if gold is None or gold.chunk.id in used or len(used) == count // 2:
            continue
        near, far = others[2 * len(used) : 2 * len(used) + 2]
        used.add(gold.chunk.id)
        yield "reader", answer_messages(question.question, (gold, near))
        yield "pair-writer", pair_messages(far)


def paragraphs(path: Path) -> list[Passage]:
    """Return the paragraphs of an article as passages."""
    title, *texts = (part.strip() for part in path.read_text(encoding="utf-8").split("\n\n") if part.strip())
    heading = title.lstrip("# ")
    chunks = [Chunk(f"{path.name}{i}", path.name, text, 0, len(text), heading) for i, text in enumerate(texts)]
    return [Passage(chunk, 0.0, i, "given") for i, chunk in enumerate(chunks, 1)]


def measure(ask: Ask, count: int, started: float) -> dict[str, Any]:
    """Ask every request in turn; return seconds and texts."""
    start_s = time.perf_counter() - started
    seconds, texts = [], []
    for adapter, messages in requests(count):
        before = time.perf_counter()
        texts.append(ask(adapter, messages).strip())
        seconds.append(time.perf_counter() - before)
    figures = {"median_s": median(seconds), "total_s": sum(seconds), "start_s": start_s}
    return {**{name: round(value, 4) for name, value in figures.items()}, "texts": texts}


def ours(model: Model, adapters: dict[str, str], threads: int, count: int) -> dict[str, Any]:
    """Measure the engine: one model, both adapters beside it."""
    started = time.perf_counter()
    with Engine(model, n_ctx=N_CTX, n_threads=threads, sequences=SEQUENCES) as engine:
        for name, path in adapters.items():
            engine.add_adapter(name, path, model.sha256)

        def ask(adapter: str, messages: tuple[Message, ...]) -> str:
            return engine.generate(GenerationRequest(messages, adapter=adapter, max_tokens=MAX_TOKENS)).text

        return measure(ask, count, started)


def peer(model: Model, adapters: dict[str, str], threads: int, count: int, *, resident: bool) -> dict[str, Any]:
    """Measure ``Llama``: one for each adapter, or one that is made anew whenever the adapter changes."""
    from llama_cpp import Llama

    def load(adapter: str) -> Any:
        settings = {"n_ctx": N_CTX, "n_threads": threads, "n_threads_batch": threads, "verbose": False}
        return Llama(model.gguf, lora_path=adapters[adapter], **settings)

    started = time.perf_counter()
    loaded: dict[str, Any] = {name: load(name) for name in adapters} if resident else {}

    def ask(adapter: str, messages: tuple[Message, ...]) -> str:
        if adapter not in loaded:
            for former in list(loaded):
                loaded.pop(former).close()
            loaded[adapter] = load(adapter)
        chat = [{"role": m.role, "content": m.content} for m in messages]
        found = loaded[adapter].create_chat_completion(chat, temperature=0.0, max_tokens=MAX_TOKENS)
        return str(found["choices"][0]["message"]["content"])

    return measure(ask, count, started)


def report(found: dict[str, dict[str, Any]], count: int, threads: int) -> None:
    """Print one JSON line and a readable one for each peer."""
    texts = {side: result.pop("texts") for side, result in found.items()}
    line: dict[str, Any] = {"bench": "engine", "requests": count, "threads": threads, **found}
    for side in PEERS:
        line[f"ours/{side}"] = {
            **{key: ratio(found["ours"][key], found[side][key]) for key in ("median_s", "total_s", "peak_mb")},
            "same_texts": sum(a == b for a, b in zip(texts["ours"], texts[side], strict=True)),
        }
    print(json.dumps(line))
    for side in PEERS:
        got, all_ours, peers = line[f"ours/{side}"], found["ours"], found[side]
        print(
            f"engine / Llama ({side}): median {all_ours['median_s']:.2f} s / {peers['median_s']:.2f} s = "
            f"{got['median_s']}; total {got['total_s']}; memory {all_ours['peak_mb']:.0f} MB / "
            f"{peers['peak_mb']:.0f} MB = {got['peak_mb']}; {got['same_texts']} of {count} texts the same"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every side and report, or be one side."""
    parser = argparse.ArgumentParser(prog="python -m bench.engine", description=__doc__)
    parser.add_argument("--requests", type=int, default=24, help="how many, at most 24")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--side", choices=("prepare", "ours", *PEERS), help=argparse.SUPPRESS)
    parser.add_argument("--prepared", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    count = len(list(requests(options.requests)))
    if options.side == "prepare":
        print(json.dumps(prepare()))
    elif options.side:
        given = (*read_prepared(options.prepared), options.threads, count)
        result = ours(*given) if options.side == "ours" else peer(*given, resident=options.side == "resident")
        print(json.dumps({**result, "peak_mb": peak_mb()}))
    else:
        prepared = json.dumps(run_side("bench.engine", "prepare"))
        passed = ("--requests", str(count), "--threads", str(options.threads), "--prepared", prepared)
        report({side: run_side("bench.engine", side, *passed) for side in ("ours", *PEERS)}, count, options.threads)


if __name__ == "__main__":
    main()
