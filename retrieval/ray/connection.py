"""The connection to a Ray cluster: one of this process, opened when there is work, closed at its end.

Knows nothing of tasks and actors.
"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import RayError

from data.errors import ClusterUnavailable, InvalidRequest

_CONNECT_S = 5.0
_POLL_S = 0.1
_LOOK_S = 2.0
"""How often the cluster is asked how many processors it has."""
_EMPTY_S = 30.0
"""How long a cluster without a processor is waited for: nodes come back, or an autoscaler brings some."""

# A client's opening of HTTP/2 with an empty SETTINGS frame, which a server answers with one of its own (RFC 9113, 3.4).
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
_SETTINGS = 4


@dataclass(frozen=True, slots=True)
class Node:
    """A node that lives: Ray's id of it, its host's name, and how many processors and GPUs it lends."""

    id: str
    host: str
    processors: int
    gpus: int


class RayCluster:
    """A cluster by its address; connected to when there is work. Thread-safe.

    This process has to be on a node of the cluster (one without processors will do).
    """

    def __init__(self, address: str) -> None:
        """Keep the address: ``auto`` (the cluster that this machine is a node of) or HOST:PORT.

        Raises:
            InvalidRequest: it is neither.
        """
        host, _, port = address.rpartition(":")
        if address != "auto" and not (host and "/" not in host and port.isdecimal() and int(port) < 2**16):
            raise InvalidRequest("Invalid address of a Ray cluster.", got=address, wanted="auto, or HOST:PORT")
        self.address, self._server = address, (host, int(port or 0))
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._connected = False
        self._users = 0
        self._processors, self._looked, self._seen = 0, 0.0, 0.0

    @contextmanager
    def used(self) -> Iterator[None]:
        """Keep the connection for as long as somebody works with it."""
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1

    def close(self) -> None:
        """Give up what is under way and leave the cluster."""
        self._closing.set()
        deadline = time.monotonic() + _CONNECT_S
        while self._users and time.monotonic() < deadline:
            time.sleep(_POLL_S / 10)
        with self._lock:
            # A thread that is still inside of Ray would have the ground taken from under it: it ends with the process.
            if self._connected and not self._users:
                ray.shutdown()
                self._connected = False

    def connect(self) -> None:
        """Connect unless that is done.

        Raises:
            ClusterUnavailable: it cannot be reached, is of another version, or was left.
        """
        with self._lock:
            if self._closing.is_set():
                raise self._left()
            if self._connected:
                return
            self._probe()
            handler = signal.getsignal(signal.SIGTERM)
            if ray.is_initialized():  # a connection that was closed while a thread of its own was still inside
                ray.shutdown()
            try:
                ray.init(address=self.address, log_to_driver=False, configure_logging=False, logging_level="ERROR")
            except (RayError, ConnectionError, RuntimeError, ValueError, OSError, SystemExit) as error:
                ray.shutdown()
                raise self.unavailable(_reason(error)) from error
            finally:
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGTERM, handler)  # Ray's own would end a job before it could say so.
            self._connected = True
            self._seen = time.monotonic()
        self.processors()

    def processors(self) -> int:
        """Return how many processors there are, 0 before there is a connection; nodes may come and go.

        Raises:
            ClusterUnavailable: there have been none for a while.
        """
        now = time.monotonic()
        if not self._connected or now - self._looked < _LOOK_S:
            return self._processors
        self._processors = int(ray.cluster_resources().get("CPU", 0))
        self._looked = now
        if self._processors:
            self._seen = now
        elif now - self._seen > _EMPTY_S:
            raise self.unavailable("none of its nodes has a processor to work with")
        return self._processors

    def nodes(self) -> list[Node]:
        """Return the nodes that live and lend processors."""
        found = []
        for row in ray.nodes():
            lent = row.get("Resources", {})
            if row["Alive"] and lent.get("CPU", 0) >= 1:
                found.append(Node(row["NodeID"], row["NodeManagerHostname"], int(lent["CPU"]), int(lent.get("GPU", 0))))
        return found

    def result_of(self, reference: Any) -> Any:
        """Wait for what a task or a call returns.

        Raises:
            ClusterUnavailable: the cluster was left, or has had no processor for a while.
            RayError: as ``ray.get`` raises.
        """
        while not ray.wait([reference], timeout=_POLL_S)[0]:
            if self._closing.is_set():
                raise self._left()
            self.processors()
        return ray.get(reference)

    def _left(self) -> ClusterUnavailable:
        return ClusterUnavailable("The cluster was left.", got=self.address)

    def _probe(self) -> None:
        """Find out in seconds that nothing like Ray is at the address, for which Ray itself takes minutes."""
        if self.address == "auto":
            return
        try:
            with socket.create_connection(self._server, _CONNECT_S) as connection:
                connection.settimeout(_CONNECT_S)
                connection.sendall(_PREFACE)
                answer = connection.recv(9)
        except OSError as error:
            raise self.unavailable(str(error)) from error
        if len(answer) < 4 or answer[3] != _SETTINGS:
            raise self.unavailable("what listens there does not speak its protocol")

    def unavailable(self, reason: str) -> ClusterUnavailable:
        """Return the error that says why the cluster cannot be used."""
        return ClusterUnavailable(
            f"The Ray cluster cannot be used: {reason}.",
            got=self.address,
            wanted="the address of a running cluster that this machine is a node of",
            hint="Start one: ray start --head; join one: ray start --address=HEAD:6379. Or unset RAGTUNE_RAY_ADDRESS.",
        )


def _reason(error: BaseException) -> str:
    """Return what Ray says in one line; where versions differ both stand in the lines that follow the first."""
    lines = [line.strip() for line in str(error).strip().splitlines()]
    return " ".join(lines).rstrip(".") if lines and lines[0].startswith("Version mismatch") else "".join(lines[:1])


def unknown_to(node: str, error: Exception) -> ClusterUnavailable:
    """Return the error of a node that does not know what it was sent, ragtune or a part of it."""
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return ClusterUnavailable(
        f"The node {node} cannot do what it was sent.",
        got=f"{type(error).__name__}: {lines[-1] if lines else ''}",
        wanted="the same ragtune, with all that it needs, on every node",
        hint="Install it there in the version that is here.",
    )
