"""Functions mapped over items by a Ray cluster's tasks, in the items' order.

A task is a pure function of what it is sent, so one that a lost node had is done again by another, and
one that was lost too often is done here. Knows nothing of what the work is.
"""

from __future__ import annotations

import logging
import re
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic

import ray
from ray.exceptions import RayError, RaySystemError, RayTaskError

from data.errors import RagtuneError, StateError
from retrieval.ray.connection import RayCluster, unknown_to
from retrieval.workers import Done, R, T

log = logging.getLogger(__name__)

_RETRIES = 3
"""How often Ray does a task again whose process or node went away."""
_TASK_ITEMS = 32
_IN_FLIGHT_WEIGHT = 2048.0
"""Most work that is sent ahead; with files of a quarter of a megabyte to a unit, half a gigabyte."""


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

    The nodes need the same ragtune and the same embedding model; they need no files and no access to the store.
    """

    def __init__(self, address: str) -> None:
        """Keep the address. Raises as ``RayCluster``."""
        self.cluster = RayCluster(address)

    def map(
        self, function: Callable[[T], R], items: Iterable[T | Done[R]], weight: Callable[[T], float]
    ) -> Iterator[R]:
        """Yield one result for each item; tasks of twice the cluster's processors are under way.

        Raises:
            ClusterUnavailable: it cannot be reached, or has had no processor for half a minute.
            RagtuneError: the function raised it; the hint says on which node.
        """
        with self.cluster.used():
            tasks = _tasks(items, weight)
            waiting: deque[_Task[T, R]] = deque()
            remote = ray.remote(num_cpus=1, max_retries=_RETRIES, scheduling_strategy="SPREAD")(_work)
            sent: Any = None
            # What is under way when nobody wants it any more runs to its end and is dropped: to cancel it can end this
            # process (Ray 2.60, "Tried to complete task that was not pending"), and a job's end stops its tasks anyway.
            while True:
                while self._has_room(waiting) and (task := next(tasks, None)) is not None:
                    if task.items:
                        self.cluster.connect()
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
        self.cluster.close()

    def _has_room(self, waiting: deque[_Task[T, R]]) -> bool:
        """Say whether one more task may be sent ahead; one always may."""
        if not waiting:
            return True
        slots = 2 * self.cluster.processors() + 1
        sent = [task for task in waiting if task.reference is not None]
        weight = sum(task.weight for task in sent)
        return len(sent) < slots and weight < _IN_FLIGHT_WEIGHT and len(waiting) < 2 * slots

    def _result(self, function: Callable[[T], R], task: _Task[T, R]) -> Sequence[R]:
        """Wait for a task's results; do it here where Ray gave it up, or a node had no disk or memory for it."""
        if task.reference is None:
            return ()
        try:
            found: Sequence[R] = self.cluster.result_of(task.reference)
        except RayTaskError as error:
            cause = error.cause
            # Ray's words for what a process there cannot read: the code of a function, or a class of what it is given.
            if isinstance(cause, RaySystemError) or "failed to import on the worker" in str(cause):
                raise unknown_to(_where(error), cause) from error
            if not isinstance(cause, StateError):
                raise cause if isinstance(cause, Exception) else error from None
            log.warning("a node could not do a task (%s); it is done here", cause)
        except RayError as error:
            log.warning("a task was lost with its nodes (%s); it is done here", type(error).__name__)
        else:
            return found
        return [function(item) for item in task.items]


def _where(error: RayTaskError) -> str:
    """Return the address of the node that an error came from, as Ray tells it in the error's text."""
    found = re.search(r"\bip=([\w.:]+)", str(error))
    return found[1] if found else "where it was sent"


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
