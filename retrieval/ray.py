"""Work on a Ray cluster: parsing, chunking and embedding on its nodes, everything that is kept stays here.

A task is a pure function of what it is sent, so one that a lost node had is done again by another, and
one that was lost too often is done here. The importer of ray. Knows nothing of what the work is.
"""

from __future__ import annotations

import logging
import signal
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Generic

import ray
from ray.exceptions import RayError, RayTaskError

from data.errors import ClusterUnavailable, InvalidRequest, RagtuneError, StateError
from retrieval.workers import Done, R, T

log = logging.getLogger(__name__)

_CONNECT_S = 5.0
_POLL_S = 0.1
_LOOK_S = 2.0
"""How often the cluster is asked how many processors it has."""
_EMPTY_S = 30.0
"""How long a cluster without a processor is waited for: nodes come back, or an autoscaler brings some."""
_RETRIES = 3
"""How often Ray does a task again whose process or node went away."""
_TASK_ITEMS = 32
_IN_FLIGHT_WEIGHT = 2048.0
"""Most work that is sent ahead; with files of a quarter of a megabyte to a unit, half a gigabyte."""

# A client's opening of HTTP/2 with an empty SETTINGS frame, which a server answers with one of its own (RFC 9113, 3.4).
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(3) + b"\x04" + bytes(5)
_SETTINGS = 4


@dataclass(slots=True)
class _Task(Generic[T, R]):
    """Items that are worked on together, between results that were there already."""

    entries: list[T | Done[R]]
    weight: float
    reference: Any = None

    @property
    def items(self) -> list[T]:
        return [entry for entry in self.entries if not isinstance(entry, Done)]

    def results(self, done: Sequence[R]) -> Iterator[R]:
        """Yield one result for each entry."""
        left = iter(done)
        for entry in self.entries:
            yield entry.result if isinstance(entry, Done) else next(left)


