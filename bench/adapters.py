"""Adapters that alternate under load: is every output that adapter's own, and what does a switch cost?

Four sets (the bare model, the reader, the pair writer, the reader at half its strength) answer the same questions.
First each answers all of them alone, one after the other; then many clients ask for any set in any order. The peer of
a switch is the same request without one, in turn. A third part sends thousands of short requests and watches the
memory of the engine's process. Nothing here is a quality figure.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

from bench.sides import prepare, ratio, read_prepared, run_side
from data.formats import read_questions
from data.prompt import answer_messages
from data.protocols import GenerationRequest
from service.engine import Engine

SAMPLES = Path(__file__).parents[1] / "data" / "samples"
MAX_TOKENS, QUESTIONS = 12, 40


def requests() -> list[list[GenerationRequest]]:
    """Return the questions without passages, one list for each set of adapters."""
    questions = [question.question for question in read_questions(SAMPLES / "questions.jsonl")][:QUESTIONS]
    plain = [GenerationRequest(answer_messages(question, ()), max_tokens=MAX_TOKENS) for question in questions]
    sets: list[dict[str, Any]] = [{}, {"adapter": "reader"}, {"adapter": "pair-writer"}]
    sets.append({"adapter": "reader", "adapter_scale": 0.5})
    return [[replace(request, **changes) for request in plain] for changes in sets]


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process in MB (10^6 bytes)."""
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":" in line)
    return round(int(fields["VmRSS"].split()[0]) * 1024 / 1e6, 1)


def alternate(engine: Engine, count: int, clients: int) -> dict[str, Any]:
    """Ask ``count`` requests of random sets at once; count those that differ from the set alone."""
    sets = requests()
    alone = [[(r.text, r.logprobs) for r in map(engine.generate, asked)] for asked in sets]
    draw = random.Random(0)
    drawn = [(draw.randrange(len(sets)), draw.randrange(QUESTIONS)) for _ in range(count)]
    before, started = engine.statistics(), time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        got = list(pool.map(lambda pair: engine.generate(sets[pair[0]][pair[1]]), drawn))
    seconds, after = time.perf_counter() - started, engine.statistics()
    wrong = sum((r.text, r.logprobs) != alone[s][q] for r, (s, q) in zip(got, drawn, strict=True))
    steps = after["write_steps"] - before["write_steps"]
    return {
        "requests": count,
        "clients": clients,
        "different": wrong,
        "switches": after["adapter_swaps"] - before["adapter_swaps"],
        "texts_a_step": round((after["written_tokens"] - before["written_tokens"]) / steps, 2),
        "requests_per_s": round(count / seconds, 2),
    }


def switch(engine: Engine, rounds: int) -> dict[str, Any]:
    """Time the same requests with and without a switch before each, in turn."""
    _, reader, writer, _ = requests()
    switched, stayed = [], []
    for n in range(rounds):
        one = replace(reader[n % QUESTIONS], max_tokens=2)
        engine.generate(one)
        engine.generate(replace(writer[n % QUESTIONS], max_tokens=2))
        for times in (switched, stayed):
            started = time.perf_counter()
            engine.generate(one)
            times.append((time.perf_counter() - started) * 1000)
    return {
        "switched_ms": round(median(switched), 2),
        "stayed_ms": round(median(stayed), 2),
        "switch_ms": round(median(a - b for a, b in zip(switched, stayed, strict=True)), 2),
        "switched/stayed": ratio(median(switched), median(stayed)),
    }


def memory(engine: Engine, count: int, clients: int) -> dict[str, Any]:
    """Send ``count`` requests of one token and return the engine's resident memory after each tenth of them."""
    sets = requests()
    draw = random.Random(1)
    drawn = [replace(sets[draw.randrange(4)][draw.randrange(QUESTIONS)], max_tokens=1) for _ in range(count)]
    pid = engine.pid or 0
    found = []
    with ThreadPoolExecutor(clients) as pool:
        for start in range(0, count, count // 10):
            list(pool.map(engine.generate, drawn[start : start + count // 10]))
            found.append(resident_mb(pid))
    return {"requests": count, "resident_mb": found, "last/second": ratio(found[-1], found[1])}


def ours(options: argparse.Namespace) -> dict[str, Any]:
    """Measure the engine."""
    model, adapters = read_prepared(options.prepared)
    with Engine(model, n_ctx=1024, n_threads=options.threads, sequences=8, queue_size=64) as engine:
        for name, path in adapters.items():
            engine.add_adapter(name, path, model.sha256)
        return {
            "alternating": alternate(engine, options.requests, options.clients),
            "switch": switch(engine, 40),
            "memory": memory(engine, options.short, options.clients),
        }


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(prog="python -m bench.adapters", description=__doc__)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--short", type=int, default=10_000, help="requests of the memory part")
    parser.add_argument("--clients", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--side", choices=("prepare", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--prepared", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.side:
        print(json.dumps(prepare() if options.side == "prepare" else ours(options)))
        return
    prepared = json.dumps(run_side("bench.adapters", "prepare"))
    passed = [f"--{name}={getattr(options, name)}" for name in ("requests", "short", "clients", "threads")]
    found = run_side("bench.adapters", "ours", "--prepared", prepared, *passed)
    print(json.dumps({"bench": "adapters", **found}))
    got, cost = found["alternating"], found["switch"]
    print(
        f"adapters: {got['different']} of {got['requests']} outputs differ from the adapter alone "
        f"({got['switches']} switches, {got['texts_a_step']} texts a step); a switch costs {cost['switch_ms']} ms; "
        f"memory {found['memory']['resident_mb'][1]} -> {found['memory']['resident_mb'][-1]} MB"
    )


if __name__ == "__main__":
    main()
