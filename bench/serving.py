"""Many people at once: the engine against llama-server, on RAG prompts whose passages are new, then known.

Both sides get the same GGUF, LoRA, threads, context length and prompt tokens, have as many slots as there are
clients, keep what they keep by default between requests, write greedily and always as many tokens (end tokens
are forbidden). Clients ask in closed loop: each asks again as soon as its answer has ended.

- cold: questions of the samples over two to four passages of the production retriever; no passage comes twice.
- warm: in the same process, other questions over passages of the cold round, in an order that neither side has
  read: where the retriever's own order begins like an earlier prompt, the passages are rotated.
- chat: one client; ten questions about one article with all earlier turns as history, over fresh retrieval in
  every turn (as answers are served) and without passages. Turns 2 to 10 count.

Each side measures each number of clients in a fresh process, the two in turn, so that other work on the machine
meets both. llama-server's path is given; nothing of it belongs to this project.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

from bench import peers
from bench.peers import FORBIDDEN, MAX_TOKENS, N_CTX, TIMEOUT_S, LlamaServer, PythonServer, Reply
from bench.prompts import COLLECTION, conversations, rounds
from bench.sides import STATE, peak_mb, ratio, run_side
from data.formats import read_questions
from data.prompt import answer_messages
from data.protocols import GenerationRequest
from data.records import Message, Model, Usage
from service.engine import Engine
from service.engine.llama import LlamaModel
from service.engine.prompting import Prompter
from service.engine.protocol import messages_from_wire

SAMPLES = Path(__file__).parents[1] / "data" / "samples"
OURS, PEER = "ours", "peer"
RUN_FIGURES = ("peak_mb", "python_share")
"""Of a whole process, not of one of its scenarios."""


class Ours:
    """The engine."""

    def __init__(self, engine: Engine, adapter: str | None, end_tokens: Sequence[int]) -> None:
        self._engine, self._adapter = engine, adapter
        self._bias = dict.fromkeys(end_tokens, FORBIDDEN)

    def python_share(self) -> float:
        """Return the share of the time of writing that is spent outside of llama.cpp."""
        statistics = self._engine.statistics()
        return 1 - float(statistics["llama_write_s"]) / float(statistics["write_s"])

    def prepare(self, messages: tuple[Message, ...]) -> Any:
        """Return the messages: the engine renders them itself."""
        return messages

    def ask(self, prompt: Any, max_tokens: int = MAX_TOKENS) -> Reply:
        """Stream from the engine."""
        request = GenerationRequest(
            prompt, adapter=self._adapter, max_tokens=max_tokens, logit_bias=self._bias, timeout_s=TIMEOUT_S
        )
        pieces: list[str] = []
        started, first_s, used = time.perf_counter(), 0.0, Usage()
        for delta in self._engine.stream(request):
            if delta.text and not pieces:
                first_s = time.perf_counter() - started
            pieces += [delta.text] if delta.text else []
            used = delta.result.usage if delta.result else used
        total_s = time.perf_counter() - started
        counts = (used.prompt_tokens, used.cached_tokens, used.completion_tokens)
        return Reply("".join(pieces), first_s or total_s, total_s, *counts)


Side = Ours | LlamaServer | PythonServer


@contextmanager
def start_ours(setup: dict[str, Any], options: argparse.Namespace) -> Iterator[Side]:
    """Start the engine with as many sequences as clients."""
    model, adapter, slots = Model(**setup["model"]), setup["adapter"], options.clients
    with Engine(
        model, n_ctx=N_CTX, n_threads=options.threads, sequences=slots, queue_size=slots, **setup["engine"]
    ) as engine:
        if adapter:
            engine.add_adapter(adapter["name"], adapter["gguf"], model.sha256, adapter["attention"])
        yield Ours(engine, adapter["name"] if adapter else None, setup["end_tokens"])


def prepare(options: argparse.Namespace) -> None:
    """Write the model, the adapter and all prompts to ``options.prepared``."""
    from service.arms import find_adapter
    from service.settings import Settings
    from service.workspace import Workspace

    with Workspace(Settings.load(state_dir=STATE, model=options.model, embedder="starter")) as workspace:
        adapter = None
        if options.adapter != "none":
            workspace.ensure_starter_adapters()
            found = find_adapter(workspace.store, options.adapter)
            attention = options.attention or found.attention
            adapter = {"name": options.adapter, "gguf": str(workspace.adapter_gguf(found)), "attention": attention}
        workspace.ensure_tuned()
        measured = workspace.engine_options(workspace.model)
        engine = {name: getattr(measured, name) for name in ("n_batch", "flash_attention", "kv_type", "drafts")}
        model = {**asdict(workspace.model), "meta": {}}
        workspace.ingestor.ingest(COLLECTION, [SAMPLES / "corpus"])
        questions = list(read_questions(SAMPLES / "questions.jsonl"))
        cold, warm = rounds(workspace, questions, options.requests)
        prompts = {"cold": cold, "warm": warm, "chat": conversations(workspace, questions, options.conversations)}
    setup = {"model": model, "adapter": adapter, "engine": engine, **vocabulary(model["gguf"]), **prompts}
    Path(options.prepared).write_text(json.dumps(setup), encoding="utf-8")


def vocabulary(gguf: str) -> dict[str, Any]:
    """Return the tokens that would end a text, and what ``data.prompt.render`` wants of the model."""
    model = LlamaModel(Path(gguf))
    special = {"bos_token": model.bos, "eos_token": model.eos}
    names = {name: model.piece(token, special=True).decode() for name, token in special.items()}
    ends = [token for token in range(model.n_vocab) if model.is_eog(token)]
    return {"end_tokens": ends, "template": {"template": Prompter(model).template, **names}}


def measure(side: Side, setup: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Measure the rounds, or the conversations."""
    side.ask(side.prepare(answer_messages("Ready?", ())), 1)
    if options.chat:
        found: dict[str, list[Reply]] = {}
        for conversation in setup["chat"]:
            replies = converse(side, conversation["turns"], plain=conversation["kind"] == "plain")
            found.setdefault(conversation["kind"], []).extend(replies[1:])
        return {f"chat, {kind}": figures(replies, sum(r.total_s for r in replies)) for kind, replies in found.items()}
    result: dict[str, Any] = {}
    for scenario in ("cold", "warm"):
        prompts = [side.prepare(messages_from_wire(messages)) for messages in setup[scenario]]
        with ThreadPoolExecutor(options.clients) as pool:
            started = time.perf_counter()
            replies = list(pool.map(side.ask, prompts))
            result[scenario] = figures(replies, time.perf_counter() - started)
    return result


