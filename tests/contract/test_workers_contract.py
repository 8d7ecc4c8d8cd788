"""What every ``Workers`` promises, wherever the work is done."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from data.errors import DamagedDocument, InvalidRequest
from data.store import Store
from retrieval.vectors import embedded_ahead, text_hash
from retrieval.workers import Done, LocalWorkers, Workers
from tests.retrieval.hashing import HashingEmbedder


@pytest.fixture(scope="module", params=["local", pytest.param("ray", marks=pytest.mark.slow)])
def workers(request: pytest.FixtureRequest) -> Iterator[Workers]:
    if request.param == "ray":
        from retrieval.ray import RayWorkers

        found: Workers = RayWorkers(request.getfixturevalue("ray_cluster").address)
    else:
        found = LocalWorkers()
    yield found
    found.close()


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    store = Store.open(tmp_path / "ragtune.db")
    yield store
    store.close()


@dataclass(frozen=True)
class Times:
    factor: int

    def __call__(self, number: int) -> int:
        if number < 0:
            raise InvalidRequest("A negative number.", got=number, wanted="0 or more", hint="Take another.")
        return self.factor * number


def light(_: object) -> float:
    return 0.3


def test_results_come_in_the_order_of_the_items(workers: Workers) -> None:
    assert list(workers.map(Times(3), range(100), light)) == [3 * number for number in range(100)]


def test_what_is_done_is_passed_on_in_its_place(workers: Workers) -> None:
    items = [Done(-1), 1, Done(-2), Done(-3), 2, Done(-4)]
    assert list(workers.map(Times(10), items, light)) == [-1, 10, -2, -3, 20, -4]
    assert list(workers.map(Times(10), [Done(5)], light)) == [5]
    assert list(workers.map(Times(10), [], light)) == []


def test_items_without_end_are_taken_as_they_are_needed(workers: Workers) -> None:
    results = workers.map(Times(2), itertools.count(), light)
    assert list(itertools.islice(results, 50)) == [2 * number for number in range(50)]
    results.close()  # type: ignore[attr-defined]


def test_an_error_of_the_function_is_raised_with_all_it_says(workers: Workers) -> None:
    with pytest.raises(InvalidRequest) as raised:
        list(workers.map(Times(1), [1, 2, -7], light))
    assert (raised.value.detail, raised.value.got, raised.value.wanted) == ("A negative number.", -7, "0 or more")
    assert raised.value.hint.startswith("Take another.")


def test_an_error_among_the_items_is_raised(workers: Workers) -> None:
    def items() -> Iterator[int]:
        yield 1
        raise DamagedDocument("It ended.", got="a.zip")

    with pytest.raises(DamagedDocument, match="It ended"):
        list(workers.map(Times(1), items(), light))


def test_texts_are_embedded_once_and_items_come_when_theirs_are(workers: Workers, store: Store) -> None:
    embedder = HashingEmbedder()
    items = [(number, [f"text {number // 2}", f"of {number}"][: number % 3]) for number in range(600)]
    for number in embedded_ahead(store, embedder, workers, items):
        hashes = [text_hash(text) for text in items[number][1]]
        assert store.embeddings.get_many(embedder.fingerprint, hashes).keys() == set(hashes)
    distinct = {text for _, texts in items for text in texts}
    assert store.embeddings.count(embedder.fingerprint) == len(distinct)
    cached = store.embeddings.get_many(embedder.fingerprint, map(text_hash, distinct))
    for text in distinct:
        assert cached[text_hash(text)] == embedder.embed_queries([text])[0].astype("<f4").tobytes()
    unreachable = HashingEmbedder()
    unreachable.embed_documents = None  # type: ignore[method-assign, assignment]
    assert list(embedded_ahead(store, unreachable, LocalWorkers(), items)) == list(range(600))


def process_id(_: int) -> int:
    return os.getpid()


def test_the_work_is_done_where_it_is_said_to_be(workers: Workers) -> None:
    found = set(workers.map(process_id, range(20), lambda _: 1.0))
    assert (found == {os.getpid()}) == isinstance(workers, LocalWorkers)
    assert len(found) <= 20
