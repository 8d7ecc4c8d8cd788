"""How much a key may ask for: requests and tokens a minute, as token buckets.

A bucket holds a minute's worth and fills evenly. Tokens are known when an answer ends, so its bucket may go below
nothing, and the key waits until it is filled again. The buckets are in this process's memory, or in the database
that several servers share.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from data.errors import RateLimited
from data.store.buckets import MINUTE_S, refilled
from data.store.keys import KeyRow

_MINUTE_S = int(MINUTE_S)


class Buckets(Protocol):
    """Where the buckets are: here, or in a database."""

    def draw(
        self, key_id: str, quotas: Mapping[str, int], amounts: Mapping[str, float], least: float | None = None
    ) -> dict[str, float]:
        """Take ``amounts`` and return what was there before; nothing where a bucket holds less than ``least``."""


@dataclass(slots=True)
class _Bucket:
    """What is left, as it was at a moment of the clock."""

    left: float
    at: float


class MemoryBuckets:
    """The buckets of one process.

    Args:
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str], _Bucket] = {}
        self._lock = threading.Lock()

    def draw(
        self, key_id: str, quotas: Mapping[str, int], amounts: Mapping[str, float], least: float | None = None
    ) -> dict[str, float]:
        """Take ``amounts`` out of a key's buckets, as ``data.store.buckets`` does."""
        with self._lock:
            now = self._clock()
            held = {}
            for kind, quota in quotas.items():
                bucket = self._buckets.setdefault((key_id, kind), _Bucket(quota, now))
                bucket.left, bucket.at = refilled(bucket.left, now - bucket.at, quota), now
                held[kind] = bucket.left
            if least is None or min(held.values(), default=least) >= least:
                for kind in held:
                    self._buckets[key_id, kind].left -= amounts.get(kind, 0.0)
            return held


@dataclass(frozen=True, slots=True)
class Budget:
    """What a key has left of one kind after a request; ``reset_s`` is when the bucket is full again."""

    kind: str
    quota: int
    left: int
    reset_s: int


class RateLimits:
    """The limits of every key.

    Args:
        buckets: where what is left is kept.
    """

    def __init__(self, buckets: Buckets | None = None) -> None:
        self._buckets = MemoryBuckets() if buckets is None else buckets

    def admit(self, key: KeyRow) -> list[Budget]:
        """Take one request off a key's bucket and return what it has left, of every limit it has.

        Raises:
            RateLimited: no request or no token is left; nothing is taken.
            DatabaseUnavailable: the buckets are in a database that is down.
        """
        asked = {"requests": key.grant.requests_per_minute, "tokens": key.grant.tokens_per_minute}
        quotas = {kind: quota for kind, quota in asked.items() if quota is not None}
        if not quotas:
            return []
        amounts = {"requests": 1.0} if "requests" in quotas else {}
        held = self._buckets.draw(key.id, quotas, amounts, least=1.0)
        for kind, quota in quotas.items():
            if held[kind] < 1:
                raise _refused(key, kind, quota, (1 - held[kind]) * _MINUTE_S / quota)
        return [_budget(kind, quota, held[kind] - amounts.get(kind, 0.0)) for kind, quota in quotas.items()]

    def charge(self, key: KeyRow, tokens: int) -> None:
        """Take the tokens of a finished answer off a key's bucket."""
        quota = key.grant.tokens_per_minute
        if quota is not None:
            self._buckets.draw(key.id, {"tokens": quota}, {"tokens": float(tokens)})


def _budget(kind: str, quota: int, left: float) -> Budget:
    return Budget(kind, quota, max(0, math.floor(left)), math.ceil((quota - left) * _MINUTE_S / quota))


def rate_headers(budgets: list[Budget]) -> dict[str, str]:
    """Return the ``RateLimit`` and ``RateLimit-Policy`` fields of draft-ietf-httpapi-ratelimit-headers-10."""
    if not budgets:
        return {}
    policy = ", ".join(f'"{budget.kind}";q={budget.quota};w={_MINUTE_S}' for budget in budgets)
    left = ", ".join(f'"{budget.kind}";r={budget.left};t={budget.reset_s}' for budget in budgets)
    return {"RateLimit-Policy": policy, "RateLimit": left}


def _refused(key: KeyRow, kind: str, quota: int, wait_s: float) -> RateLimited:
    error = RateLimited(
        f"This key has used up its {kind}",
        got=key.name,
        wanted=f"at most {quota} {kind} a minute",
        hint=f"Try again in {math.ceil(wait_s)} s, or ask for a key with a higher limit.",
    )
    error.retry_after_s = wait_s
    return error
