"""Something that is kept on every node of a Ray cluster, an engine say, and functions that are applied with it.

Each node has one actor, which has the whole node. A call is a function of what it is sent, so one whose node was lost
is made again with another. Nodes that come are used, nodes that go are missed. Knows nothing of what is kept.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import ray
from ray.exceptions import RayError, RayTaskError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from data.errors import ClusterUnavailable, RagtuneError, StateError
from retrieval.ray.connection import Node, RayCluster, unknown_to

log = logging.getLogger(__name__)

H = TypeVar("H")
T = TypeVar("T")
R = TypeVar("R")

_TRIES = 4
"""How often a call is made whose node goes away each time."""
_LOSSES = 3
"""An actor that was lost so often on a living node is not started there again."""
_NEAR = 1000
"""Calls whose node is remembered, of each node."""
_TEND_S = 1.0
_SEAT_S = 0.1
_QUEUED_S = 30.0
"""So long after its order an actor that did not begin is said to wait for processors."""


class Do(Protocol):
    """Applies a function with what an actor holds: ``do(function, item)`` is ``function(held, item)`` there."""

    def __call__(self, function: Callable[[Any, T], R], item: T) -> R:
        """Return what the function returns."""


Supply = Callable[[Do], None]
"""Gives an actor something that calls need, once for each actor."""


class _Held:
    """What runs on a node."""

    def __init__(self) -> None:
        self._held: Any = None

    def begin(self, make: Callable[[int], Any], processors: int) -> None:
        self._held = make(processors)

    def do(self, function: Callable[[Any, Any], Any], item: Any) -> Any:
        return function(self._held, item)


@dataclass(eq=False, slots=True)
class _Seat:
    """An actor on a node: how many calls it is at, what it was given, and which calls it had lately."""

    node: Node
    actor: Any
    begun: Any
    ordered: float
    ready: bool = False
    told: bool = False
    running: int = 0
    given: set[str] = field(default_factory=set)
    giving: threading.Lock = field(default_factory=threading.Lock)
    near: OrderedDict[bytes, None] = field(default_factory=OrderedDict)

    def took(self, near: bytes) -> None:
        self.running += 1
        self.near[near] = None
        self.near.move_to_end(near)
        while len(self.near) > _NEAR:
            self.near.popitem(last=False)


class RayActors(Generic[H]):
    """What ``make`` returns on each node, and calls of functions with it. Thread-safe.

    Args:
        cluster: closed by whoever made it.
        make: a value; called on each node with the number of its processors.
        together: how many calls an actor is at, at the same time.
    """

    def __init__(self, cluster: RayCluster, make: Callable[[int], H], together: int) -> None:
        self._cluster, self._make, self._together = cluster, make, together
        self._changed = threading.Condition()
        self._seats: list[_Seat] = []
        self._losses: Counter[str] = Counter()
        self._left_out: dict[str, str] = {}
        self._refused: RagtuneError | None = None
        self._closed = False
        self._tended = 0.0

    def places(self) -> int:
        """Return how many calls the nodes that are there now can be at together.

        Raises:
            ClusterUnavailable: the cluster cannot be reached.
        """
        self._cluster.connect()
        return self._together * max(1, len(self._cluster.nodes()))

    def call(
        self, function: Callable[[H, T], R], item: T, *, near: bytes = b"", needs: Mapping[str, Supply] | None = None
    ) -> R:
        """Apply a function on a node that has room; wait until one has.

        Args:
            function: a value; what it raises is raised here.
            item: a value.
            near: calls of the same are made on the same node where that has room.
            needs: what the actor must have been given before, in this order, by name.

        Raises:
            ClusterUnavailable: no node is there or can do it, or each that tried was lost.
            RagtuneError: the function raised it; or a node could not begin or be given something, and the hint
                says which.
        """
        with self._cluster.used():
            self._cluster.connect()
            lost = 0
            while lost < _TRIES:
                with self._seated(near) as seat:
                    try:
                        if self._supplied(seat, needs or {}):
                            return self._done(seat, function, item)
                    except RayError as error:
                        lost += 1
                        self._lose(seat, type(error).__name__)
        raise ClusterUnavailable(
            "Work was lost with its node each time that it was tried.",
            got=f"{_TRIES} times",
            hint="See the nodes' logs.",
        )

    def close(self) -> None:
        """Let go of the actors; what they are at runs to its end."""
        with self._changed:
            self._closed = True
            self._seats.clear()  # an actor ends with the last that knows it

    def _done(self, seat: _Seat, function: Callable[[H, T], R], item: T) -> R:
        try:
            result: R = self._cluster.result_of(seat.actor.do.remote(function, item))
        except RayTaskError as error:
            raise _cause(error) from None
        return result

    def _supplied(self, seat: _Seat, needs: Mapping[str, Supply]) -> bool:
        """Give an actor what it does not have; say whether it has all then, or has no room for it."""
        with seat.giving:
            for name, supply in needs.items():
                if name in seat.given:
                    continue
                try:
                    supply(lambda function, item: self._done(seat, function, item))
                except ClusterUnavailable:
                    raise
                except StateError as error:
                    self._leave_out(seat, str(error))
                    return False
                except RagtuneError as error:
                    raise _at(error, seat.node) from None
                seat.given.add(name)
        return True

    @contextmanager
    def _seated(self, near: bytes) -> Iterator[_Seat]:
        seat = self._seat(near)
        try:
            yield seat
        finally:
            with self._changed:
                seat.running -= 1
                self._changed.notify_all()

    def _seat(self, near: bytes) -> _Seat:
        """Take a place at the actor that had the same last, else at the one with the least to do."""
        with self._changed:
            while True:
                self._tend()
                free = [seat for seat in self._seats if seat.ready and seat.running < self._together]
                if free:
                    best = min(free, key=lambda seat: (near not in seat.near, seat.running))
                    best.took(near)
                    return best
                self._changed.wait(_SEAT_S)

    def _tend(self) -> None:
        """See which nodes there are and which actors have begun; the caller has the lock.

        Raises:
            ClusterUnavailable: there are none, or none can do the work.
            RagtuneError: a node refused, and the hint says which.
        """
        now = time.monotonic()
        if self._refused is not None:
            raise self._refused
        if self._closed:
            raise ClusterUnavailable("The cluster's engines were let go.")
        for seat in [seat for seat in self._seats if not seat.ready]:
            self._welcome(seat, now)
        if now - self._tended < _TEND_S:
            return
        self._tended = now
        self._cluster.connect()
        self._cluster.processors()
        nodes = {node.id: node for node in self._cluster.nodes()}
        for seat in [seat for seat in self._seats if seat.node.id not in nodes]:
            self._lose(seat, "the node is gone")
        taken = {seat.node.id for seat in self._seats}
        self._seats += [self._order(node) for node in nodes.values() if node.id not in taken | self._left_out.keys()]
        if nodes and not self._seats:
            raise self._cluster.unavailable(f"none of its nodes can do the work ({'; '.join(self._left_out.values())})")

    def _order(self, node: Node) -> _Seat:
        actor = (
            ray.remote(_Held)
            .options(
                num_cpus=node.processors,
                num_gpus=node.gpus,
                max_concurrency=self._together + 1,
                scheduling_strategy=NodeAffinitySchedulingStrategy(node.id, soft=False),
            )
            .remote()
        )
        return _Seat(node, actor, actor.begin.remote(self._make, node.processors), time.monotonic())

    def _welcome(self, seat: _Seat, now: float) -> None:
        """See whether an actor has begun, or why not."""
        if not ray.wait([seat.begun], timeout=0)[0]:
            if now - seat.ordered > _QUEUED_S and not seat.told:
                seat.told = True
                log.warning("the node %s has no processor free yet; its part of the work waits", seat.node.host)
            return
        try:
            ray.get(seat.begun)
        except RayTaskError as error:
            cause = _cause(error)
            if isinstance(cause, StateError) and not isinstance(cause, ClusterUnavailable):
                self._leave_out(seat, str(cause))
                return
            self._seats.clear()  # what the others hold is free for whoever comes next
            self._refused = (
                _at(cause, seat.node) if isinstance(cause, RagtuneError) else unknown_to(seat.node.host, cause)
            )
            raise self._refused from None
        except RayError as error:
            self._lose(seat, type(error).__name__)
        else:
            seat.ready = True

    def _lose(self, seat: _Seat, why: str) -> None:
        """Forget an actor that is gone; its node gets another one, if it lives and did not lose too many."""
        with self._changed:
            if seat not in self._seats:
                return
            self._seats.remove(seat)
            self._losses[seat.node.id] += 1
            log.warning("an actor on the node %s was lost (%s); others go on with its work", seat.node.host, why)
            if self._losses[seat.node.id] >= _LOSSES:
                self._left_out[seat.node.id] = f"{seat.node.host}: lost {_LOSSES} times ({why})"

    def _leave_out(self, seat: _Seat, why: str) -> None:
        """Do without a node that has no disk or memory."""
        with self._changed:
            log.warning("the node %s cannot do its part (%s); others do it", seat.node.host, why)
            self._left_out[seat.node.id] = f"{seat.node.host}: {why}"
            self._seats = [other for other in self._seats if other is not seat]


def _cause(error: RayTaskError) -> Exception:
    """Return what a function raised on a node."""
    return error.cause if isinstance(error.cause, Exception) else error


def _at(error: RagtuneError, node: Node) -> RagtuneError:
    error.hint = f"{error.hint} It happened on the node {node.host}.".strip()
    return error