def converse(side: Side, turns: Sequence[dict[str, Any]], *, plain: bool) -> list[Reply]:
    """Ask the questions of one conversation in turn; the history holds questions and answers, no passages.

    Where there were none, questions stand as they were asked, see ``data.prompt.answer_messages``.
    """
    history: list[Message] = []
    replies = []
    for turn in turns:
        system, user = messages_from_wire(turn["messages"])
        replies.append(side.ask(side.prepare((system, *history, user))))
        asked = user if plain else Message("user", (turn["question"],))
        history += [asked, Message("assistant", (replies[-1].text,))]
    return replies


def figures(replies: Sequence[Reply], wall_s: float) -> dict[str, Any]:
    """Return rates, times to the first token and counts; ``load`` is the machine's load average at the end."""
    first = sorted(reply.first_s for reply in replies)
    found = {
        "tokens_per_s": sum(reply.new for reply in replies) / wall_s,
        "first_p50_s": median(first),
        "first_p95_s": first[math.ceil(0.95 * len(first)) - 1],
        "stream_per_s": median((r.new - 1) / max(r.total_s - r.first_s, 1e-9) for r in replies),
        "cached": sum(reply.cached or 0 for reply in replies) / sum(reply.prompt for reply in replies),
        "load": os.getloadavg()[0],
    }
    if any(reply.cached is None for reply in replies):
        del found["cached"]
    counts = {"requests": len(replies), "prompt": sum(r.prompt for r in replies), "new": sum(r.new for r in replies)}
    return {**{name: round(value, 4) for name, value in found.items()}, **counts, "texts": [r.text for r in replies]}


def compare(found: dict[str, dict[str, Any]], scenario: str, clients: int) -> dict[str, Any]:
    """Return one row: the figures of each side, and ours over the peer's where both were measured."""
    row: dict[str, Any] = {"scenario": scenario, "clients": clients}
    texts = [result[scenario].pop("texts") for result in found.values()]
    whole = {side: {name: result[name] for name in RUN_FIGURES if name in result} for side, result in found.items()}
    row |= {side: {**result[scenario], **whole[side]} for side, result in found.items()}
    if len(found) == 2:
        names = ("tokens_per_s", "first_p50_s", "first_p95_s", "stream_per_s", "peak_mb")
        row[f"{OURS}/{PEER}"] = {name: ratio(row[OURS][name], row[PEER][name]) for name in names} | {
            "same_texts": sum(a == b for a, b in zip(*texts, strict=True)),
            "same_prompt_tokens": row[OURS]["prompt"] == row[PEER]["prompt"],
        }
    return row


