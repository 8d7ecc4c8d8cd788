"""Start the engine's child process, talk to it over a socket, and bury it.

Knows how to reach ``service.engine.worker``; knows nothing of requests or restarts.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.errors import EngineTimeout, EngineUnavailable, InvalidModel
from service.engine.protocol import Channel, error_from_wire

_ROOT = Path(__file__).resolve().parents[2]
"""Where ``service`` is found: the child's working directory, and so the head of its module path."""

_STDERR_TAIL_BYTES = 600


class Child:
    """A running worker process."""

    def __init__(self, writable: Sequence[Path] = ()) -> None:
        """Start the process; it makes no connection and writes beneath ``writable`` alone (``data.confine``).

        Raises:
            EngineUnavailable: the operating system refuses.
        """
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        ours, theirs = socket.socketpair()
        try:
            for folder in writable:
                folder.mkdir(parents=True, exist_ok=True)
            self._process = subprocess.Popen(
                [sys.executable, "-m", "service.engine.worker", str(theirs.fileno()), *map(str, writable)],
                cwd=_ROOT,
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._stderr,
            )
        except OSError as error:
            ours.close()
            self._stderr.close()
            raise EngineUnavailable(f"The engine process cannot be started: {error.strerror}") from error
        finally:
            theirs.close()
        self.channel = Channel(ours)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def close(self) -> None:
        """End the process; safe to call twice."""
        self.channel.close()
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()  # it has nothing to save
        self._process.wait()
        self._stderr.close()

    def obituary(self) -> str:
        """Say how a process that hung up ended, with the last lines it wrote."""
        try:
            code = self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            return "it hung up but still runs"
        ended = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        try:
            size = self._stderr.seek(0, 2)
            self._stderr.seek(max(0, size - _STDERR_TAIL_BYTES))
            tail = " | ".join(self._stderr.read().decode(errors="replace").split("\n")[-5:]).strip(" |")
        except ValueError:  # close() was quicker: we ended it ourselves
            return "it was closed"
        return f"{ended}; {tail}" if tail else ended


def run_once(order: Mapping[str, Any], *, path: Path, timeout_s: float, writable: Sequence[Path] = ()) -> Any:
    """Have a fresh process carry out one order and return its answer.

    Args:
        order: for the worker, without its id.
        path: the file the order is about, for the error message of a crash.
        timeout_s: how long it may take.
        writable: the folders it may write into.

    Raises:
        InvalidModel: the process crashed on the file.
        EngineTimeout: no answer in time.
        Whatever the order raises.
    """
    child = Child(writable)
    try:
        child.channel.set_timeout(timeout_s)
        child.channel.send({**order, "id": 0})
        message, _ = child.channel.receive()
    except TimeoutError as error:
        raise EngineTimeout(f"{path.name} took too long", got=f"more than {timeout_s:g} s") from error
    except (EOFError, OSError) as error:
        raise InvalidModel(
            f"llama.cpp crashed on {path.name}", got=child.obituary(), hint="The file is damaged: get it again."
        ) from error
    finally:
        child.close()
    if message["event"] == "error":
        raise error_from_wire(message["error"])
    return message["value"]
