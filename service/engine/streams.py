"""Which sequence of the context holds which tokens, and how much of a new prompt it spares.

A prompt is read in stretches that follow from its tokens (``Prompt.ends``), and only whole stretches are
reused: their state is to the last bit the one a cold run would compute. The one exception are tokens that the
model itself wrote: they were computed one by one, a following prompt that begins with them reuses them, and its
logits may differ in the last bits from those of a cold run; nothing behind them counts as exact. A sequence never
serves another set of adapters than the one that filled it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from service.engine.prompting import Prompt

AdapterSet = tuple[tuple[str, float], ...]
"""Adapters by key, each with its scale; empty for the bare model."""


@dataclass(slots=True)
class Stream:
    """One sequence of the context.

    Attributes:
        number: llama.cpp's id of the sequence.
        adapters: that computed what it holds.
        tokens: that it holds: the prompt, then what was written.
        prompt: that it was last read for, None while one is being read.
        logits: after the prompt.
        stitched: whether its passages were computed apart.
        exact: how many tokens, from the first, are in the state of a cold run to the last bit.
        busy: whether a request runs in it.
        used: when it was last taken, in takes.
    """

    number: int
    adapters: AdapterSet = ()
    tokens: list[int] = field(default_factory=list)
    prompt: Prompt | None = None
    logits: NDArray[np.float32] | None = None
    stitched: bool = False
    exact: int = 0
    busy: bool = False
    used: int = 0

    @property
    def read(self) -> int:
        """How many of its tokens are the prompt."""
        return len(self.prompt.tokens) if self.prompt else 0

    def forget(self) -> None:
        """Mark the state as worthless."""
        self.tokens, self.prompt, self.logits, self.stitched, self.exact = [], None, None, False, 0


class StreamTable:
    """The sequences of one context, replaced least recently used first."""

    def __init__(self, count: int) -> None:
        self.streams = [Stream(number) for number in range(count)]
        self._clock = 0

    def take(self, adapters: AdapterSet, prompt: Prompt, ends: Sequence[int], *, stitched: bool) -> tuple[Stream, int]:
        """Return a free stream to run ``prompt`` in, now busy, and how many of its tokens it holds already.

        The caller has seen to it that one is free.
        """
        free = [stream for stream in self.streams if not stream.busy]
        reusable = {s.number: _reusable(s, adapters, prompt, ends, stitched=stitched) for s in free}
        stream = max(free, key=lambda s: (reusable[s.number], -s.used))
        self._clock += 1
        stream.used, stream.busy = self._clock, True
        return stream, reusable[stream.number]

    @property
    def free(self) -> int:
        """How many streams nothing runs in."""
        return sum(not stream.busy for stream in self.streams)

    def forget(self, key: str) -> None:
        """Forget every state that the adapter ``key`` had a part in."""
        for stream in self.streams:
            if any(name == key for name, _ in stream.adapters) and not stream.busy:
                stream.forget()


def _reusable(stream: Stream, adapters: AdapterSet, prompt: Prompt, ends: Sequence[int], *, stitched: bool) -> int:
    if stream.adapters != adapters or not stream.tokens:
        return 0
    common = common_prefix(stream.tokens, prompt.tokens)
    if stream.prompt == prompt and stream.logits is not None and stream.stitched == stitched:
        return common
    if stream.stitched or stitched:
        return 0
    if stream.read < common < len(prompt.tokens):
        return common
    # Its logits were computed with the last stretch, so at least that is read again.
    return max((end for end in ends[:-1] if end <= min(common, stream.exact)), default=0)


def common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    """Return how many tokens both begin with."""
    length = min(len(left), len(right))
    differ = np.asarray(left[:length]) != np.asarray(right[:length])
    return int(differ.argmax()) if differ.any() else length
