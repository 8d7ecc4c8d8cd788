"""Proposals are shared out so that they add up, and no document gets more than its share."""

from __future__ import annotations

from collections import Counter

import pytest

from retrieval.plan import most_per_source, share_out

# One large, talkative document and nine small ones.
SOURCE_OF = {key: "large" if key < 90 else f"small {key}" for key in range(99)}
INFORMATION = {key: 50 if key < 90 else 5 for key in range(99)}


def by_source(requested: int, most: int) -> Counter[str]:
    plan = share_out(INFORMATION, requested, seed=1, source_of=SOURCE_OF, most=most)
    assert sum(quota.tries for quota in plan) == requested
    assert len({quota.key for quota in plan}) == len(plan)
    counts: Counter[str] = Counter()
    for quota in plan:
        counts[SOURCE_OF[quota.key]] += quota.tries
    return counts


@pytest.mark.parametrize("requested", [10, 50, 99, 500])
def test_one_document_gets_no_more_than_its_share(requested: int) -> None:
    most = most_per_source(0.25, requested, 10)
    counts = by_source(requested, most)
    assert counts["large"] <= most + 1
    assert by_source(requested, requested)["large"] > 2 * most
    if requested >= 50:
        assert len(counts) == 10


def test_where_every_document_is_full_the_rest_is_still_shared() -> None:
    assert by_source(100, 2).total() == 100


def test_a_few_documents_can_fill_a_set() -> None:
    assert [most_per_source(0.25, 100, n) for n in (1, 2, 4, 8, 100)] == [100, 100, 50, 25, 25]
    assert most_per_source(0.01, 10, 1000) == 1
