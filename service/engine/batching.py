"""Which sequences decode together: the split of a step that costs least, by what steps have cost so far.

On CPUs the cost of a step is no smooth function of its size: with AMX a batch of two tokens was measured to cost
five times one token, a batch of eight less than four times. So sizes are timed as they occur, and a step is split
by the times. Knows nothing of llama.cpp but that a batch spans neighbouring sequences.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from functools import cache
from statistics import median

_KEPT = 9
"""Times kept for each size: the median of so few follows a machine that gets busy, and survives one outlier."""
_GROWTH = 0.05
"""What a token more is guessed to cost, as a share of the first, until its size was timed: low, so that it is tried."""


class StepCosts:
    """Seconds that a step of so many sequences takes, learnt while serving."""

    def __init__(self, first_s: float = 0.01) -> None:
        self._times: dict[int, deque[float]] = {1: deque([first_s], _KEPT)}

    def add(self, size: int, seconds: float) -> None:
        """Take in the time of one step."""
        self._times.setdefault(size, deque(maxlen=_KEPT)).append(seconds)

    def expected(self, size: int) -> float:
        """Return the seconds that a step of ``size`` is expected to take."""
        if size in self._times:
            return median(self._times[size])
        below = max(known for known in self._times if known < size)
        return median(self._times[below]) + _GROWTH * (size - below) * median(self._times[1])

    def table(self) -> dict[int, float]:
        """Return the sizes that were timed and what they cost in milliseconds."""
        return {size: round(median(times) * 1000, 2) for size, times in sorted(self._times.items())}


def split(sequences: Sequence[int], costs: StepCosts) -> list[range]:
    """Return the spans of neighbouring sequences to decode one after the other, each holding one wanted or more.

    A span's sequences that are not wanted cost as much as the others: the caller decodes a token of no consequence
    in them.

    Args:
        sequences: those to decode, ascending.
        costs: by size of a span.
    """

    @cache
    def best(count: int) -> tuple[float, int]:
        """Return the least cost of the first ``count`` sequences, and where the last span of that split begins."""
        if not count:
            return 0.0, 0
        last = sequences[count - 1]
        return min(
            (best(first)[0] + costs.expected(last - sequences[first] + 1), first) for first in reversed(range(count))
        )

    spans: list[range] = []
    count = len(sequences)
    while count:
        first = best(count)[1]
        spans.append(range(sequences[first], sequences[count - 1] + 1))
        count = first
    return spans[::-1]


def draft_length(acceptance: float, costs: StepCosts, longest: int) -> int:
    """Return how many guessed tokens to decode with the next one: as many as pay for themselves, 0 if none do.

    Of k guesses, each right with probability a if the one before was, 1 + a + ... + a^k tokens come out on average
    (Leviathan et al., 2023, Fast inference from transformers via speculative decoding, equation 1).
    """
    rates = {}
    expected = 1.0
    for length in range(longest + 1):
        rates[length] = expected / costs.expected(length + 1)
        expected += acceptance ** (length + 1)
    return max(rates, key=lambda length: (rates[length], -length))
