"""Serves the HTTP application with uvicorn: checks, lock, start, and a stop that loses nothing.

Knows nothing of the routes.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from data.errors import DatabaseUnavailable, InvalidRequest, PortTaken, RagtuneError
from service.hangup import Hangups
from service.pace import GRACE_S, LEAST_BYTES_PER_S
from service.server_log import server_log
from service.settings import Settings
from service.spans import tracing
from service.workspace import Workspace

log = logging.getLogger(__name__)

_BACKLOG = 128
_FINISH_S = 2.0
"""How long answers get to be finished when the server stops; then they end, and their clients are told."""
_STOP_S = 5
"""When connections are cut: clients need a moment to be told, more on a busy machine."""
RETRY_S = 2.0
"""How long to leave a database that is down alone."""


def check_exposure(settings: Settings, keys: Callable[[], bool]) -> None:
    """Refuse to be reachable from elsewhere without an API key.

    Raises:
        InvalidRequest: the host is not a loopback address, and no key exists.
        DatabaseUnavailable: whether one exists only a database that is down can tell.
    """
    if settings.loopback or settings.api_key is not None or keys():
        return
    raise InvalidRequest(
        "Serving beyond this machine needs an API key",
        got=settings.host,
        wanted="RAGTUNE_API_KEY, or a key made with: ragtune keys create NAME",
        hint="Or serve on 127.0.0.1.",
    )


def bind(host: str, port: int) -> socket.socket:
    """Return a listening socket on ``host:port``; port 0 takes any that is free.

    Raises:
        PortTaken: another process listens there.
        InvalidRequest: the host is no address of this machine, or the port is not ours to take.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # Connections inherit it. asyncio sets it only where a socket names its protocol, and without it the body of a reply
    # waits up to 40 ms for the client to acknowledge the headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PortTaken(
                f"Port {port} is in use", got=f"{host}:{port}", hint="Stop what uses it, or choose another with --port."
            ) from error
        raise InvalidRequest(f"Cannot serve there: {error}", got=f"{host}:{port}") from error
    listener.set_inheritable(False)
    return listener


def serve(workspace: Workspace, *, on_ready: Callable[[str], None] | None = None) -> None:
    """Serve until SIGINT or SIGTERM; takes the lock on the state directory, closes the workspace.

    Args:
        workspace: what is served, not locked yet.
        on_ready: called with the URL once requests are accepted.

    Raises:
        PortTaken, StateLocked, StateNotWritable, InvalidRequest: nothing was started.
    """
    settings = workspace.settings
    check_exposure(settings, lambda: any(key.valid for key in workspace.store.keys.list()))
    with bind(settings.host, settings.port) as listener:
        shown = f"[{settings.host}]" if ":" in settings.host else settings.host
        url = f"http://{shown}:{listener.getsockname()[1]}"
        with workspace.lock(url), server_log(_log_path(workspace), settings.log_level), tracing():
            try:
                _run(workspace, listener, url, on_ready)
            finally:
                workspace.close()


def _log_path(workspace: Workspace) -> Path:
    """Return the server's log file; where servers share the folder each has one of its own."""
    name = f"server-{socket.gethostname()}-{workspace.settings.port}" if workspace.shares_state else "server"
    return workspace.state.logs / f"{name}.log"


def server_config(app: FastAPI) -> uvicorn.Config:
    """Return how ``app`` is served."""
    return uvicorn.Config(
        app,
        http=Connection,
        log_config=None,
        access_log=False,
        # Whom a request comes from is its connection's address: a header that says otherwise can be forged.
        proxy_headers=False,
        timeout_graceful_shutdown=_STOP_S,
        server_header=False,
        ws="none",
    )


def _run(workspace: Workspace, listener: socket.socket, url: str, on_ready: Callable[[str], None] | None) -> None:
    from service.app import create_app

    app = create_app(workspace)
    server = _Server(server_config(app), lambda: on_ready(url) if on_ready is not None else None, app.state.hangups)
    threading.Thread(target=_warm, args=(workspace,), name="warm", daemon=True).start()
    server.run(sockets=[listener])


