"""Times a model on this machine with different settings, in the child process.

Which thread count, batch size and kernels are fastest differs from processor to processor and from model to model
(flash attention reads faster everywhere measured, and on some processors writes slower), so it is measured and
not guessed. Knows nothing of where the result is kept or used.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import EngineError
from service.engine.llama import ContextOptions, LlamaContext, LlamaModel, Run

_PROMPT, _ANSWER = 512, 24
"""Tokens of the answer that settings are chosen for: two or three passages are read and a sentence is written."""
_BATCHES = (32, 64, 128, 256, 512)
_LONGEST_STRETCH_S = 0.8
"""Longest that one stretch of a prompt may take, since it delays every text that is being written."""
_WORTH = 0.98
"""A larger batch has to save so much: a smaller one delays others less."""
_STEPS = 6
_TEXT = (
    "The harbour was built in 1862, after a storm had destroyed the older pier. Its lighthouse, which stands 31 metres "
    "above the sea, was lit with oil until 1911 and with gas until 1954. Ships that carry more than two hundred tonnes "
    "have to wait for the tide. The library beside it keeps the logs of nine captains and a letter from the queen, who "
    "visited the town twice. Question: When was the harbour built? Answer: in 1862."
)


@dataclass(frozen=True, slots=True)
class Timing:
    """What one way to serve costs: seconds to read the probe's prompt, and to write one token after it."""

    n_threads: int
    n_batch: int
    flash_attention: bool
    kv_type: str
    prompt_s: float
    token_s: float

    @property
    def way(self) -> tuple[int, int, bool, str]:
        """What was set."""
        return self.n_threads, self.n_batch, self.flash_attention, self.kv_type

    @property
    def answer_s(self) -> float:
        """Seconds of the answer that settings are chosen for."""
        return self.prompt_s + _ANSWER * self.token_s


