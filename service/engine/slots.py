"""Which sequence of the context holds which prompt, and how much of a new prompt it spares.

Reuse is exact: a reused state is bit for bit the one that a cold run would compute. A cold run
decodes a prompt in chunks that begin at multiples of ``chunk``; a state computed over other
boundaries differs in the last bits (other matrix kernels, other summation order) and would, rarely,
flip a greedy token. So only whole chunks are reused, or the whole prompt together with the logits
that were computed after it. Slots never serve another adapter than the one that filled them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray


@dataclass(slots=True)
class Slot:
    """One sequence: the prompt whose state it holds and the logits after the prompt."""

    sequence: int
    adapter: str | None = None
    prompt: list[int] = field(default_factory=list)
    logits: NDArray[np.float32] | None = None
    used: int = 0

    def forget(self) -> None:
        """Mark the state as worthless."""
        self.adapter, self.prompt, self.logits = None, [], None


class SlotTable:
    """The slots of one context, replaced least recently used first."""

    def __init__(self, sequences: int, chunk: int) -> None:
        self._slots = [Slot(sequence) for sequence in range(sequences)]
        self._chunk = chunk
        self._clock = 0

    def take(self, adapter: str | None, prompt: Sequence[int]) -> tuple[Slot, int]:
        """Return the slot to run ``prompt`` in and how many of its tokens need not be decoded."""
        best = max(self._slots, key=lambda slot: self._reusable(slot, adapter, prompt))
        reusable = self._reusable(best, adapter, prompt)
        slot = best if reusable else min(self._slots, key=lambda slot: slot.used)
        self._clock += 1
        slot.used = self._clock
        return slot, reusable

    def forget(self, adapter: str | None) -> None:
        """Forget every state that ``adapter`` made."""
        for slot in self._slots:
            if slot.adapter == adapter:
                slot.forget()

    def _reusable(self, slot: Slot, adapter: str | None, prompt: Sequence[int]) -> int:
        if slot.adapter != adapter or not slot.prompt:
            return 0
        common = _common_prefix(slot.prompt, prompt)
        if common == len(prompt) == len(slot.prompt) and slot.logits is not None:
            return common
        # The logits of a prompt that ends exactly on a chunk boundary were computed with its last chunk.
        common = min(common, len(prompt) - 1)
        return common // self._chunk * self._chunk


def _common_prefix(left: Sequence[int], right: Sequence[int]) -> int:
    for position, (a, b) in enumerate(zip(left, right, strict=False)):
        if a != b:
            return position
    return min(len(left), len(right))
