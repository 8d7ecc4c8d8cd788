"""How fast a client has to send the body of its request.

Whoever sends a byte now and then holds a connection, a file that is half written, and what is reserved for them. Time
counts only while the service waits for the client: what it needs itself to take a large upload in is its own affair.
How long headers may take, and an answer that nobody reads, is a matter of the connection (``serve``).
"""

from __future__ import annotations

import time

from anyio import fail_after
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from data.errors import RequestTooSlow
from service.replies import error_response

GRACE_S = 10.0
"""How long a client may keep the service waiting whatever it has sent."""
LEAST_BYTES_PER_S = 500
"""What earns a further second: the rate of Apache's mod_reqtimeout (``body=20,MinRate=500``)."""


class PaceGuard:
    """Answers 408 where the body of a request comes too slowly, and lets go of what was read of it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on; where its body stops coming, answer in the application's place."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        body = _Body(receive)
        begun = False

        async def answer(message: Message) -> None:
            nonlocal begun
            # What the application makes of a body that ended too early is not what happened.
            if body.late is None or begun:
                begun = True
                await send(message)

        try:
            await self._app(scope, body.receive, answer)
        except Exception:
            if body.late is None:
                raise
        if body.late is not None and not begun:
            response = error_response(body.late)
            response.headers["connection"] = "close"
            await response(scope, receive, send)


class _Body:
    """The messages of a request, and how long they were waited for."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._waited_s = 0.0
        self._bytes = 0
        self._whole = False
        self.late: RequestTooSlow | None = None

    async def receive(self) -> Message:
        """Return the next message; after the body's last one it is waited for without end.

        Raises:
            RequestTooSlow: the client has been waited for longer than what it sent has earned.
        """
        if self.late is not None:
            raise self.late
        if self._whole:
            return await self._receive()
        began = time.monotonic()
        try:
            with fail_after(GRACE_S + self._bytes / LEAST_BYTES_PER_S - self._waited_s):
                message = await self._receive()
        except TimeoutError:
            self.late = self._too_slow(self._waited_s + time.monotonic() - began)
            raise self.late from None
        self._waited_s += time.monotonic() - began
        self._bytes += len(message.get("body", b""))
        self._whole = not message.get("more_body", False)
        return message

    def _too_slow(self, waited_s: float) -> RequestTooSlow:
        return RequestTooSlow(
            "The body of the request came too slowly",
            got=f"{self._bytes} bytes in {waited_s:.0f} s",
            wanted=f"at least {LEAST_BYTES_PER_S} bytes a second after the first {GRACE_S:.0f} s",
            hint="Send it again over a faster connection, or in smaller pieces.",
        )