class Probe:
    """Times one model."""

    def __init__(self, gguf: Path, *, repack: bool) -> None:
        """Load the model; raises as ``LlamaModel``."""
        self._model = LlamaModel(gguf, repack=repack)
        self._prompt = _PROMPT

    def run(self, threads: Sequence[int]) -> list[Timing]:
        """Return every way that was timed, the best first.

        Args:
            threads: the thread counts to try.
        """
        start = ContextOptions(2 * _PROMPT, max(threads), 1, n_batch=64)
        rate = self._rate(start)
        batches = [size for size in _BATCHES if size / rate <= _LONGEST_STRETCH_S] or [_BATCHES[0]]
        self._prompt = max(batches[-1], min(_PROMPT, int(2 * rate)))
        middle = replace(start, n_batch=batches[len(batches) // 2])
        timed = [self._time(replace(middle, n_threads=count)) for count in threads]
        fixed = replace(middle, n_threads=min(timed, key=lambda timing: timing.answer_s).n_threads)
        ways = [replace(fixed, n_batch=size, flash_attention=flash) for size in batches for flash in (False, True)]
        timed += [timing for options in ways if options != fixed for timing in self._possible(options)]
        # Once more for the best: a moment of other work must not decide.
        timed = [self._again(timing, fixed) for timing in sorted(timed, key=lambda timing: timing.answer_s)[:3]] + timed
        best = _choose(timed[:3])
        small = replace(fixed, n_batch=best.n_batch, flash_attention=True, kv_type="q8_0")
        return [best, *(timing for timing in timed[3:] if timing.way != best.way), *self._possible(small)]

    def _possible(self, options: ContextOptions) -> list[Timing]:
        """Time one way, if the model can be served so: not every head has a kernel, or fits 8-bit blocks of 32."""
        try:
            return [self._time(options)]
        except EngineError:
            return []

    def _again(self, timing: Timing, options: ContextOptions) -> Timing:
        way = replace(
            options, n_threads=timing.n_threads, n_batch=timing.n_batch, flash_attention=timing.flash_attention
        )
        second = self._time(way)
        return replace(
            timing, prompt_s=min(timing.prompt_s, second.prompt_s), token_s=min(timing.token_s, second.token_s)
        )

    def log_probabilities(self, n_threads: int) -> NDArray[np.float64]:
        """Return the natural log-probabilities of every next token in a short text; shape (tokens, n_vocab)."""
        tokens = self._model.tokenize(_TEXT, parse_special=False)
        context = LlamaContext(self._model, ContextOptions(max(256, len(tokens)), n_threads, 1, n_batch=len(tokens)))
        try:
            logits = context.decode([Run(0, 0, tokens, 0)]).astype(np.float64)
        finally:
            context.free()
        logits -= logits.max(axis=-1, keepdims=True)
        result: NDArray[np.float64] = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        return result

    def free(self) -> None:
        """Release the model."""
        self._model.free()

    def _rate(self, options: ContextOptions) -> float:
        """Return tokens read a second, from one stretch after a first one that is not timed."""
        context = LlamaContext(self._model, options)
        try:
            tokens = self._tokens(options.n_batch)
            context.decode([Run(0, 0, tokens)])
            started = time.perf_counter()
            context.decode([Run(0, options.n_batch, tokens)])
            return options.n_batch / (time.perf_counter() - started)
        finally:
            context.free()

    def _time(self, options: ContextOptions) -> Timing:
        context = LlamaContext(self._model, options)
        try:
            context.decode([Run(0, 0, self._tokens(options.n_batch))])  # allocates
            context.keep(0, 0)
            tokens = self._tokens(self._prompt)
            started = time.perf_counter()
            for start in range(0, len(tokens), options.n_batch):
                context.decode([Run(0, start, tokens[start : start + options.n_batch])])
            prompt_s = (time.perf_counter() - started) * _PROMPT / len(tokens)
            steps = []
            for step in range(_STEPS):
                started = time.perf_counter()
                context.decode([Run(0, len(tokens) + step, tokens[step : step + 1], 0)])
                steps.append(time.perf_counter() - started)
        finally:
            context.free()
        token_s = sorted(steps)[_STEPS // 3]
        return Timing(options.n_threads, options.n_batch, options.flash_attention, options.kv_type, prompt_s, token_s)

    def _tokens(self, count: int) -> list[int]:
        text = self._model.tokenize(_TEXT, parse_special=False)
        return (text * (count // len(text) + 1))[:count]


def _choose(timed: Sequence[Timing]) -> Timing:
    """Return the fastest, but a smaller batch where a larger one gains next to nothing."""
    fastest = min(timed, key=lambda timing: timing.answer_s)
    near = [timing for timing in timed if timing.answer_s * _WORTH <= fastest.answer_s]
    return min(near, key=lambda timing: (timing.n_batch, timing.answer_s))


def probe(order: dict[str, Any]) -> dict[str, Any]:
    """Carry out the worker's order: time ``gguf``, and compare ``other`` with it where it is given.

    Returns:
        ``timings``, best first; with ``other`` also ``time_share``, the share of the time in which it answers, and
        ``divergence``, the mean KL divergence of its next-token distributions from those of ``gguf``, in nats.
    """
    repack = bool(order["repack"])
    first = Probe(Path(order["gguf"]), repack=repack)
    timings = first.run(order["threads"])
    found: dict[str, Any] = {"timings": [asdict(timing) for timing in timings]}
    if order.get("other"):
        n_threads = timings[0].n_threads
        reference = first.log_probabilities(n_threads)
        first.free()  # both together may not fit
        second = Probe(Path(order["other"]), repack=repack)
        compared = second.log_probabilities(n_threads)
        found["divergence"] = float((np.exp(reference) * (reference - compared)).sum(axis=-1).mean())
        found["time_share"] = second.run([n_threads])[0].answer_s / timings[0].answer_s
    return found
