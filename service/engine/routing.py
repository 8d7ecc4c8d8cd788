"""Which of several replicas a request goes to: the one that is likely to begin its answer first.

A replica is charged for what it has under way and for the part of the prompt that it has not read before, under the
same adapters. Knows nothing of how replicas are talked to.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from data.records import Message

_T = TypeVar("_T")

BLOCK_CHARS = 256
"""Prefixes are compared by blocks of so many characters; servers keep them by blocks of 16 tokens and more."""
KEPT_BLOCKS = 20_000
"""Blocks remembered of a replica: 5 million characters, some GiB of keys and values in an 8B model's server."""
REQUEST_CHARS = 1000
"""What a request under way costs, in characters of prompt; of 4000 and 1000 the better by far (bench/RESULTS.md,
"Routing over two engines"): where it is more than a prompt with its passages, what was read before does not count."""


def prefix_blocks(messages: Sequence[Message], adapters: Iterable[str] = ()) -> list[bytes]:
    """Return a hash for each whole block of a prompt, of all that stands before its end and of the adapters."""
    text = "\x1e".join(f"{message.role}\x1f{message.content}" for message in messages).encode()
    running, found = hashlib.blake2b("\x1f".join(adapters).encode(), digest_size=12), []
    for start in range(0, len(text) - BLOCK_CHARS + 1, BLOCK_CHARS):
        running.update(text[start : start + BLOCK_CHARS])
        found.append(running.copy().digest())
    return found


@dataclass(slots=True)
class Seat:
    """What is known of one replica: what it has under way, what it has read, and when it may be asked again."""

    running: int = 0
    requests: int = 0
    failures: int = 0
    matched_blocks: int = 0
    asked_blocks: int = 0
    down_until: float = 0.0
    pause_s: float = 0.0
    read: OrderedDict[bytes, None] = field(default_factory=OrderedDict)

    def matched(self, blocks: Sequence[bytes]) -> int:
        """Count the blocks at the beginning that the replica has read."""
        for number, block in enumerate(blocks):
            if block not in self.read:
                return number
        return len(blocks)

    def cost(self, blocks: Sequence[bytes]) -> float:
        """Return what a request would cost here, in characters of prompt."""
        unread = BLOCK_CHARS * (len(blocks) - self.matched(blocks))
        return self.running * REQUEST_CHARS + unread

    def note(self, blocks: Sequence[bytes]) -> None:
        """Note that a request begins here."""
        self.running += 1
        self.requests += 1
        self.matched_blocks += self.matched(blocks)
        self.asked_blocks += len(blocks)
        _touch(self.read, blocks, KEPT_BLOCKS)

    def fail(self, now: float, first_s: float, longest_s: float) -> None:
        """Note that the replica is down; each time in a row it is left alone for twice as long."""
        self.failures += 1
        self.pause_s = min(longest_s, max(first_s, 2 * self.pause_s))
        self.down_until = now + self.pause_s
        self.read.clear()  # it is another process when it comes back

    def recover(self) -> None:
        """Note that the replica answered."""
        self.down_until = self.pause_s = 0.0


def _touch(kept: OrderedDict[_T, None], values: Iterable[_T], most: int) -> None:
    for value in values:
        kept[value] = None
        kept.move_to_end(value)
    while len(kept) > most:
        kept.popitem(last=False)


def order(seats: Sequence[Seat], blocks: Sequence[bytes], now: float) -> list[int]:
    """Return the replicas' numbers, best first; those that are down come last, for nothing else may be left.

    Equal costs are told apart by a hash of the prompt, so that the same prompt goes to the same replica from every
    server that routes, and of how much each has been asked where there is no whole block to hash.
    """
    spread = blocks[0] if blocks else b""

    def rank(number: int) -> tuple[bool, float, float, bytes]:
        seat = seats[number]
        asked = 0 if spread else seat.requests
        mixed = hashlib.blake2b(spread + number.to_bytes(4, "big"), digest_size=8).digest()
        return seat.down_until > now, seat.cost(blocks), asked, mixed

    return sorted(range(len(seats)), key=rank)
