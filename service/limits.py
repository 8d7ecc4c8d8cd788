"""How much a key may ask for: requests and tokens a minute, as token buckets in this process's memory.

A bucket holds a minute's worth and fills evenly. Tokens are known when an answer ends, so its bucket may go below
nothing, and the key waits until it is filled again. Several processes have buckets of their own each.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from data.errors import RateLimited
from data.store.keys import KeyRow

_MINUTE_S = 60


@dataclass(slots=True)
class _Bucket:
    """What is left, as it was at a moment of the monotonic clock."""

    left: float
    at: float


@dataclass(frozen=True, slots=True)
class Budget:
    """What a key has left of one kind after a request; ``reset_s`` is when the bucket is full again."""

    kind: str
    quota: int
    left: int
    reset_s: int


class RateLimits:
    """The buckets of every key.

    Args:
        clock: seconds of a clock that never goes back.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[tuple[str, str], _Bucket] = {}
        self._lock = threading.Lock()

    def admit(self, key: KeyRow) -> list[Budget]:
        """Take one request off a key's bucket and return what it has left, of every limit it has.

        Raises:
            RateLimited: no request or no token is left; nothing is taken.
        """
        quotas = {"requests": key.grant.requests_per_minute, "tokens": key.grant.tokens_per_minute}
        limits = {kind: quota for kind, quota in quotas.items() if quota is not None}
        with self._lock:
            for kind, quota in limits.items():
                bucket = self._filled(key.id, kind, quota)
                if bucket.left < 1:
                    raise _refused(key, kind, quota, (1 - bucket.left) * _MINUTE_S / quota)
            if "requests" in limits:
                self._buckets[key.id, "requests"].left -= 1
            return [self._budget(key.id, kind, quota) for kind, quota in limits.items()]

    def charge(self, key: KeyRow, tokens: int) -> None:
        """Take the tokens of a finished answer off a key's bucket."""
        quota = key.grant.tokens_per_minute
        if quota is not None:
            with self._lock:
                self._filled(key.id, "tokens", quota).left -= tokens

    def _filled(self, key_id: str, kind: str, quota: int) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.setdefault((key_id, kind), _Bucket(quota, now))
        bucket.left = min(float(quota), bucket.left + (now - bucket.at) * quota / _MINUTE_S)
        bucket.at = now
        return bucket

    def _budget(self, key_id: str, kind: str, quota: int) -> Budget:
        left = self._buckets[key_id, kind].left
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
