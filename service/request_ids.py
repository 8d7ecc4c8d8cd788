"""Gives every request an id, so that what a client is told of an error can be looked up in the log.

Whoever reports an unexpected error knows the id and nothing else: what the exception says may hold paths, SQL or
somebody's text, and stays in the log. Knows nothing of routes.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from data.errors import RagtuneError
from service.problems import internal_error, problem

log = logging.getLogger(__name__)

HEADER = "X-Request-ID"
FORMAT = "%(asctime)s %(levelname)s %(name)s [%(request_id)s]: %(message)s"
"""How a line of the log reads; ``mark`` fills ``request_id`` in."""
_NONE = "-"
_request_id: ContextVar[str] = ContextVar("request_id", default=_NONE)


class RequestIds:
    """Names each request and tells its id in the response's ``X-Request-ID``.

    The id stays set when the request is over: a request has a task, and so a context, of its own, and what answers an
    unexpected error stands in front of this.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on under a new id."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = secrets.token_hex(8)
        _request_id.set(request_id)

        async def named(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        await self._app(scope, receive, named)


def current_request_id() -> str:
    """Return the id of the request that is served here, in its threads too, or of the job; ``-`` where none is."""
    return _request_id.get()


def problem_for_client(error: BaseException) -> dict[str, Any]:
    """Return the problem object that a client may see; an unexpected error is logged with its traceback."""
    if isinstance(error, RagtuneError):
        return problem(error)
    request_id = current_request_id()
    log.error("request %s failed unexpectedly", request_id, exc_info=error)
    return internal_error(request_id)


@contextmanager
def under_id(request_id: str) -> Iterator[None]:
    """Give what is done within the block this id: a job has its own."""
    token = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(token)


def mark(record: logging.LogRecord) -> bool:
    """Give a log record the id of the request that it is about; a filter of a handler."""
    record.request_id = current_request_id()
    return True
