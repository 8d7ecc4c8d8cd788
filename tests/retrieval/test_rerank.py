from collections.abc import Sequence

import pytest

from data.records import Chunk, Passage
from retrieval.duplicates import collapse
from retrieval.rerank import CANDIDATES, LikelihoodReranker, rerank


def passages(*texts: str) -> list[Passage]:
    return [
        Passage(Chunk(str(i), "d", text, 0, len(text)), 1.0 - i / 100, i + 1, "dense") for i, text in enumerate(texts)
    ]


class Longest:
    share = 1.0

    def scores(self, query: str, texts: Sequence[str]) -> list[float]:
        return [float(len(text)) for text in texts]


def test_a_reranker_decides_the_order_by_its_share() -> None:
    found = rerank("q", passages("a", "bbb", "cc"), Longest())
    assert [passage.chunk.text for passage in found] == ["bbb", "cc", "a"]
    assert [passage.rank for passage in found] == [1, 2, 3]
    mild = Longest()
    mild.share = 0.1
    assert [passage.chunk.text for passage in rerank("q", passages("a", "bbb", "cc"), mild)] == ["a", "bbb", "cc"]


def test_passages_past_the_candidates_follow_below() -> None:
    found = rerank("q", passages(*("x" * (i + 1) for i in range(CANDIDATES + 2))), Longest())
    assert [len(passage.chunk.text) for passage in found[-2:]] == [CANDIDATES + 1, CANDIDATES + 2]
    assert [passage.score for passage in found] == sorted((p.score for p in found), reverse=True)


@pytest.mark.parametrize("count", [0, 1])
def test_nothing_to_reorder(count: int) -> None:
    assert len(rerank("q", passages(*"a" * count), Longest())) == count


def test_the_likelihood_is_asked_for_every_passage() -> None:
    reranker = LikelihoodReranker(lambda query, text: -abs(len(query) - len(text)))
    assert reranker.scores("four", ["a", "four", "sixsix"]) == [-3, 0, -2]


TEXT = " ".join(f"word{i}" for i in range(60))


def test_near_copies_are_counted_on_the_better_one() -> None:
    found = collapse(passages(TEXT, "Something else.", TEXT.upper() + "!", TEXT + " end", TEXT[: len(TEXT) // 2]), 4)
    assert [(p.rank, p.duplicates) for p in found] == [(1, 2), (2, 0), (3, 0)]


def test_copies_past_the_limit_are_counted_too() -> None:
    found = collapse(passages(TEXT, "Something else.", TEXT), 1)
    assert [(p.chunk.text, p.duplicates) for p in found] == [(TEXT, 1)]


def test_chinese_copies_are_seen_as_such() -> None:
    text = "第一条说明了适用范围，第二条规定用户必须先登录，否则请求会被拒绝。"
    assert [p.duplicates for p in collapse(passages(text, text.replace("，", ", ")), 5)] == [1]