class RayWorkers:
    """``Workers`` that are the nodes of a Ray cluster; connected to when there is work.

    This process has to be on a node of the cluster (one without processors will do). The nodes need the
    same ragtune and the same embedding model; they need none of the files and no access to the store.
    """

    def __init__(self, address: str) -> None:
        """Keep the address: ``auto`` (the cluster that this machine is a node of) or HOST:PORT.

        Raises:
            InvalidRequest: it is neither.
        """
        host, _, port = address.rpartition(":")
        if address != "auto" and not (host and "/" not in host and port.isdecimal() and int(port) < 2**16):
            raise InvalidRequest("Invalid address of a Ray cluster.", got=address, wanted="auto, or HOST:PORT")
        self._address, self._server = address, (host, int(port or 0))
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._connected = False
        self._users = 0
        self._slots, self._looked, self._seen = 0, 0.0, 0.0

    def map(
        self, function: Callable[[T], R], items: Iterable[T | Done[R]], weight: Callable[[T], float]
    ) -> Iterator[R]:
        """Yield one result for each item; tasks of twice the cluster's processors are under way.

        Raises:
            ClusterUnavailable: it cannot be reached, or has had no processor for half a minute.
            RagtuneError: the function raised it; the hint says on which node.
        """
        with self._use():
            tasks = _tasks(items, weight)
            waiting: deque[_Task[T, R]] = deque()
            remote = ray.remote(num_cpus=1, max_retries=_RETRIES, scheduling_strategy="SPREAD")(_work)
            sent: Any = None
            # What is under way when nobody wants it any more runs to its end and is dropped: to cancel it can end this
            # process (Ray 2.60, "Tried to complete task that was not pending"), and a job's end stops its tasks anyway.
            while True:
                while self._has_room(waiting) and (task := next(tasks, None)) is not None:
                    if task.items:
                        self._connect()
                        sent = ray.put(function) if sent is None else sent
                        task.reference = remote.remote(sent, task.items)
                    waiting.append(task)
                if not waiting:
                    return
                task = waiting[0]
                yield from task.results(self._result(function, task))
                waiting.popleft()

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

    @contextmanager
    def _use(self) -> Iterator[None]:
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1

    def _has_room(self, waiting: deque[_Task[T, R]]) -> bool:
        """Say whether one more task may be sent ahead; one always may."""
        if not waiting:
            return True
        sent = [task for task in waiting if task.reference is not None]
        weight = sum(task.weight for task in sent)
        return len(sent) < self._slots and weight < _IN_FLIGHT_WEIGHT and len(waiting) < 2 * self._slots

    def _connect(self) -> None:
        with self._lock:
            if self._closing.is_set():
                raise ClusterUnavailable("The cluster was left.", got=self._address)
            if self._connected:
                return
            self._probe()
            handler = signal.getsignal(signal.SIGTERM)
            if ray.is_initialized():  # workers that were closed while a thread of theirs was still inside
                ray.shutdown()
            try:
                ray.init(address=self._address, log_to_driver=False, configure_logging=False, logging_level="ERROR")
            except (RayError, ConnectionError, RuntimeError, ValueError, OSError, SystemExit) as error:
                ray.shutdown()
                raise self._unavailable(str(error).strip().split("\n")[0]) from error
            finally:
                if threading.current_thread() is threading.main_thread():
                    signal.signal(signal.SIGTERM, handler)  # Ray's own would end a job before it could say so.
            self._connected = True
            self._seen = time.monotonic()
        self._look()

    def _probe(self) -> None:
        """Find out in seconds that nothing like Ray is at the address, for which Ray itself takes minutes."""
        if self._address == "auto":
            return
        try:
            with socket.create_connection(self._server, _CONNECT_S) as connection:
                connection.settimeout(_CONNECT_S)
                connection.sendall(_PREFACE)
                answer = connection.recv(9)
        except OSError as error:
            raise self._unavailable(str(error)) from error
        if len(answer) < 4 or answer[3] != _SETTINGS:
            raise self._unavailable("what listens there does not speak its protocol")

    def _unavailable(self, reason: str) -> ClusterUnavailable:
        return ClusterUnavailable(
            f"The Ray cluster cannot be used: {reason}.",
            got=self._address,
            wanted="the address of a running cluster that this machine is a node of",
            hint="Start one: ray start --head; join one: ray start --address=HEAD:6379. Or unset RAGTUNE_RAY_ADDRESS.",
        )

    def _look(self) -> None:
        """See how many processors there are; nodes may come and go.

        Raises:
            ClusterUnavailable: there have been none for a while.
        """
        now = time.monotonic()
        if self._slots and now - self._looked < _LOOK_S:
            return
        processors = int(ray.cluster_resources().get("CPU", 0))
        self._looked, self._slots = now, 2 * processors + 1
        if processors:
            self._seen = now
        elif now - self._seen > _EMPTY_S:
            raise self._unavailable("none of its nodes has a processor to work with")

    def _result(self, function: Callable[[T], R], task: _Task[T, R]) -> Sequence[R]:
        """Wait for a task's results; do it here where Ray gave it up, or a node had no disk or memory for it."""
        if task.reference is None:
            return ()
        try:
            while not ray.wait([task.reference], timeout=_POLL_S)[0]:
                if self._closing.is_set():
                    raise ClusterUnavailable("The cluster was left.", got=self._address)
                self._look()
            found: Sequence[R] = ray.get(task.reference)
        except RayTaskError as error:
            cause = error.cause
            if not isinstance(cause, StateError):
                raise cause if isinstance(cause, Exception) else error from None
            log.warning("a node could not do a task (%s); it is done here", cause)
        except RayError as error:
            log.warning("a task was lost with its nodes (%s); it is done here", type(error).__name__)
        else:
            return found
        return [function(item) for item in task.items]


def _work(function: Callable[[T], R], items: Sequence[T]) -> list[R]:
    """Apply a function to some items, on some node."""
    try:
        return [function(item) for item in items]
    except RagtuneError as error:
        error.hint = f"{error.hint} It happened on the node {socket.gethostname()}.".strip()
        raise


def _tasks(items: Iterable[T | Done[R]], weight: Callable[[T], float]) -> Iterator[_Task[T, R]]:
    """Put items together until there are enough to be worth a task."""
    task: _Task[T, R] = _Task([], 0.0)
    for entry in items:
        task.entries.append(entry)
        task.weight += 0 if isinstance(entry, Done) else weight(entry)
        if task.weight >= 1 or len(task.entries) >= _TASK_ITEMS:
            yield task
            task = _Task([], 0.0)
    if task.entries:
        yield task
