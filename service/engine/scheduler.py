"""Continuous batching: which tasks are in the streams, and what each step decodes.

A step decodes for one set of adapters, since llama.cpp applies adapters to a whole context: one stretch of one
prompt, then one token of every text that is being written with them. A prompt of any length so delays the others
by one stretch at a time. Knows nothing of sockets or processes.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from data.errors import EngineError, EngineTimeout, RagtuneError
from service.engine.batching import StepCosts, draft_length, split
from service.engine.kvstore import KVStore
from service.engine.llama import LlamaContext, Run
from service.engine.loras import AdapterTable
from service.engine.prompting import check_fits
from service.engine.reading import Reader
from service.engine.sampling import log_normalizers
from service.engine.streams import AdapterSet, Stream, StreamTable
from service.engine.tasks import Task, Writing

QUANTUM_S = 0.25
"""How long one set of adapters is served while others wait: a change costs some milliseconds."""
_PATIENCE_TOKENS_PER_S = 200.0
"""What a second of waiting is worth against a shorter prompt, in tokens left to read: long ones are not starved."""
_ACCEPTANCE_PRIOR, _ACCEPTANCE_WEIGHT = 0.6, 0.05


@dataclass(slots=True)
class Statistics:
    """What was done since the start; times in seconds."""

    requests: int = 0
    cancelled: int = 0
    failed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    read_tokens: int = 0
    read_s: float = 0.0
    written_tokens: int = 0
    write_steps: int = 0
    write_s: float = 0.0
    llama_write_s: float = 0.0
    adapter_swaps: int = 0
    guessed_tokens: int = 0
    guessed_right: int = 0


@dataclass(slots=True)
class Scheduler:
    """Runs tasks in the streams of one context."""

    context: LlamaContext
    adapters: AdapterTable
    reader: Reader
    store: KVStore
    streams: StreamTable
    longest_draft: int = 0
    together: StepCosts = field(default_factory=StepCosts)
    alone: StepCosts = field(default_factory=StepCosts)
    statistics: Statistics = field(default_factory=Statistics)
    _waiting: deque[Task] = field(default_factory=deque)
    _running: list[Task] = field(default_factory=list)
    _turn: AdapterSet = ()
    _turn_since: float = 0.0
    _acceptance: float = _ACCEPTANCE_PRIOR

    @property
    def idle(self) -> bool:
        """Whether there is nothing to do."""
        return not self._waiting and not self._running

    def submit(self, task: Task) -> None:
        """Queue a task.

        Raises:
            ContextOverflow: prompt and what follows it do not fit.
            UnknownAdapter: an adapter was not added.
            InvalidRequest: adapters that do not go together.
        """
        check_fits(task.prompt, task.new_tokens, self.context.n_ctx)
        self.adapters.check(task.adapters)
        self._waiting.append(task)

    def cancel(self, number: int) -> None:
        """Stop the task of an order, if it still runs, before the next step."""
        for task in (*self._waiting, *self._running):
            if task.id == number:
                task.cancelled = True

    def owner(self, grammar: object) -> int | None:
        """Return the order whose task follows this grammar, None if there is none. From any thread."""
        tasks = (*self._running, *self._waiting)
        return next((task.id for task in tasks if isinstance(task, Writing) and task.grammar is grammar), None)

    def step(self) -> None:
        """Start what can start and decode once for the adapters whose turn it is."""
        self._end_unwanted()
        self._admit()
        if not self._running:
            return
        adapters = self._choose_turn()
        group = [task for task in self._running if task.adapters == adapters]
        try:
            self._swap(adapters)
        except RagtuneError as error:  # an adapter's file is gone: the others are served
            for task in group:
                self._fail(task, error)
            return
        reading = [task for task in group if task.pending is not None]
        if reading:
            now = time.monotonic()
            self._read(min(reading, key=lambda t: t.left_to_read - (now - t.arrived) * _PATIENCE_TOKENS_PER_S))
        writing = [task for task in group if isinstance(task, Writing) and task.next_token is not None]
        if writing:
            self._write(writing, alone=len(self._running) == 1)

    def _swap(self, adapters: AdapterSet) -> None:
        if self.context.set_adapters(self.adapters.handles(adapters)):
            self.statistics.adapter_swaps += 1
            self.adapters.shrink(name for task in self._running for name, _ in task.adapters)

    def flush_adapter(self, key: str) -> None:
        """Let the context forget everything of an adapter that is about to go; its tasks fail."""
        for task in [t for t in (*self._waiting, *self._running) if any(name == key for name, _ in t.adapters)]:
            self._fail(task, EngineError("The adapter was removed while it was used", got=key))
        self.context.set_adapters([])
        self.streams.forget(key)

    def report(self) -> dict[str, Any]:
        """Return what is going on and what was done, as JSON values."""
        return {
            **asdict(self.statistics),
            "waiting": len(self._waiting),
            "running": len(self._running),
            "streams": len(self.streams.streams),
            "adapters_loaded": self.adapters.loaded,
            "step_ms": self.together.table(),
            "draft_ms": self.alone.table(),
            "acceptance": round(self._acceptance, 3),
            "kv": asdict(self.store.statistics),
        }

    def _end_unwanted(self) -> None:
        now = time.monotonic()
        for task in [*self._waiting, *self._running]:
            if task.cancelled:
                self._cancel(task)
            elif now - task.arrived > task.timeout_s:
                self._fail(
                    task,
                    EngineTimeout(
                        "The generation took too long",
                        got=f"more than {task.timeout_s:g} s",
                        hint="Allow more time, ask for fewer tokens, or use a smaller model.",
                    ),
                )

    def _admit(self) -> None:
        while self._waiting and self.streams.free:
            task = self._waiting.popleft()
            self._running.append(task)
            self._guarded(task, self._begin, task)

    def _begin(self, task: Task) -> None:
        blockwise = bool(task.prompt.passages) and self.adapters.blockwise(task.adapters)
        fingerprint = self.adapters.fingerprint(task.adapters)
        ends = task.prompt.ends(self.context.n_batch)
        stream, reused = self.streams.take(task.adapters, task.prompt, ends, stitched=blockwise)
        task.stream = stream
        self._keep_evicted(stream, reused)
        stream.adapters = task.adapters
        self.statistics.requests += 1
        self.statistics.prompt_tokens += len(task.prompt.tokens)
        task.begin(self.reader.read(stream, task.prompt, reused, fingerprint, blockwise=blockwise))
        self._settle(task)

    def _keep_evicted(self, stream: Stream, reused: int) -> None:
        if reused < stream.read:
            self.reader.keep_prefix(stream, self.adapters.fingerprint(stream.adapters))

    def _choose_turn(self) -> AdapterSet:
        """Return the adapters to serve: in turn, each for a quantum while others wait."""
        present = list(dict.fromkeys(task.adapters for task in self._running))
        now = time.monotonic()
        if self._turn not in present or (len(present) > 1 and now - self._turn_since > QUANTUM_S):
            # The one whose task has waited longest among the others; a turn's end puts its tasks last.
            others = [adapters for adapters in present if adapters != self._turn] or present
            self._running.sort(key=lambda task: task.adapters == self._turn)
            self._turn, self._turn_since = others[0], now
        return self._turn

    def _read(self, task: Task) -> None:
        run = task.pending
        assert run is not None
        started = time.perf_counter()

        def decode() -> None:
            rows = self.context.decode([run])
            self.statistics.read_tokens += len(run.tokens)
            self.statistics.read_s += time.perf_counter() - started
            task.read_on(rows)

        self._guarded(task, decode)
        self._settle(task)

    def _write(self, tasks: Sequence[Writing], *, alone: bool) -> None:
        started, computed = time.perf_counter(), self.context.computed_s
        by_stream = {task.stream.number: task for task in tasks if task.stream is not None}
        if alone:
            self._write_alone(tasks[0])
        else:
            for span in split(sorted(by_stream), self.together):
                self._write_span(span, by_stream)
        self.statistics.write_steps += 1
        self.statistics.write_s += time.perf_counter() - started
        self.statistics.llama_write_s += self.context.computed_s - computed

    def _write_span(self, span: range, by_stream: dict[int, Writing]) -> None:
        """Decode one token in each stream of a span; in those that do not write, one that is forgotten at once."""
        wanted = [number for number in span if number in by_stream]
        runs = [self._next_run(number, by_stream.get(number)) for number in span]
        started = time.perf_counter()
        try:
            rows = self.context.decode(runs)
        except RagtuneError as error:
            for number in wanted:
                self._fail(by_stream[number], error)
            return
        finally:
            for run in runs:
                if run.sequence not in by_stream:
                    self.context.keep(run.sequence, run.position)
        took = time.perf_counter() - started
        self.together.add(len(span), took)
        normalizers = log_normalizers(rows)
        for row, normalizer, number in zip(rows, normalizers, wanted, strict=True):
            task = by_stream[number]
            self._wrote(task)
            self._guarded(task, task.take, row, float(normalizer))
            self._settle(task)

    def _next_run(self, number: int, task: Writing | None) -> Run:
        if task is None:
            held = self.context.length(number)
            return Run(number, held, (0,))
        assert task.stream is not None
        assert task.next_token is not None
        return Run(number, len(task.stream.tokens), (task.next_token,), 0)

    def _write_alone(self, task: Writing) -> None:
        """Decode the next token and, where that pays, guesses of those after it; the wrong ones are forgotten."""
        assert task.stream is not None
        assert task.next_token is not None
        stream = task.stream
        guesses = task.draft(draft_length(self._acceptance, self.alone, self.longest_draft))
        run = Run(stream.number, len(stream.tokens), (task.next_token, *guesses), 0)
        started = time.perf_counter()

        def decode() -> None:
            rows = self.context.decode([run])
            took = time.perf_counter() - started
            self.alone.add(len(run.tokens), took)
            if not guesses:
                self.together.add(1, took)
            normalizers = log_normalizers(rows)
            for place, (row, normalizer) in enumerate(zip(rows, normalizers, strict=True)):
                self._wrote(task)
                task.take(row, float(normalizer))
                if place == len(guesses) or task.next_token != guesses[place]:
                    break
            if guesses:
                self._judge_guesses(place, len(guesses))
                self.context.keep(stream.number, len(stream.tokens))

        self._guarded(task, decode)
        self._settle(task)

    def _judge_guesses(self, right: int, made: int) -> None:
        self.statistics.guessed_tokens += made
        self.statistics.guessed_right += right
        tried = right + (right < made)
        self._acceptance += _ACCEPTANCE_WEIGHT * tried * (right / tried - self._acceptance)

    def _wrote(self, task: Writing) -> None:
        assert task.stream is not None
        assert task.next_token is not None
        task.stream.tokens.append(task.next_token)
        self.statistics.written_tokens += 1

    def _guarded(self, task: Task, action: Callable[..., None], *arguments: Any) -> None:
        try:
            action(*arguments)
        except RagtuneError as error:
            self._fail(task, error)
        except (ArithmeticError, LookupError, TypeError, ValueError) as error:  # a bug must not cost the others
            self._fail(task, EngineError(f"The generation failed: {type(error).__name__}: {error}"))

    def _settle(self, task: Task) -> None:
        """Free the stream of a task that has ended."""
        if task in self._running and task.pending is None and getattr(task, "next_token", None) is None:
            self.statistics.cached_tokens += task.cached
            self._release(task)

    def _cancel(self, task: Task) -> None:
        self.statistics.cancelled += 1
        if isinstance(task, Writing):
            task.cancel()
        else:
            task.reply.done(None)
        self._release(task)

    def _fail(self, task: Task, error: RagtuneError) -> None:
        self.statistics.failed += 1
        task.reply.fail(error)
        if task.stream is not None:
            self.context.keep(task.stream.number, 0)
            task.stream.forget()
        self._release(task)

    def _release(self, task: Task) -> None:
        if task in self._waiting:
            self._waiting.remove(task)
        if task in self._running:
            self._running.remove(task)
        if task.stream is not None:
            if task.pending is not None:  # half read: what is there fits no record
                self.context.keep(task.stream.number, 0)
                task.stream.forget()
            task.stream.busy = False
        task.close()
