"""A discrete-event simulation of the serving tier, checked against what one machine was measured at.

What is simulated: closed-loop clients, a router, and engines that share their time as ours does: each step reads one
stretch of one waiting prompt and writes a token of every text under way. Four figures of one machine are put in
(``MEASURED``): three of one client, and one of eight for what a further text adds to a step. What comes out is
compared with the table of bench/RESULTS.md ("Serving: many people at once"); the cells of four clients were not put
in, nor those of eight but for that one. Beyond one machine nothing was measured: those rows are the model's word.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Generator
from dataclasses import dataclass, field
from random import Random
from typing import Any

import simpy

PROMPT_TOKENS, NEW_TOKENS = 569, 32
"""Of bench.serving."""
STRETCH_TOKENS = 256
"""As the probe chose there."""


@dataclass(frozen=True, slots=True)
class Machine:
    """What an engine's steps take, in seconds.

    Attributes:
        token_read_s: to read one token of a prompt.
        step_s: a step that writes one text.
        text_s: what each further text adds to a step.
        cold_tokens: tokens read of a prompt whose passages are new.
        warm_tokens: tokens read of a prompt whose passages are known (the question and what surrounds it), and
            ``warm_s``: putting its state together, and everything else before the first token.
    """

    token_read_s: float
    step_s: float
    text_s: float
    cold_tokens: int
    warm_tokens: int
    warm_s: float


MEASURED = {
    # cold, 1 client, runs 1 to 3: first token 1.20, 1.03, 1.15 s; a stream's tokens/s 77.8, 82.6, 76.8
    "cold first token s": statistics.mean((1.20, 1.03, 1.15)),
    "stream tokens/s": statistics.mean((77.8, 82.6, 76.8)),
    # warm, 1 client, runs 1 to 3: first token 0.105, 0.096, 0.101 s
    "warm first token s": statistics.mean((0.105, 0.096, 0.101)),
    # warm, 8 clients, run 1: 13.2 tokens/s of a stream
    "stream tokens/s, 8 warm clients": 13.2,
}


def fitted() -> Machine:
    """Return the machine of ``MEASURED``."""
    token_read_s = MEASURED["cold first token s"] / PROMPT_TOKENS
    step_s = 1 / MEASURED["stream tokens/s"]
    # With eight warm clients a text waits in each step for seven others and, now and then, for another's question.
    warm = MEASURED["warm first token s"]
    steps = NEW_TOKENS / MEASURED["stream tokens/s, 8 warm clients"]
    others = 7 * warm * steps / (steps + warm)  # questions read meanwhile, by the others, each once per round
    text_s = max(0.0, (steps - others) / NEW_TOKENS - step_s) / 7
    return Machine(token_read_s, step_s, text_s, PROMPT_TOKENS, round(warm / token_read_s), 0.0)


@dataclass(slots=True)
class Request:
    """A request under way: what is left to read and to write."""

    passages: int
    read: int
    write: int
    arrived: float
    first: float | None = None
    done: simpy.Event | None = None


@dataclass(slots=True)
class Engine:
    """One engine: a process that takes a step after the other while there is work."""

    env: simpy.Environment
    machine: Machine
    memory: int
    waiting: list[Request] = field(default_factory=list)
    writing: list[Request] = field(default_factory=list)
    known: dict[int, None] = field(default_factory=dict)
    wake: simpy.Event | None = None
    busy_s: float = 0.0

    @property
    def load(self) -> int:
        """Requests under way."""
        return len(self.waiting) + len(self.writing)

    def take(self, request: Request) -> None:
        """Begin a request; what it has to read depends on what was read here before."""
        warm = request.passages in self.known
        request.read = self.machine.warm_tokens if warm else self.machine.cold_tokens
        self.known.pop(request.passages, None)
        self.known[request.passages] = None
        while len(self.known) > self.memory:
            del self.known[next(iter(self.known))]
        self.waiting.append(request)
        if self.wake is not None and not self.wake.triggered:
            self.wake.succeed()

    def run(self) -> Generator[simpy.Event, Any, None]:
        """Take steps for ever: a stretch of the first prompt that waits, and a token of every text."""
        while True:
            if not self.load:
                self.wake = self.env.event()
                yield self.wake
            took = 0.0
            if self.waiting:
                first = self.waiting[0]
                stretch = min(STRETCH_TOKENS, first.read)
                took += stretch * self.machine.token_read_s
                first.read -= stretch
            if self.writing:
                took += self.machine.step_s + self.machine.text_s * (len(self.writing) - 1)
            yield self.env.timeout(took)
            self.busy_s += took
            self._advance()

    def _advance(self) -> None:
        for request in self.writing:
            request.write -= 1
        for request in [one for one in self.writing if one.write <= 0]:
            self.writing.remove(request)
            assert request.done is not None
            request.done.succeed()
        if self.waiting and self.waiting[0].read <= 0:
            request = self.waiting.pop(0)
            request.first = self.env.now
            request.write -= 1
            self.writing.append(request)


@dataclass(frozen=True, slots=True)
class Setting:
    """What is simulated.

    Attributes:
        engines: machines behind the router.
        clients: each asks again when its answer has ended.
        topics: sets of passages that are asked about; 0: each request about another one.
        memory: sets of passages that an engine keeps.
        route: "affinity": to where the passages were read, unless that has ``slack`` more under way; "least": to
            the least loaded.
        seconds: simulated, after as many to warm up.
        requests: instead of that, so many from the start, as bench.serving asks; all topics known beforehand.
    """

    engines: int
    clients: int
    topics: int
    memory: int = 10_000
    route: str = "affinity"
    slack: int = 4
    seconds: float = 300.0
    requests: int = 0
    seed: int = 0


def simulate(setting: Setting, machine: Machine) -> dict[str, float]:
    """Return tokens per second of all and of a stream, p50 and p99 of the first token (s), how busy engines are."""
    env, random = simpy.Environment(), Random(setting.seed)
    engines = [Engine(env, machine, setting.memory) for _ in range(setting.engines)]
    for engine in engines:
        env.process(engine.run())
    fresh, finished = itertools.count(1_000_000), list[tuple[float, Request]]()
    left = itertools.count(setting.requests, -1) if setting.requests else itertools.repeat(1)
    if setting.requests:
        engines[0].known.update(dict.fromkeys(range(setting.topics)))

    def client() -> Generator[simpy.Event, Any, None]:
        while next(left) > 0:
            topic = random.randrange(setting.topics) if setting.topics else next(fresh)
            request = Request(topic, 0, NEW_TOKENS, env.now, done=env.event())
            _choose(engines, topic, setting).take(request)
            assert request.done is not None
            yield request.done
            finished.append((env.now, request))

    for _ in range(setting.clients):
        env.process(client())
    before, warmed_s = [0.0] * setting.engines, 0.0
    if setting.requests:
        env.run()
    else:
        env.run(until=setting.seconds)
        before, warmed_s = [engine.busy_s for engine in engines], setting.seconds
        env.run(until=2 * setting.seconds)
    took_s = finished[-1][0] - warmed_s
    ended = [(at, request) for at, request in finished if at > warmed_s and request.first is not None]
    first = sorted(request.first - request.arrived for _, request in ended if request.first is not None)
    streams = [(NEW_TOKENS - 1) / (at - request.first) for at, request in ended if request.first is not None]
    busy = sum(engine.busy_s - was for engine, was in zip(engines, before, strict=True))
    return {
        "total tokens/s": len(ended) * NEW_TOKENS / took_s,
        "first token p50 s": first[len(first) // 2],
        "first token p99 s": first[int(len(first) * 0.99)],
        "a stream's tokens/s": statistics.median(streams),
        "busy": busy / took_s / setting.engines,
    }


def _choose(engines: list[Engine], topic: int, setting: Setting) -> Engine:
    least = min(engines, key=lambda engine: engine.load)
    if setting.route == "least":
        return least
    readers = [engine for engine in engines if topic in engine.known]
    best = min(readers, key=lambda engine: engine.load, default=least)
    return best if best.load <= least.load + setting.slack else least


CHECKED = (
    # (name, clients, warm, measured: tokens/s, first token p50 s, a stream's tokens/s; means of the runs of RESULTS.md)
    ("cold, 1 client", 1, False, (20.3, 1.13, 79.1)),
    ("cold, 4 clients", 4, False, (21.2, 1.54, 6.8)),
    ("cold, 8 clients", 8, False, (22.0, 2.32, 3.6)),
    ("warm, 1 client", 1, True, (59.2, 0.101, 78.6)),
    ("warm, 4 clients", 4, True, (77.6, 0.216, 23.5)),
    ("warm, 8 clients", 8, True, (97.2, 0.348, 14.0)),
)


def check(machine: Machine) -> list[dict[str, Any]]:
    """Simulate what was measured and return both, with the error in percent."""
    rows = []
    for name, clients, warm, measured in CHECKED:
        found = simulate(Setting(1, clients, 50 if warm else 0, requests=24), machine)
        simulated = [found["total tokens/s"], found["first token p50 s"], found["a stream's tokens/s"]]
        errors = [100 * (have / real - 1) for have, real in zip(simulated, measured, strict=True)]
        rows.append({"cell": name, "measured": measured, "simulated": simulated, "error %": errors})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--beyond", action="store_true", help="also simulate several machines")
    options = parser.parse_args()
    machine = fitted()
    print(machine)
    for row in check(machine):
        print(json.dumps({key: _rounded(value) for key, value in row.items()}))
    if not options.beyond:
        return
    for engines, route in itertools.product((1, 2, 4, 8, 16), ("affinity", "least")):
        # Each machine with the clients of one, about more topics than one keeps.
        setting = Setting(engines, 8 * engines, topics=1600, memory=400, route=route)
        found = simulate(setting, machine)
        print(
            json.dumps({"engines": engines, "route": route, **{key: _rounded(value) for key, value in found.items()}})
        )


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.3g}")
    return [_rounded(one) for one in value] if isinstance(value, list | tuple) else value


if __name__ == "__main__":
    main()
