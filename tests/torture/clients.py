"""Rows 19 and 23 of the matrix: clients that send a byte a second, that never read, and that leave.

They are all connected at once to a server as it is run, while somebody else searches. A client that was not cut off, a
search that failed, and whatever is still held when all are gone, are faults. Answers come from a script and are larger
than what the kernel takes in for a reader: the server has to notice by itself.
"""

from __future__ import annotations

import asyncio
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import psutil

from data.protocols import Delta, GenerationRequest
from service.pace import GRACE_S
from tests.service.conftest import real_server, small_workspace
from tests.service.parts import ScriptedGenerator, wait_until

FAULTS = ("held", "failed", "leaked")
_TOO_LONG_S = 3 * GRACE_S
"""A client that is connected for so long was not cut; the machine may be busy."""
_WORDS, _LETTERS = 64, 100_000
"""Of a long answer: 6.4 MB, more than Linux buffers for a reader whose window is small."""
_SENTENCES = 350_000
"""Of a long document: 6 MB."""
_EMPTY = b"POST /v1/%b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: %b\r\nContent-Length: %d\r\n\r\n%b"

Connected = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class CountedGenerator(ScriptedGenerator):
    """Counts the answers that are being written."""

    def __init__(self) -> None:
        super().__init__(lambda request: " ".join([self._word(request)] * _WORDS))
        self.writing = 0
        self._mutex = threading.Lock()

    def _word(self, request: GenerationRequest) -> str:
        return "x" * (_LETTERS if "long" in request.messages[-1].content else 3)

    def stream(self, request: GenerationRequest) -> Iterator[Delta]:
        with self._mutex:
            self.writing += 1
        try:
            yield from super().stream(request)
        finally:
            with self._mutex:
                self.writing -= 1


def _post(path: str, body: bytes, kind: str = "application/json", length: int | None = None) -> bytes:
    return _EMPTY % (path.encode(), kind.encode(), len(body) if length is None else length, body)


_FORM = b'--b\r\nContent-Disposition: form-data; name="files"; filename="slow.md"\r\n\r\n# Slow'
TRICKLED = {
    "headers": b"GET /v1/documents HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Slow: ",
    "body": _post("search", b'{"query": "', length=1 << 20),
    "form": _post("documents", _FORM, "multipart/form-data; boundary=b", 1 << 20),
    "after the answer": _post("no-such-route", b"x", length=1 << 20),
}
"""What a slow client sends at once; then come spaces, one a second."""
ASKED = b'{"question": "Is it long?", "mode": "base", "stream": true, "max_tokens": %d}'


def unread(document: str) -> dict[str, bytes]:
    """Return requests with large answers: one that is written as it is read, one that is whole."""
    whole = f"GET /v1/documents/{document}/text HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    return {"stream": _post("answers", ASKED % _WORDS), "whole": whole.encode()}


async def _trickle(begun: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(begun)
    while not reader.at_eof():
        writer.write(b" ")
        await writer.drain()
        reading = asyncio.create_task(reader.read(1 << 16))
        done, _ = await asyncio.wait([reading], timeout=1)
        if done:
            reading.result()
        else:
            reading.cancel()


async def _never_read(asked: bytes, _reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Ask, and look only whether the server is still there: to send fails once it has cut the connection."""
    writer.write(asked)
    while True:
        await asyncio.sleep(1)
        writer.write(b"G")
        await writer.drain()


async def _leave(asked: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Ask, read the beginning, and go."""
    writer.write(asked)
    heard = b""
    while b"event: token" not in heard and (block := await reader.read(1 << 16)):
        heard += block
    assert b"event: token" in heard, heard[:500]


def kinds(document: str) -> list[tuple[str, Connected]]:
    """Return what each kind of client does once it is connected; those with large answers are every fifth."""
    slow: list[tuple[str, Connected]] = [(name, partial(_trickle, begun)) for name, begun in TRICKLED.items()]
    large: list[tuple[str, Connected]] = [(name, partial(_never_read, a)) for name, a in unread(document).items()]
    large.append(("leaves", partial(_leave, unread(document)["stream"])))
    return [kind for one in large for kind in (*slow, one)]


async def held(port: int, connected: Connected) -> bool:
    """Connect and return whether the server was still there when it should have been gone."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port))
    reader, writer = await asyncio.open_connection(sock=sock)
    try:
        async with asyncio.timeout(_TOO_LONG_S):
            await connected(reader, writer)
    except TimeoutError:
        return True
    except ConnectionError:
        return False
    else:
        return False
    finally:
        writer.transport.abort()


async def _search(url: str, until: asyncio.Event, counts: Counter[str]) -> float:
    """Search until it is told to stop; count what failed, and return the slowest in seconds."""
    slowest = 0.0
    async with httpx.AsyncClient(base_url=url, timeout=_TOO_LONG_S) as client:
        while not until.is_set():
            began = time.perf_counter()
            answer = await client.post("/v1/search", json={"query": "Who kept the lighthouse of Orrin?"})
            slowest = max(slowest, time.perf_counter() - began)
            counts["searches"] += 1
            counts["failed"] += answer.status_code != 200
            await asyncio.sleep(0.05)
    return slowest


async def _meet(url: str, chosen: list[tuple[str, Connected]], counts: Counter[str]) -> float:
    port, done = urlsplit(url).port or 0, asyncio.Event()
    searching = asyncio.create_task(_search(url, done, counts))
    for (name, _), was_held in zip(
        chosen, await asyncio.gather(*(held(port, connected) for _, connected in chosen)), strict=True
    ):
        counts["held"] += was_held
        if was_held:
            print(f"held: {name}", flush=True)  # noqa: T201
    done.set()
    return await searching


def connections(port: int) -> int:
    """Return how many connections the server of this process has."""
    found = psutil.Process().net_connections("tcp")
    return sum(one.laddr.port == port and one.status != psutil.CONN_LISTEN for one in found)


def run(trials: int, seed: int, folder: Path) -> dict[str, float | int]:
    """Connect ``trials`` clients at once; return what went wrong, and the slowest search beside them in seconds."""
    generator = CountedGenerator()
    counts: Counter[str] = Counter(dict.fromkeys(FAULTS, 0))
    with small_workspace(folder / "state", generator) as workspace:
        documents = folder / "documents"
        documents.mkdir()
        (documents / "orrin.md").write_text("The lighthouse of Orrin was kept by Mara Venn.\n", encoding="utf-8")
        (documents / "large.md").write_text("# Large\n\n" + "The sea is wide. " * _SENTENCES, encoding="utf-8")
        workspace.ingestor.ingest("default", [documents])
        chosen = kinds(workspace.store.documents.by_source("default")["large.md"].id)
        picked = [chosen[number % len(chosen)] for number in range(trials)]
        random.Random(seed).shuffle(picked)
        with real_server(workspace) as url:
            port = urlsplit(url).port or 0
            slowest = asyncio.run(_meet(url, picked, counts))
            with suppress(AssertionError):
                wait_until(lambda: not connections(port) and not generator.writing)
            counts["leaked"] += connections(port) + generator.writing
        counts["leaked"] += sum(1 for _ in workspace.state.tmp.iterdir())
    return {"trials": trials, "slowest_search_s": round(slowest, 2), **counts}
