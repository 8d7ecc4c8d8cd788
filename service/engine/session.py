"""One life of the engine's child process: who waits for which of its answers.

Knows frames and orders; knows nothing of restarts, adapters or what is generated.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data.errors import EngineBusy, EngineTimeout, EngineUnavailable
from data.protocols import Delta
from service.engine.child import Child
from service.engine.protocol import ProtocolError, error_from_wire, result_from_wire, tokens_from_wire

GRACE_S = 15.0
"""How much later than a request's own deadline a silent child counts as hung."""

PING_EVERY_S = 2.0
SILENCE_S = 6.0
"""A child that does not answer a ping for so long hangs: its reader thread has nothing else to do. It counts from the
first answer: until then the child loads its libraries, which a busy machine may draw out, and its first order waits."""
_PING = 0

QUEUED_OPS = ("generate", "score")
"""The orders that take a place in the queue."""


class Session:
    """One child's life: its reader thread and the calls that wait for it."""

    def __init__(self, writable: Sequence[Path] = ()) -> None:
        self.child = Child(writable)
        self.info: dict[str, Any] = {}
        self.dead: str | None = None
        self._hung: str | None = None
        self._mutex = threading.Lock()
        self._inboxes: dict[int, queue.SimpleQueue[tuple[dict[str, Any], bytes]]] = {}
        self._queued: set[int] = set()
        self._heard: float | None = None
        threading.Thread(target=self._read, name="engine-reader", daemon=True).start()
        threading.Thread(target=self._watch, name="engine-watch", daemon=True).start()

    def submit(self, number: int, order: Mapping[str, Any], limit: int) -> None:
        """Send an order and open its inbox.

        Raises:
            EngineBusy: ``limit`` generations are running or waiting.
            EngineUnavailable: the child is gone.
        """
        with self._mutex:
            if self.dead is not None:
                raise _down(self.dead)
            if order["op"] in QUEUED_OPS:
                if len(self._queued) >= limit:
                    raise EngineBusy(
                        "The engine's queue is full",
                        got=f"{len(self._queued)} requests",
                        wanted=f"at most {limit}",
                        hint="Try again in a few seconds.",
                    )
                self._queued.add(number)
            self._inboxes[number] = queue.SimpleQueue()
        self.send({**order, "id": number})

    def send(self, message: Mapping[str, Any]) -> None:
        """Send a frame; a child that is gone is left to the reader thread to notice."""
        try:
            self.child.channel.send(message)
        except OSError as error:
            if message["op"] not in {"cancel", "ping"}:
                raise _down(self.dead or "it hung up") from error

    def next(self, number: int, timeout_s: float, *, hangs: bool = True) -> tuple[dict[str, Any], bytes]:
        """Return the next frame of an order; the errors it reports are raised.

        ``hangs`` says what a silence means: that the child hangs and is ended, or only that it is slow.
        """
        try:
            message, binary = self._inboxes[number].get(timeout=timeout_s)
        except queue.Empty:
            if hangs:
                self.child.close()  # only a new process helps
            raise EngineTimeout("The engine does not answer", got=f"silent for {timeout_s:g} s") from None
        if message["event"] == "error":
            raise error_from_wire(message["error"])
        if message["event"] == "died":
            raise _down(message["how"])
        return message, binary

    def forget(self, number: int) -> None:
        """Close the inbox of an order; one still running keeps its place in the queue until it ends."""
        with self._mutex:
            self._inboxes.pop(number, None)

    def cancel(self, number: int) -> None:
        """Cancel an order if it is a generation that still runs; it ends with what it has written."""
        if self.running(number):
            self.send({"op": "cancel", "id": number})

    def abandon(self, number: int) -> None:
        """Close the inbox of an order, and cancel it if it is a generation that still runs."""
        self.cancel(number)
        self.forget(number)

    def running(self, number: int) -> bool:
        """Tell whether the child has still to end this generation."""
        with self._mutex:
            return number in self._queued

    def _watch(self) -> None:
        """End a child that is stopped or stuck, so that those who wait for it are told."""
        asked = time.monotonic()
        while self.dead is None:
            time.sleep(PING_EVERY_S)
            # A parent that was stopped itself has heard nothing either: it asks once more before it judges.
            punctual = time.monotonic() - asked < 2 * PING_EVERY_S
            if punctual and self._heard is not None and time.monotonic() - self._heard > SILENCE_S:
                self._hung = f"silent for {SILENCE_S:g} s"
                self.child.close()
                return
            asked = time.monotonic()
            self.send({"op": "ping", "id": _PING})

    def _read(self) -> None:
        try:
            while True:
                message, binary = self.child.channel.receive()
                self._heard = time.monotonic()
                with self._mutex:
                    if message["event"] != "delta":
                        self._queued.discard(message["id"])
                    inbox = self._inboxes.get(message["id"])
                if inbox is not None:
                    inbox.put((message, binary))
        except (EOFError, ProtocolError):
            how = self.child.obituary()
        with self._mutex:
            self.dead = self._hung or how
            for inbox in self._inboxes.values():
                inbox.put(({"event": "died", "how": self.dead}, b""))
            self._queued.clear()


class Stream(Iterator[Delta]):
    """The deltas of one generation; closing it (or dropping it) cancels the generation."""

    def __init__(self, session: Session, number: int, timeout_s: float) -> None:
        self._session, self._number, self._timeout_s = session, number, timeout_s
        self._deadline = time.monotonic() + timeout_s + GRACE_S
        self._open = True

    def __iter__(self) -> Stream:
        return self

    def __next__(self) -> Delta:
        if not self._open:
            raise StopIteration
        try:
            message, _ = self._session.next(self._number, max(0.0, self._deadline - time.monotonic()))
        except BaseException:
            self.close()
            raise
        if message["event"] == "delta":
            return Delta(message["text"], tokens=tokens_from_wire(message.get("tokens", ())))
        self.close()
        return Delta("", result_from_wire(message["value"]))

    def cancel(self) -> None:
        """End the generation here, from any thread: the next delta but those on their way is the last one."""
        self._session.cancel(self._number)

    def close(self) -> None:
        """Cancel the generation unless it has ended."""
        if self._open:
            self._open = False
            self._session.abandon(self._number)

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()


def _down(how: str) -> EngineUnavailable:
    return EngineUnavailable("The engine process died", got=how, hint="It is started again by the next request.")
