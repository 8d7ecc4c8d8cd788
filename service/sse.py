"""Sends a blocking iterator of events as Server-Sent Events, and hears when a client leaves.

FastAPI encodes events itself only for routes that always stream; answers stream on request, so the
response is made here, from FastAPI's own event and response classes. Knows nothing of the events.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any, TypeVar

import anyio
from anyio.to_thread import run_sync
from fastapi import Request
from fastapi.encoders import jsonable_encoder
from fastapi.sse import EventSourceResponse, ServerSentEvent, format_sse_event
from starlette.types import Receive

from service.hangup import Hangup

T = TypeVar("T")
_END = object()


def encode(event: ServerSentEvent) -> bytes:
    """Return an event as it goes over the wire; ``data`` as JSON, ``raw_data`` as it is."""
    data = event.raw_data
    if data is None and event.data is not None:
        data = json.dumps(jsonable_encoder(event.data), ensure_ascii=False, separators=(",", ":"))
    return format_sse_event(data_str=data, event=event.event, id=event.id, retry=event.retry, comment=event.comment)


class _Response(EventSourceResponse):
    """Tells when the client leaves: the thread that waits for the next event does not notice by itself."""

    def __init__(self, events: Iterator[ServerSentEvent], hangup: Hangup) -> None:
        headers = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", "Connection": "keep-alive"}
        super().__init__(_pump(events), headers=headers)
        self._hangup = hangup

    async def listen_for_disconnect(self, receive: Receive) -> None:
        """Wait until the client leaves."""
        await super().listen_for_disconnect(receive)
        self._hangup.hang_up()


def event_stream(events: Iterator[ServerSentEvent], hangup: Hangup | None = None) -> EventSourceResponse:
    """Return a response that sends ``events`` as they come, and closes them when the client leaves.

    ``hangup`` is told when it leaves, so that an event that is waited for can be given up.
    """
    return _Response(events, hangup or Hangup())


async def until_left(request: Request, hangup: Hangup, work: Callable[[], T]) -> T:
    """Do blocking ``work`` in a thread and return what it returns; ``hangup`` is told when the client leaves.

    To be called when the body of the request was read.
    """

    async def listen() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass
        hangup.hang_up()

    listening = asyncio.create_task(listen())
    try:
        return await run_sync(work)
    finally:
        listening.cancel()


async def _pump(events: Iterator[ServerSentEvent]) -> AsyncIterator[bytes]:
    try:
        while True:
            event: Any = await run_sync(next, events, _END)
            if event is _END:
                return
            yield encode(event)
    finally:
        close = getattr(events, "close", None)
        if close is not None:
            with anyio.CancelScope(shield=True):
                await run_sync(close)
