"""What stands in front of every route beside the API key (``access``): the host name and the size of the body.

Each guard answers by itself, before any of the body is read. Knows nothing of what the routes do.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from data.errors import BodyTooLarge
from data.numbers import MOST_DIGITS
from service.replies import error_response, problem_response

MULTIPART = frozenset(("/v1/documents", "/v1/documents/preview", "/v1/pairs/import", "/v1/adapters/import"))
"""The routes that take files. They write a form to the disk as it comes, and limit each file themselves."""


class HostGuard:
    """Refuses a foreign Host header (DNS rebinding) and another site's pages (cross-site request forgery).

    A browser names the page a request comes from in Origin: uploads and posts without a body need no
    preflight, so a page anywhere could send them here.
    """

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...]) -> None:
        self._app = app
        self._hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 421 or 403."""
        refused = self._refusal(Headers(scope=scope)) if scope["type"] == "http" else None
        await (refused or self._app)(scope, receive, send)

    def _refusal(self, headers: Headers) -> Response | None:
        host, origin = headers.get("host", "").lower(), headers.get("origin", "").lower()
        if _host_name(host) not in self._hosts:
            return _refuse_host(host, self._hosts)
        if origin and _host_name(origin.partition("://")[2]) not in self._hosts:
            return _refuse_origin(origin)
        return None


class BodyGuard:
    """Refuses a body over the limit, whether its declared length is true, false or absent.

    Forms to the routes that take files pass as they come; any other body is read here, then handed on.
    """

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self._app = app
        self._max_bytes = max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its body, or answer 413."""
        headers = Headers(scope=scope) if scope["type"] == "http" else Headers()
        form = headers.get("content-type", "").startswith("multipart/form-data") and scope["path"] in MULTIPART
        if scope["type"] != "http" or form:
            await self._app(scope, receive, send)
            return
        try:
            replay = await self._read(headers.get("content-length", ""), receive)
        except BodyTooLarge as error:
            await error_response(error)(scope, receive, send)
            return
        await self._app(scope, replay, send)

    async def _read(self, declared: str, receive: Receive) -> Receive:
        """Return a ``receive`` that hands out the messages read here, then goes on with the real one.

        Raises:
            BodyTooLarge: at the first byte over the limit.
        """
        if declared.isdecimal() and (len(declared) > MOST_DIGITS or int(declared) > self._max_bytes):
            raise self._too_large(f"{declared[:50]} bytes")
        messages: list[Message] = []
        size, more = 0, True
        while more:
            message = await receive()
            messages.append(message)
            size += len(message.get("body", b""))
            if size > self._max_bytes:
                raise self._too_large(f"more than {self._max_bytes} bytes")
            more = message.get("more_body", False)
        messages.reverse()

        async def replay() -> Message:
            return messages.pop() if messages else await receive()

        return replay

    def _too_large(self, got: str) -> BodyTooLarge:
        return BodyTooLarge(
            "The body of the request is too large",
            got=got,
            wanted=f"at most {self._max_bytes} bytes",
            hint="Send less at once, send a file where the route takes one, or raise RAGTUNE_MAX_BODY_BYTES.",
        )


def _host_name(host: str) -> str:
    if host.startswith("["):
        return host[1 : host.find("]")]
    return host.rsplit(":", 1)[0] if host.count(":") == 1 else host


def _refuse_host(host: str, hosts: frozenset[str]) -> Response:
    return problem_response(
        {
            "type": "wrong-host",
            "title": "The Host header names another server.",
            "status": 421,
            "detail": "This server listens on this machine only and was addressed by another name",
            "got": host[:200],
            "wanted": ", ".join(sorted(hosts)),
            "hint": "Use http://127.0.0.1, or add the name to RAGTUNE_ALLOWED_HOSTS.",
        }
    )


def _refuse_origin(origin: str) -> Response:
    return problem_response(
        {
            "type": "wrong-origin",
            "title": "The request comes from another site's page.",
            "status": 403,
            "detail": "A page of another site sent this request",
            "got": origin[:200],
            "wanted": "a request from this server's own pages, or from no page",
            "hint": "Call the API from a program, or add the site's host name to RAGTUNE_ALLOWED_HOSTS.",
        }
    )
