"""Who does the work that is a function of its input alone: this process, or others (``retrieval.ray``).

Knows nothing of what the work is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Done(Generic[R]):
    """Stands among the items for a result that is there already."""

    result: R


class Workers(Protocol):
    """Applies a function to a stream of items.

    What it is given and what it returns may cross to another process: values, and functions that are
    values (instances of module-level classes), which depend on nothing but themselves.
    """

    def map(
        self, function: Callable[[T], R], items: Iterable[T | Done[R]], weight: Callable[[T], float]
    ) -> Iterator[R]:
        """Yield one result for each item, in the order of the items, which are taken as they are needed.

        Args:
            function: applied to each item that is not ``Done``; what it raises is raised here.
            items: may be without end; some are taken ahead of what is yielded.
            weight: of an item; 1 is worth a trip to another process, lighter ones share one.
        """

    def close(self) -> None:
        """Give up what is under way and let go of the workers; safe to call twice."""


class LocalWorkers:
    """``Workers`` in this thread: item after item."""

    def map(
        self,
        function: Callable[[T], R],
        items: Iterable[T | Done[R]],
        weight: Callable[[T], float],  # noqa: ARG002
    ) -> Iterator[R]:
        """Yield one result for each item; nothing is taken ahead."""
        for item in items:
            yield item.result if isinstance(item, Done) else function(item)

    def close(self) -> None:
        """Do nothing."""
