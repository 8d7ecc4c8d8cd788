import threading
from collections.abc import Iterator

import pytest

from retrieval.ahead import ahead


def test_every_item_comes_in_order() -> None:
    with ahead(iter(range(100)), lambda _: 1, 7) as items:
        assert list(items) == list(range(100))


def test_no_more_than_the_limit_waits() -> None:
    made: list[int] = []
    full = threading.Event()

    def make() -> Iterator[int]:
        for number in range(50):
            made.append(number)
            if number == 5:
                full.set()
            yield number

    with ahead(make(), lambda _: 10, 50) as items:
        assert full.wait(10)
        taken = []
        for item in items:
            taken.append(item)
            # Five wait, one is being handed over, one was taken.
            assert len(made) <= len(taken) + 6
    assert taken == list(range(50))


def test_an_item_over_the_limit_passes_alone() -> None:
    with ahead(iter([1, 1000, 1]), lambda item: item, 10) as items:
        assert list(items) == [1, 1000, 1]


def test_an_error_comes_after_what_was_made() -> None:
    def make() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    with ahead(make(), lambda _: 1, 10) as items:
        assert next(items) == 1
        with pytest.raises(ValueError, match="broken"):
            next(items)


def test_leaving_early_stops_the_thread() -> None:
    made: list[int] = []

    def make() -> Iterator[int]:
        for number in range(1_000_000):
            made.append(number)
            yield number

    with ahead(make(), lambda _: 1, 3) as items:
        assert next(items) == 0
    assert len(made) < 10
    assert "ahead" not in {thread.name for thread in threading.enumerate()}