def table(rows: Sequence[dict[str, Any]], sides: Sequence[str]) -> Iterator[str]:
    """Yield a readable line for each row; ``a / b = c`` is ours, the peer's and their ratio."""

    def cell(row: dict[str, Any], name: str, digits: int) -> str:
        values = " / ".join(f"{row[side][name]:.{digits}f}" if name in row[side] else "–" for side in sides)
        over = row.get(f"{OURS}/{PEER}", {}).get(name)
        return values if over is None else f"{values} = {over}"

    columns = {"total tokens/s": ("tokens_per_s", 1), "first token p50 s": ("first_p50_s", 3), "load": ("load", 1)}
    columns |= {"p95 s": ("first_p95_s", 3), "a stream's tokens/s": ("stream_per_s", 1), "cached": ("cached", 2)}
    yield f"| {' / '.join(sides)} | clients | {' | '.join(columns)} |"
    yield "|---" * (len(columns) + 2) + "|"
    for row in rows:
        cells = (cell(row, name, digits) for name, digits in columns.values())
        yield f"| {row['scenario']} | {row['clients']} | {' | '.join(cells)} |"


def run(options: argparse.Namespace) -> None:
    """Prepare, run every side at every number of clients, and report."""
    passed = ["--prepared", options.prepared, "--threads", str(options.threads)]
    passed += ["--llama-server", options.llama_server, "--llama-cpp-server", options.llama_cpp_server]
    passed += [f"--server-arguments={options.server_arguments}"]
    asked = ["--model", options.model, "--adapter", options.adapter, "--attention", options.attention]
    asked += ["--requests", str(options.requests), "--conversations", str(options.conversations)]
    run_side("bench.serving", "prepare", "--prepared", options.prepared, *asked)
    rows: list[dict[str, Any]] = []
    chats = options.chats if options.conversations else 0
    for clients, chat in [(n, []) for n in options.clients_list] + [(1, ["--chat"])] * chats:
        given = [*passed, "--clients", str(clients), *chat]
        found = {side: run_side("bench.serving", side, *given) for side in options.sides}
        rows += [
            compare(found, scenario, clients) for scenario in found[options.sides[0]] if scenario not in RUN_FIGURES
        ]
        print(*table(rows[-1:], options.sides), sep="\n", flush=True)
    names = ("model", "adapter", "attention", "threads", "llama_server", "llama_cpp_server", "server_arguments")
    line = {name: getattr(options, name) for name in names}
    print(json.dumps({"bench": "serving", **line, "max_tokens": MAX_TOKENS, "rows": rows}))
    print(*table(rows, options.sides), sep="\n")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run every side and report, or be one side."""
    parser = argparse.ArgumentParser(prog="python -m bench.serving", description=__doc__)
    parser.add_argument("--llama-server", default="", help="path of the peer's program")
    parser.add_argument("--llama-cpp-server", default="", help="or a Python that has llama_cpp.server")
    parser.add_argument("--server-arguments", default="", help="more of its arguments, such as '-fa off'")
    parser.add_argument("--sides", nargs="+", choices=(OURS, PEER), default=[OURS, PEER])
    parser.add_argument("--clients-list", nargs="*", type=int, default=[1, 2, 4, 8, 16], metavar="CLIENTS")
    parser.add_argument("--requests", type=int, default=32, help="of the cold round, and of the warm round")
    parser.add_argument("--conversations", type=int, default=3, help="of ten turns; 0 leaves the chat out")
    parser.add_argument("--chats", type=int, default=1, help="how often each side, in turn, has the conversations")
    parser.add_argument("--model", default="starter")
    parser.add_argument("--adapter", default="reader", help="none measures the base model")
    parser.add_argument("--attention", choices=("", "full", "blockwise"), default="", help="instead of the adapter's")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--prepared", default=str(STATE / "serving.json"), help=argparse.SUPPRESS)
    parser.add_argument("--side", choices=("prepare", OURS, PEER), help=argparse.SUPPRESS)
    parser.add_argument("--clients", type=int, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--chat", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    peer = options.llama_server or options.llama_cpp_server
    if not peer and PEER in options.sides and options.side in (None, PEER):
        parser.error(
            "--llama-server is wanted: the path of the peer's program (or --llama-cpp-server, or --sides ours)"
        )
    if options.side is None:
        run(options)
    elif options.side == "prepare":
        prepare(options)
        print("{}")
    else:
        setup = json.loads(Path(options.prepared).read_text(encoding="utf-8"))
        start = start_ours if options.side == OURS else peers.start
        with start(setup, options) as side:
            result = measure(side, setup, options)
            if isinstance(side, Ours):
                result["python_share"] = round(side.python_share(), 4)
        print(json.dumps({**result, "peak_mb": peak_mb()}))


if __name__ == "__main__":
    main()
