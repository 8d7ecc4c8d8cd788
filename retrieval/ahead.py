"""Let one thread work ahead of another, by no more than a given weight.

Knows nothing of what the items are.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Generic, TypeVar

T = TypeVar("T")
_JOIN_S = 1.0
_ALIVE_S = 0.5


class _Buffer(Generic[T]):
    """Items between the two threads, with the weight of each."""

    def __init__(self, items: Iterator[T], weight: Callable[[T], int], limit: int) -> None:
        self._items, self._weight, self._limit = items, weight, limit
        self._waiting: deque[tuple[T, int]] = deque()
        self._held = 0
        self._done = self._stopped = False
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    def fill(self) -> None:
        """Take the items one after the other, and wait while there are too many."""
        error: BaseException | None = None
        try:
            for item in self._items:
                if not self._put(item):
                    break
        except BaseException as raised:  # The other thread raises it.
            error = raised
        with self._changed:
            self._done, self._error = True, error
            self._changed.notify_all()

    def _put(self, item: T) -> bool:
        weight = self._weight(item)
        with self._changed:
            # One item always passes, however heavy.
            self._changed.wait_for(lambda: self._stopped or not self._held or self._held + weight <= self._limit)
            if not self._stopped:
                self._waiting.append((item, weight))
                self._held += weight
                self._changed.notify_all()
            return not self._stopped

    def take(self, alive: Callable[[], None]) -> Iterator[T]:
        """Yield the items as they come; raise what the other thread failed with."""
        while True:
            with self._changed:
                while not self._changed.wait_for(lambda: self._waiting or self._done, _ALIVE_S):
                    alive()
                if not self._waiting:
                    break
                item, weight = self._waiting.popleft()
                self._held -= weight
                self._changed.notify_all()
            yield item
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Let the filling thread end after the item it is at."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()


@contextmanager
def ahead(
    items: Iterator[T], weight: Callable[[T], int], limit: int, alive: Callable[[], None] = lambda: None
) -> Iterator[Iterator[T]]:
    """Iterate over ``items`` in a thread of its own, which waits while items over ``limit`` are not taken yet.

    An exception of ``items`` is raised where it would have come up. ``alive`` is called twice a second while
    there is none, and may raise to stop. Leaving the context stops the
    thread at its next item; one that is stuck in an item is left to end by itself.
    """
    buffer = _Buffer(items, weight, limit)
    thread = threading.Thread(target=buffer.fill, name="ahead", daemon=True)
    thread.start()
    try:
        yield buffer.take(alive)
    finally:
        buffer.stop()
        thread.join(_JOIN_S)
