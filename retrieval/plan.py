"""Share proposals out among chunks: by the information each holds, and no document too many.

Knows nothing of generators, checks or the store.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Quota:
    """How many proposals are asked of the chunk with the store's key ``key``; the last ones unanswerable."""

    key: int
    tries: int
    unanswerable: int = 0


def most_per_source(share: float, requested: int, sources: int) -> int:
    """Return how many of ``requested`` proposals one document may get.

    ``share`` (over 0, up to 1) is widened to twice an even share, so that a handful of documents can still
    fill a set: with 4 documents to a half, with 2 to all of it.
    """
    return math.ceil(min(1.0, max(share, 2 / max(1, sources))) * requested)


def share_out(
    information_of: Mapping[int, int],
    requested: int,
    *,
    seed: int,
    unanswerable_share: float = 0.0,
    source_of: Mapping[int, str] | None = None,
    most: int | None = None,
) -> list[Quota]:
    """Share ``requested`` proposals among chunks by the information each holds, in a seeded order.

    Every chunk gets one try as long as there are enough (and ``most`` allows it), the rest is shared in
    proportion (largest remainders); with too few, informative chunks are drawn first. The order is shuffled, so that a
    run that is cut short has seen all documents alike.

    Args:
        information_of: the information of each chunk, by its key (``retrieval.wording.information``).
        requested: number of proposals; the quotas add up to it.
        seed: decides the draw.
        unanswerable_share: expected share of unanswerable questions, 0 to 1.
        source_of: the document of each chunk, where ``most`` is given.
        most: proposals for the chunks of one document (one more by rounding); where all documents have so
            many, what is left is shared among all.
    """
    random = Random(seed)  # noqa: S311  (sampling, no secret)
    keys = sorted(information_of)
    order = sorted(keys, key=lambda key: random.random() ** (1 / (information_of[key] + 0.1)), reverse=True)
    sources = source_of if source_of is not None and most is not None else dict.fromkeys(keys, "")
    room = dict.fromkeys(sources.values(), requested if source_of is None or most is None else most)
    order = _within(order, sources, room)[:requested]
    for key in order:
        room[sources[key]] -= 1
    weights = {key: information_of[key] + 1 for key in order}
    more = _spread(requested - len(order), weights, sources, room)
    random.shuffle(order)
    tries = {key: 1 + more[key] for key in order}
    return [Quota(key, tries[key], int(tries[key] * unanswerable_share + random.random())) for key in order]


def _within(order: Iterable[int], sources: Mapping[int, str], room: Mapping[str, int]) -> list[int]:
    """Return the keys without those for which their document has no more room."""
    taken: Counter[str] = Counter()
    kept: list[int] = []
    for key in order:
        if taken[sources[key]] < room[sources[key]]:
            kept.append(key)
            taken[sources[key]] += 1
    return kept


def _spread(
    rest: int, weights: Mapping[int, int], sources: Mapping[int, str], room: Mapping[str, int]
) -> dict[int, int]:
    """Share ``rest`` by weight; a document that would get more than its room gets that, the others what is left."""
    given = dict.fromkeys(weights, 0)
    free = dict(weights)
    while rest and free:
        total = sum(free.values())
        wanted: defaultdict[str, float] = defaultdict(float)
        for key, weight in free.items():
            wanted[sources[key]] += rest * weight / total
        full = {source for source, share in wanted.items() if share > max(0, room[source])}
        if not full:
            return _add(given, _largest_remainders(rest, free))
        for source in sorted(full):
            own = {key: free.pop(key) for key in list(free) if sources[key] == source}
            given = _add(given, _largest_remainders(max(0, room[source]), own))
            rest -= max(0, room[source])
    return _add(given, _largest_remainders(rest, weights))


def _largest_remainders(count: int, weights: Mapping[int, int]) -> dict[int, int]:
    total = sum(weights.values())
    exact = {key: count * weight / total for key, weight in weights.items()}
    shares = {key: int(share) for key, share in exact.items()}
    for key in sorted(weights, key=lambda key: exact[key] % 1, reverse=True)[: count - sum(shares.values())]:
        shares[key] += 1
    return shares


def _add(given: Mapping[int, int], more: Mapping[int, int]) -> dict[int, int]:
    return {key: count + more.get(key, 0) for key, count in given.items()}
