"""A server of OpenAI's protocol over HTTP: requests, streamed lines, and every failure as an error of our tree.

The API key and a password in the address are sent and never shown. Knows nothing of what is asked for.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx2

from data.errors import (
    ContextOverflow,
    EngineBusy,
    EngineError,
    EngineTimeout,
    EngineUnavailable,
    InvalidRequest,
    RagtuneError,
    Unauthorized,
    UnknownModel,
)

PROBE_TIMEOUT_S = 10.0
"""For questions that a server answers without its model, and for the time until it takes a connection."""
LOAD_TIMEOUT_S = 120.0
"""For loading an adapter."""
_SHOWN_CHARS = 300

# What servers say of a prompt that is too long: llama-server "request (302 tokens) exceeds the available context
# size (256 tokens)" with the type exceed_context_size_error; vLLM and OpenAI "maximum context length is 4096
# tokens"; Ollama "the input length exceeds the context length"; ragtune the type context-overflow.
_TOO_LONG = re.compile(
    r"exceed_context_size|context[-_ ]overflow|context_length_exceeded|available context size|maximum context length"
    r"|exceeds? the (model's )?(maximum )?context|maximum model length|(does|do) not fit into the context"
)
# Ollama's answer to a full queue has the status of a server that is down.
_FULL = re.compile(r"maximum pending requests|server busy")

_REFUSALS: dict[int, tuple[type[RagtuneError], str, str]] = {
    401: (
        Unauthorized,
        "The server refuses the API key",
        "Set RAGTUNE_ENGINE_API_KEY (or ..._TEACHER_..., ..._JUDGE_...).",
    ),
    403: (
        Unauthorized,
        "The server refuses the API key",
        "Set RAGTUNE_ENGINE_API_KEY (or ..._TEACHER_..., ..._JUDGE_...).",
    ),
    404: (UnknownModel, "The server knows no such model or route", "Most servers want an address that ends in /v1."),
    408: (EngineTimeout, "The server did not answer in time", ""),
    504: (EngineTimeout, "The server did not answer in time", ""),
}


@dataclass(frozen=True, slots=True)
class Reply:
    """What a server answered, whatever it was."""

    status: int
    text: str
    retry_after_s: float | None = None

    @property
    def ok(self) -> bool:
        """Tell whether the server did what was asked."""
        return 200 <= self.status < 300

    def json(self) -> Any:
        """Return the JSON value that the text is, None if it is none."""
        try:
            return json.loads(self.text)
        except ValueError:
            return None

    def member(self, name: str) -> Any:
        """Return a member of the JSON object that the text is, None if there is none."""
        value = self.json()
        return value.get(name) if isinstance(value, dict) else None


def refusal(reply: Reply) -> RagtuneError:
    """Return the error that a refusal is: by its status, and by its text where servers share a status."""
    status, said = reply.status, _message(reply)[:_SHOWN_CHARS]
    lower = reply.text.lower()
    if status in (400, 413, 422, 500) and _TOO_LONG.search(lower):
        return ContextOverflow(
            "The prompt does not fit into the server's context",
            got=said,
            hint="Ask for fewer passages or tokens, or start the server with a larger context.",
        )
    if status == 429 or (status == 503 and _FULL.search(lower)):
        busy = EngineBusy("The server is busy", got=f"{status}: {said}", hint=_try_again(reply.retry_after_s))
        busy.retry_after_s = reply.retry_after_s
        return busy
    if status in _REFUSALS:
        kind, detail, hint = _REFUSALS[status]
        return kind(detail, got=f"{status}: {said}", hint=hint)
    if status >= 500:
        return EngineUnavailable("The server failed", got=f"{status}: {said}", hint=_try_again(reply.retry_after_s))
    return (InvalidRequest if status in (400, 422) else EngineError)(
        "The server refused the request", got=f"{status}: {said}"
    )


def too_late(timeout_s: float) -> EngineTimeout:
    """Return the error of a request that was not answered within ``timeout_s``."""
    return EngineTimeout("The server did not end in time", got=f"more than {timeout_s:g} s")


class RemoteServer:
    """A server by its address. Thread-safe.

    Args:
        base_url: with its version, such as http://127.0.0.1:8080/v1.
        api_key: sent as a bearer token unless it is "".
        transport: for tests; the network by default.

    Raises:
        InvalidRequest: the address is no HTTP address, or the key cannot be sent.
    """

    def __init__(self, base_url: str, api_key: str = "", *, transport: httpx2.BaseTransport | None = None) -> None:
        address = _parsed(base_url)
        self._key, self._password = api_key.strip(), address.password or ""
        if not self._key.isascii() or not (self._key.isprintable()):
            raise InvalidRequest("The API key holds characters that no header can carry", wanted="printable ASCII")
        self._base = base_url.strip().rstrip("/")
        self.url = str(address.copy_with(username=None, password=None)).rstrip("/")
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        self._client = httpx2.Client(headers=headers, transport=transport)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def get(self, path: str, *, root: bool = False) -> Reply:
        """Return the answer to a GET of ``path`` below the address, or below its root (before its version).

        Raises:
            EngineUnavailable: there is no answer.
            EngineTimeout: it takes too long.
        """
        return self._ask("GET", path, None, PROBE_TIMEOUT_S, root=root)

    def post(self, path: str, body: Mapping[str, Any]) -> Reply:
        """Return the answer to a POST of JSON; raises as ``get``."""
        return self._ask("POST", path, body, LOAD_TIMEOUT_S, root=False)

    @contextmanager
    def lines(self, path: str, body: Mapping[str, Any], timeout_s: float) -> Iterator[Iterator[str]]:
        """Give the lines of the answer to a POST of JSON as they come; leaving the block early hangs up.

        Raises:
            RagtuneError: what ``refusal`` makes of an answer that refuses.
            EngineUnavailable: there is no answer, or it breaks off.
            EngineTimeout: it has not ended after ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        timeout = httpx2.Timeout(max(timeout_s, 0.001), connect=max(min(PROBE_TIMEOUT_S, timeout_s), 0.001))
        with (
            self._mapped(timeout_s),
            self._client.stream("POST", self._base + path, json=body, timeout=timeout) as response,
        ):
            if not response.is_success:
                response.read()
                raise refusal(self._reply(response))
            yield _lines_in_time(response.iter_bytes(), deadline, timeout_s)

    def hide(self, text: str) -> str:
        """Return ``text`` without the key and the password, which a server may repeat."""
        for secret in filter(None, (self._key, self._password)):
            text = text.replace(secret, "***")
        return text

    def _ask(self, method: str, path: str, body: Mapping[str, Any] | None, timeout_s: float, *, root: bool) -> Reply:
        base = self._base.removesuffix("/v1") if root else self._base
        with self._mapped(timeout_s):
            return self._reply(self._client.request(method, base + path, json=body, timeout=timeout_s))

    def _reply(self, response: httpx2.Response) -> Reply:
        after = response.headers.get("retry-after", "")
        # The other form, a date, is for pages that are gone for hours; no engine sends it.
        seconds = float(after) if re.fullmatch(r"\d{1,6}(\.\d+)?", after) else None
        return Reply(response.status_code, self.hide(response.text), seconds)

    @contextmanager
    def _mapped(self, timeout_s: float) -> Iterator[None]:
        try:
            yield
        except httpx2.ConnectTimeout as error:
            raise self._unreachable("it takes no connection") from error
        except httpx2.TimeoutException as error:
            raise too_late(timeout_s) from error
        except httpx2.HTTPError as error:
            raise self._unreachable(self.hide(str(error)) or type(error).__name__) from error

    def _unreachable(self, reason: str) -> EngineUnavailable:
        return EngineUnavailable(
            f"The server at {self.url} cannot be reached, or it broke off: {reason}",
            hint="Check the address, that it runs, and its log.",
        )


