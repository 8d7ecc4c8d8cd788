"""Routing by prefix against taking turns, over two real engines: what the weight of ``service.engine.routing`` brings.

Two servers of this project's own API run the starter model, one thread each. Sets of passages are asked about
once, then twice more with other questions, in a shuffled order, by clients that ask in closed loop. Routed, a set goes
to the engine that has read it; in turns, it often goes to the other. Both sides start fresh engines and get the same
prompts; answers are greedy, so they write the same tokens. With ``--adapters`` each set of passages is read with one of
two adapters, over two engines that are no servers.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any

from bench.sides import prepare
from data.formats import read_questions
from data.prompt import answer_messages
from data.protocols import GenerationRequest, Generator
from data.records import Chunk, Document, Message, Model, Passage
from service.engine import Engine, routing
from service.engine.fleet import Fleet
from service.engine.openai import OpenAIGenerator

SAMPLES = Path(__file__).parents[1] / "data" / "samples"
PASSAGES, MAX_TOKENS, CLIENTS = 3, 24, 4
SERVER = """
import json, sys
from data.records import Model
from service.engine import Engine
from service.serve import serve
from service.settings import Settings
from service.workspace import Workspace
from tests.service.parts import HashEmbedder

model = Model(**json.loads(sys.argv[1]))
with Engine(model, n_threads=1, n_ctx=2048, sequences=4, queue_size=16) as engine:
    workspace = Workspace(Settings.load(), embedder=HashEmbedder(), generator=engine, model=model)
    serve(workspace, on_ready=lambda url: print(url, flush=True))
