"""Starts the engine's child process by fork instead of anew, so that thousands of hostile files take minutes.

What runs in the child is the service's own: ``service.engine.worker.main``, confined, over a socket. Forked is a
process that has its libraries loaded already and no model; starting it by a command takes as long as a hundred files.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from service.engine import child, worker
from service.engine.protocol import Channel

_POLL_S = 0.001


class _Process:
    """What ``Child`` asks of a process."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._code: int | None = None

    def kill(self) -> None:
        if self._code is None:
            os.kill(self.pid, signal.SIGKILL)

    def wait(self, timeout: float | None = None) -> int:
        until = None if timeout is None else time.monotonic() + timeout
        while self._code is None:
            found, status = os.waitpid(self.pid, 0 if until is None else os.WNOHANG)
            if found:
                self._code = os.waitstatus_to_exitcode(status)
            elif until is not None and time.monotonic() > until:
                raise subprocess.TimeoutExpired("forked worker", timeout or 0)
            else:
                time.sleep(_POLL_S)
        return self._code


class ForkedChild(child.Child):
    """A worker forked from this process, which must have no threads."""

    def __init__(self, writable: Sequence[Path] = ()) -> None:
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        ours, theirs = socket.socketpair()
        pid = os.fork()
        if pid == 0:
            ours.close()
            _work(theirs, self._stderr.fileno(), writable)
        theirs.close()
        self._process = _Process(pid)  # type: ignore[assignment]
        self.channel = Channel(ours)


def _work(theirs: socket.socket, stderr: int, writable: Sequence[Path]) -> None:
    try:
        os.dup2(stderr, 2)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.argv = ["worker", str(theirs.detach()), *map(str, writable)]
        worker.main()
    finally:
        os._exit(1)


@contextlib.contextmanager
def forked() -> Iterator[None]:
    """Have ``run_once`` fork its process while this lasts."""
    started = child.Child
    child.Child = ForkedChild  # type: ignore[misc]
    try:
        yield
    finally:
        child.Child = started  # type: ignore[misc]