def _parsed(base_url: str) -> httpx2.URL:
    try:
        address = httpx2.URL(base_url.strip())
    except httpx2.InvalidURL as error:
        raise InvalidRequest("This is no address of a server", wanted="http://HOST:PORT/v1") from error
    if address.scheme not in ("http", "https") or not address.host:
        # The address may hold a password: only its scheme is shown.
        raise InvalidRequest(
            "This is no address of a server", got=address.scheme or "no scheme", wanted="http://HOST:PORT/v1"
        )
    return address


def _lines_in_time(pieces: Iterator[bytes], deadline: float, timeout_s: float) -> Iterator[str]:
    """Yield the lines of what comes. Only a line feed ends one: httpx2's own end at U+2028 too, which JSON may hold."""
    rest = b""
    for piece in pieces:
        if time.monotonic() > deadline:
            raise too_late(timeout_s)
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line.decode(errors="replace").rstrip("\r")
    if rest:
        yield rest.decode(errors="replace").rstrip("\r")


def _message(reply: Reply) -> str:
    """Return what a refusal says, out of the shapes that servers put it in."""
    error = reply.member("error")
    if isinstance(error, dict):
        error = error.get("message")
    for found in (error, reply.member("message"), reply.member("detail")):
        if isinstance(found, str) and found:
            return found
    return reply.text


def _try_again(after_s: float | None) -> str:
    return "" if after_s is None else f"Try again in {after_s:g} s."