"""


class Turns:
    """Asks one server after the other, whatever the prompt."""

    def __init__(self, replicas: Sequence[OpenAIGenerator]) -> None:
        self._replicas, self._numbers = replicas, count()

    def stream(self, request: GenerationRequest) -> Any:
        """Ask the next one."""
        return self._replicas[next(self._numbers) % len(self._replicas)].stream(request)


@contextmanager
def replica(model: dict[str, Any]) -> Iterator[OpenAIGenerator]:
    """Start one server and wait until it serves."""
    with tempfile.TemporaryDirectory(prefix="ragtune-bench-") as state:
        environment = {**os.environ, "RAGTUNE_STATE_DIR": state, "RAGTUNE_PORT": "0", "RAGTUNE_LOG_LEVEL": "ERROR"}
        command = [sys.executable, "-c", SERVER, json.dumps(model)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
            try:
                assert process.stdout is not None
                with OpenAIGenerator(process.stdout.readline().strip() + "/v1", "", model["name"]) as generator:
                    yield generator
            finally:
                process.terminate()


def prompts(sets: int) -> tuple[list[tuple[Message, ...]], list[tuple[Message, ...]]]:
    """Return a first prompt for each set of passages, and two more over each, shuffled."""
    from retrieval.chunk import chunk
    from retrieval.load import load

    questions = [question.question for question in read_questions(SAMPLES / "questions.jsonl")]
    pieces: list[tuple[Chunk, str]] = []
    for file in sorted((SAMPLES / "corpus").glob("*.md")):
        loaded = load(file)
        document = Document(file.stem, file.name, loaded.title, loaded.text, loaded.media_type, loaded.meta)
        pieces += [(one, document.title) for one in chunk(document, lambda text: len(text.split()), 120)]
    drawn = random.Random(0)
    drawn.shuffle(pieces)
    grouped = [pieces[at : at + PASSAGES] for at in range(0, sets * PASSAGES, PASSAGES)]
    asked = drawn.sample(questions, 3 * sets)
    made = [
        [answer_messages(question, [Passage(one, 1.0, rank, "hybrid") for rank, (one, _) in enumerate(group, 1)])
         for question in asked[3 * number : 3 * number + 3]]
        for number, group in enumerate(grouped)
    ]  # fmt: skip
    later = [prompt for group in made for prompt in group[1:]]
    drawn.shuffle(later)
    return [group[0] for group in made], later


def ask(generator: Generator, messages: tuple[Message, ...], adapter: str | None) -> dict[str, float]:
    """Ask once; return what it took."""
    started, first_s, used = time.perf_counter(), 0.0, None
    for delta in generator.stream(GenerationRequest(messages, adapter, max_tokens=MAX_TOKENS, timeout_s=300)):
        if delta.text and not first_s:
            first_s = time.perf_counter() - started
        used = delta.result.usage if delta.result else used
    assert used is not None
    return {
        "first_s": first_s,
        "prompt": used.prompt_tokens,
        "cached": used.cached_tokens,
        "written": used.completion_tokens,
    }


def load(generator: Any, requests: Sequence[tuple[Message, ...]], adapters: Sequence[str] = ()) -> dict[str, float]:
    """Let the clients ask all requests, with an adapter by their passages; return what came of it."""
    named = [adapters[_number(each) % len(adapters)] if adapters else None for each in requests]
    started = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as clients:
        replies = list(clients.map(lambda messages, adapter: ask(generator, messages, adapter), requests, named))
    seconds = time.perf_counter() - started
    firsts = sorted(reply["first_s"] for reply in replies)
    return {
        "requests": len(replies),
        "seconds": round(seconds, 1),
        "written": sum(reply["written"] for reply in replies),
        "tokens_per_s": round(sum(reply["written"] for reply in replies) / seconds, 1),
        "first_p50_s": round(median(firsts), 2),
        "first_p90_s": round(firsts[int(0.9 * len(firsts))], 2),
        "cached_share": round(sum(r["cached"] for r in replies) / sum(r["prompt"] for r in replies), 3),
    }


def _number(messages: tuple[Message, ...]) -> int:
    """Return a number that prompts over the same passages share."""
    return zlib.crc32("".join(messages[-1].parts[:-1]).encode())


@contextmanager
def engine(prepared: dict[str, Any], name: str) -> Iterator[Any]:
    """Start an engine of one thread that has the packaged adapters; it has what a fleet wants of a server."""
    model = Model(**prepared["model"])
    options = {"n_threads": 1, "n_ctx": 2048, "sequences": 4, "queue_size": 16}
    with Engine(model, **options) as started:
        for adapter, file in prepared["adapters"].items():
            started.add_adapter(adapter, file, model.sha256)
        started.url = name  # type: ignore[attr-defined]
        yield started


def adapters(sets: int) -> dict[str, Any]:
    """Measure both ways, each set of passages read with one of two adapters."""
    prepared = prepare()
    first, later = prompts(sets)
    names, found = list(prepared["adapters"]), {}
    for side in ("routed", "in turns"):
        with ExitStack() as stack:
            engines = [stack.enter_context(engine(prepared, f"engine {number}")) for number in range(2)]
            generator: Any = Fleet(engines) if side == "routed" else Turns(engines)
            for adapter in names if side == "routed" else ():
                generator.add_adapter(adapter, prepared["adapters"][adapter], prepared["model"]["sha256"])
            found[side] = {"first time": load(generator, first, names), "known passages": load(generator, later, names)}
    return found


def main(arguments: list[str] | None = None) -> None:
    """Measure both ways, and print them."""
    parser = argparse.ArgumentParser(prog="python -m bench.routing", description=__doc__)
    parser.add_argument("--sets", type=int, default=16, help="sets of passages")
    parser.add_argument(
        "--request-chars", type=int, nargs="*", default=[routing.REQUEST_CHARS], help="what a request under way costs"
    )
    parser.add_argument("--adapters", action="store_true", help="each set with one of two adapters")
    options = parser.parse_args(arguments)
    if options.adapters:
        print(json.dumps(adapters(options.sets), indent=1))
        return
    model = prepare()["model"]
    first, later = prompts(options.sets)
    found: dict[str, Any] = {}
    for weight in [*options.request_chars, None]:
        routing.REQUEST_CHARS = weight or routing.REQUEST_CHARS
        with ExitStack() as stack:
            replicas = [stack.enter_context(replica(model)) for _ in range(2)]
            generator = Fleet(replicas) if weight else Turns(replicas)
            name = f"routed, {weight} characters a request" if weight else "in turns"
            found[name] = {"first time": load(generator, first), "known passages": load(generator, later)}
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
