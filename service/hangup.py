"""What happens to a generation when its client leaves: it ends at once, wherever it is.

A client can leave while its request waits, while its prompt is read or between two tokens. The thread that follows
the generation is blocked then, so another one has to end it: that which hears the connection close. Knows nothing of
connections, and of generations only that they can be cancelled.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from data.errors import ClientLeft
from data.protocols import Delta, GenerationRequest, Generator


class Hangup:
    """Whether a client has left, and what to do then. Thread-safe."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._then: Callable[[], object] | None = None
        self._left = False

    @property
    def left(self) -> bool:
        """Whether the client has left."""
        return self._left

    def hang_up(self) -> None:
        """Note that the client has left, and end what it waited for."""
        with self._mutex:
            self._left, then = True, self._then
        if then is not None:
            then()

    def then(self, end: Callable[[], object] | None) -> None:
        """Call ``end`` when the client leaves, now if it has left already; None forgets the one before."""
        with self._mutex:
            self._then, left = end, self._left
        if left and end is not None:
            end()

    def check(self) -> None:
        """Raise ClientLeft if the client has left."""
        if self._left:
            raise ClientLeft("The client closed the connection before the answer was complete")


@contextmanager
def generation(generator: Generator, request: GenerationRequest, hangup: Hangup) -> Iterator[Iterator[Delta]]:
    """Begin a generation and yield its deltas; it ends with the ``with`` block, or when the client leaves.

    A generator whose streams cannot be cancelled from another thread is closed at its next delta.

    Raises:
        ClientLeft: the client has left; also while the deltas are read.
        As ``Generator.stream``.
    """
    hangup.check()
    deltas = generator.stream(request)
    try:
        hangup.then(getattr(deltas, "cancel", None))
        yield _until_left(deltas, hangup)
    finally:
        hangup.then(None)
        close = getattr(deltas, "close", None)
        if close is not None:
            close()


def _until_left(deltas: Iterator[Delta], hangup: Hangup) -> Iterator[Delta]:
    for delta in deltas:
        hangup.check()
        yield delta