def _warm(workspace: Workspace) -> None:
    """Load the models before the first question; what is wrong is told again when one is asked."""
    _load("starter adapters", workspace.ensure_starter_adapters)
    _load("engine", workspace.warm)
    _load("index", lambda: workspace.ingestor.status("default"))  # what the first request for it would wait for


def _load(what: str, load: Callable[[], object]) -> None:
    """Load something; where only the database is missing, as soon as that is there."""
    while True:
        try:
            load()
        except DatabaseUnavailable as error:
            log.warning("waiting for the database: %s", error.detail)
            time.sleep(RETRY_S)
        except RagtuneError as error:
            log.warning("the %s is not ready: %s", what, error)
            return
        else:
            return


class _Server(uvicorn.Server):
    """A server that tells when it accepts requests, and ends what is still written when it stops."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None], hangups: Hangups) -> None:
        super().__init__(config)
        self._on_ready, self._hangups = on_ready, hangups

    def handle_exit(self, sig: int, frame: object) -> None:  # noqa: ARG002 (uvicorn calls it so)
        """Stop on the first signal, at once on the second; never raise the signal again afterwards.

        uvicorn's own would end this process before the lock and the engine are let go.
        """
        if self.should_exit and sig == signal.SIGINT:
            self.force_exit = True
        self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, then tell."""
        await super().startup(sockets)
        if self.started:
            self._on_ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let answers be finished for a while, then end those that are not."""
        loop = asyncio.get_running_loop()
        ending = loop.call_later(_FINISH_S, lambda: loop.run_in_executor(None, self._hangups.stop))
        await super().shutdown(sockets)
        ending.cancel()


class Connection(H11Protocol):
    """A connection that is cut where its client is too slow; uvicorn itself waits for ever.

    Waited for are the headers of a request, whatever comes of a body after its answer, and the client's reading of an
    answer: until then the connection holds a descriptor, and an answer its memory and its place in the engine.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._asking, self._reading = _Timer(self.loop), _Timer(self.loop)
        self._asking.start(transport.abort)

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        super().connection_lost(exc)
        self._asking.stop()
        self._reading.stop()

    def data_received(self, data: bytes) -> None:
        """Take in what came; wait on where it is not yet a request, or the rest of one that was answered."""
        super().data_received(data)
        if self._answering:
            self._asking.stop()
        else:  # the time runs from the first byte: further ones do not start it anew
            self._asking.start(self.transport.abort)

    def on_response_complete(self) -> None:
        """Wait for the client to read the rest."""
        super().on_response_complete()
        self._wait_for_reader()

    def pause_writing(self) -> None:
        """Wait for the client to read what lies here, before more is written."""
        super().pause_writing()
        self._wait_for_reader()

    def resume_writing(self) -> None:
        """Note that the client reads; where no more will be written, it has the rest to read."""
        super().resume_writing()
        self._reading.stop()
        if not self._answering:
            self._wait_for_reader()

    @property
    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def _wait_for_reader(self) -> None:
        self._reading.stop()
        if unread := self.transport.get_write_buffer_size():
            self._reading.start(lambda: self._check_reader(unread))

    def _check_reader(self, before: int) -> None:
        if self._answering and not self.flow.write_paused:
            return  # the next answer is being written: what lies here says nothing of what was read
        unread = self.transport.get_write_buffer_size()
        if unread and before - unread < LEAST_BYTES_PER_S * GRACE_S:
            self.transport.abort()
        else:
            self._wait_for_reader()


class _Timer:
    """Calls something after the time that a client is waited for."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._handle: asyncio.TimerHandle | None = None

    def start(self, then: Callable[[], object]) -> None:
        """Begin to wait, unless it does already."""
        if self._handle is None:
            self._handle = self._loop.call_later(GRACE_S, self._end, then)

    def stop(self) -> None:
        """Wait no longer."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _end(self, then: Callable[[], object]) -> None:
        self._handle = None
        then()
