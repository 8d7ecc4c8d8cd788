"""Sends a blocking iterator of events as Server-Sent Events.

FastAPI encodes events itself only for routes that always stream; answers stream on request, so the
response is made here, from FastAPI's own event and response classes. Knows nothing of the events.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import anyio
from anyio.to_thread import run_sync
from fastapi.encoders import jsonable_encoder
from fastapi.sse import EventSourceResponse, ServerSentEvent, format_sse_event

_END = object()


def encode(event: ServerSentEvent) -> bytes:
    """Return an event as it goes over the wire; ``data`` as JSON, ``raw_data`` as it is."""
    data = event.raw_data
    if data is None and event.data is not None:
        data = json.dumps(jsonable_encoder(event.data), ensure_ascii=False, separators=(",", ":"))
    return format_sse_event(data_str=data, event=event.event, id=event.id, retry=event.retry, comment=event.comment)


def event_stream(events: Iterator[ServerSentEvent]) -> EventSourceResponse:
    """Return a response that sends ``events`` as they come, and closes them when the client leaves."""
    return EventSourceResponse(
        _pump(events), headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no", "Connection": "keep-alive"}
    )


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
