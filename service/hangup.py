"""What happens to a generation when its client leaves: it ends at once, wherever it is.

A client can leave while its request waits, while its prompt is read or between two tokens. The thread that follows
the generation is blocked then, so another one has to end it: that which hears the connection close. What was read and
written until then is charged to its key, as what a finished answer took is. A service that stops hangs up by itself on
what takes too long, and the client is told. Knows nothing of connections, and of
generations only that they can be cancelled.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from weakref import WeakSet

from data.access import current
from data.errors import ClientLeft, EngineUnavailable, RagtuneError
from data.protocols import Delta, GenerationRequest, GenerationResult, Generator
from service.spans import Told, generation_span

log = logging.getLogger(__name__)

_CHARACTERS_A_TOKEN = 4
"""Of English in the vocabularies of the models that are served here; of Chinese a character is about a token."""
_FIRST_WIDE = "\u2e80"
"""Where the characters begin that stand for more than a sound (CJK radicals)."""


class Hangup:
    """Whether a client has left, or the service stops, and what to do then. Thread-safe."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._then: Callable[[], object] | None = None
        self._left = False
        self._stopped = False

    @property
    def left(self) -> bool:
        """Whether nobody waits any more for what is written: the client has left, or was told that it will not come."""
        return self._left

    def hang_up(self, *, stopped: bool = False) -> None:
        """Note that the client has left, or that the service ``stopped``, and end what was waited for."""
        with self._mutex:
            self._stopped = self._stopped or (stopped and not self._left)
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
        """Raise ClientLeft if the client has left, EngineUnavailable if the service stops."""
        if self._stopped:
            raise EngineUnavailable(
                "The service stops, and the answer was not complete yet", hint="Ask again in a while."
            )
        if self._left:
            raise ClientLeft("The client closed the connection before the answer was complete")


class Hangups:
    """Those of all clients of an application: what outlasts its end is ended, and the clients are told."""

    def __init__(self) -> None:
        self._mutex = threading.Lock()
        self._open: WeakSet[Hangup] = WeakSet()
        self._stopped = False

    def new(self) -> Hangup:
        """Return that of one more request."""
        made = Hangup()
        with self._mutex:
            self._open.add(made)
            stopped = self._stopped
        if stopped:
            made.hang_up(stopped=True)
        return made

    def stop(self) -> None:
        """End what is still written, and whatever is begun from now on."""
        with self._mutex:
            self._stopped, there = True, list(self._open)
        for each in there:
            try:
                each.hang_up(stopped=True)
            except Exception:  # the others are told all the same
                log.exception("a generation could not be ended")


@contextmanager
def generation(generator: Generator, request: GenerationRequest, hangup: Hangup) -> Iterator[Iterator[Delta]]:
    """Begin a generation and yield its deltas; it ends with the ``with`` block, or when the client leaves.

    A generator whose streams cannot be cancelled from another thread is closed at its next delta.

    Raises:
        ClientLeft: the client has left; also while the deltas are read.
        EngineUnavailable: the service stops, likewise.
        As ``Generator.stream``.
    """
    hangup.check()
    with generation_span(generator, request, streamed=True) as span:
        deltas = generator.stream(request)
        told = _Told(request, span)
        try:
            hangup.then(getattr(deltas, "cancel", None))
            yield told.until_left(deltas, hangup)
        except (ClientLeft, EngineUnavailable, GeneratorExit) as error:
            if hangup.left or not isinstance(error, EngineUnavailable):
                told.charge_the_rest(deltas)
            raise
        finally:
            hangup.then(None)
            close = getattr(deltas, "close", None)
            if close is not None:
                close()


class _Told:
    """What a generation has told of itself, and whether its key was charged for it."""

    def __init__(self, request: GenerationRequest, span: Told) -> None:
        self._request = request
        self._span = span
        self._pieces = 0
        self._charged = False

    def until_left(self, deltas: Iterator[Delta], hangup: Hangup) -> Iterator[Delta]:
        """Yield the deltas until the client has left; what it took is charged before the result is handed out."""
        for delta in deltas:
            self._note(delta)
            hangup.check()
            yield delta

    def charge_the_rest(self, deltas: Iterator[Delta]) -> None:
        """Charge for a generation whose end nobody waited for.

        One that can be cancelled tells what it took. Of another it is an estimate: the prompt by its characters, and a
        token for each piece of text.
        """
        self._cancel(deltas)
        if self._charged:
            return
        text = "".join(message.content for message in self._request.messages)
        wide = sum(character >= _FIRST_WIDE for character in text)
        current().charge(wide + math.ceil((len(text) - wide) / _CHARACTERS_A_TOKEN) + self._pieces)

    def _cancel(self, deltas: Iterator[Delta]) -> None:
        cancel = getattr(deltas, "cancel", None)
        if cancel is None or self._charged:
            return
        cancel()
        try:
            for delta in deltas:
                self._note(delta)
                if delta.result is not None:
                    return
        except RagtuneError:  # the engine is gone: it will not tell any more
            return

    def _note(self, delta: Delta) -> None:
        self._pieces += bool(delta.text)
        if delta.result is not None and not self._charged:
            self._charged = True
            self._span.result = delta.result
            charge_usage(delta.result)


def charge_usage(result: GenerationResult) -> None:
    """Take what a generation took off what the key of whoever asked may spend."""
    current().charge(result.usage.prompt_tokens + result.usage.completion_tokens)
