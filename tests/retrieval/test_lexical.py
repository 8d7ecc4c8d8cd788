from pathlib import Path

import bm25s
import numpy as np
import pytest

from data.errors import StorageCorrupt
from data.protocols import Vectors
from retrieval import lexical
from retrieval.chunk import chunk, embedded_text
from retrieval.lexical import TantivyIndex, query_terms, terms
from retrieval.load import load
from tests.retrieval.hashing import HashingEmbedder
from tests.retrieval.test_chunk import CORPUS, document

NONE: Vectors = np.zeros((1, 0), dtype=np.float32)


def filled(folder: Path, *texts: str) -> TantivyIndex:
    index = TantivyIndex(folder)
    index.add(range(len(texts)), texts, np.zeros((len(texts), 0), dtype=np.float32))
    index.save()
    return index


def keys(index: TantivyIndex, query: str) -> list[int]:
    return [hit.key for hit in index.search(query, NONE, 10)]


def test_terms_are_words_chinese_characters_and_bigrams() -> None:
    assert terms("GPT-4 用于机器学习。Ｆｕｌｌ 学") == [
        "gpt",
        "4",
        *"用于机器学习",
        "用于",
        "于机",
        "机器",
        "器学",
        "学习",
        "full",
        "学",
    ]


@pytest.mark.parametrize(
    ("query", "kept"),
    [
        ("什么是备份？", "是备份"),
        ("請問怎麼升級?", "升級"),
        ("哪一位皇帝，有几个国家呢", "皇帝有个国家"),
        ("几何与任何为了，哪吒，吗啡，几内亚", "几何与任何为了哪吒吗啡几内亚"),
        ("为什么？", "为什么"),
    ],
)
def test_words_that_only_ask_are_not_searched_for(query: str, kept: str) -> None:
    assert [term for term in query_terms(query) if len(term) == 1] == list(kept)


def test_a_document_that_asks_is_not_what_a_question_looks_for(tmp_path: Path) -> None:
    index = filled(tmp_path, "什么什么什么", "升级的步骤很多，要先看清楚说明")
    assert keys(index, "升级是什么？") == [1]
    assert keys(index, "什么？") == [0]


def test_a_repeated_term_counts_more(tmp_path: Path) -> None:
    index = filled(tmp_path, "heat", "flow")
    assert keys(index, "heat flow flow") == [1, 0]
    assert keys(index, "heat heat flow") == [0, 1]


@pytest.mark.parametrize("query", ["runs", "RUNNING", "run!", "What is running?"])
def test_english_is_stemmed(tmp_path: Path, query: str) -> None:
    assert keys(filled(tmp_path, "The dog runs away", "A cat sleeps"), query) == [0]


def test_accents_do_not_matter(tmp_path: Path) -> None:
    index = filled(tmp_path, "Île-de-France", "Picardy")
    assert keys(index, "ile") == keys(index, "Île") == [0]


def test_chinese_words_of_two_characters_are_found(tmp_path: Path) -> None:
    index = filled(tmp_path, "备份数据库的方法", "升级集群的步骤", "数据迁移")
    assert keys(index, "如何升级？") == [1]
    assert keys(index, "数据库")[0] == 0


@pytest.mark.parametrize("query", ["", "  ", "?!", "AND OR (", 'body:"x', "\\", "zebra"])
def test_a_query_without_known_terms_finds_nothing(tmp_path: Path, query: str) -> None:
    assert keys(filled(tmp_path, "The dog runs away"), query) == []


def test_a_very_long_query_is_answered(tmp_path: Path) -> None:
    assert keys(filled(tmp_path, "one", "two"), " ".join(f"word{i}" for i in range(50_000)) + " two") == []
    assert keys(filled(tmp_path, "one", "two"), "two " + " ".join(f"word{i}" for i in range(50_000))) == [1]


def test_rankings_agree_with_bm25s(tmp_path: Path) -> None:
    embedder = HashingEmbedder()
    texts = []
    for path in CORPUS:
        loaded = load(path)
        pieces = chunk(document(loaded.text, title=loaded.title), embedder.count_tokens, 100)
        texts.extend(embedded_text(piece) for piece in pieces)
    index = filled(tmp_path, *texts)
    oracle = bm25s.BM25(k1=1.2, b=0.75)
    oracle.index([terms(text) for text in texts], show_progress=False)
    agreed = []
    for query in (
        "ash trees of Fresno",
        "oxygen discovered by Priestley",
        "Doctor Who TARDIS",
        "black death plague rats",
    ):
        expected = oracle.retrieve([terms(query)], k=5, show_progress=False).documents[0]
        agreed.append(len({int(key) for key in expected} & set(keys(index, query)[:5])))
    # Stemming and folding are ours alone, so not every rank is the same.
    assert sum(agreed) >= 0.7 * 5 * len(agreed)


def test_a_damaged_index_says_so(tmp_path: Path) -> None:
    filled(tmp_path, "text").close()
    (tmp_path / "meta.json").write_text("{")
    with pytest.raises(StorageCorrupt):
        TantivyIndex(tmp_path)


def test_changes_that_were_not_saved_are_dropped_on_close(tmp_path: Path) -> None:
    index = filled(tmp_path, "kept")
    index.add([5], ["dropped"], NONE)
    index.close()
    assert TantivyIndex(tmp_path).keys().tolist() == [0]


def test_words_side_by_side_count_more(tmp_path: Path) -> None:
    index = filled(tmp_path, "heat of a plate and its flow", "flow of heat and a plate", "the plate and heat flow of a")
    assert keys(index, "heat flow")[0] == 2


def test_changed_wording_of_chinese_is_found_by_its_characters(tmp_path: Path) -> None:
    assert keys(filled(tmp_path, "经营者的责任", "天气很好"), "经济责") == [0]


def test_a_filter_holds_inside_the_search(tmp_path: Path) -> None:
    index = filled(tmp_path, *(f"apple number {i}" for i in range(500)))
    allowed = np.arange(7, 500, 100, dtype=np.int64)
    assert sorted(hit.key for hit in index.search("apple", NONE, 10, allowed)) == allowed.tolist()
    assert index.search("apple", NONE, 10, np.zeros(0, dtype=np.int64)) == []


def test_a_wide_filter_finds_what_a_narrow_one_would(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = filled(tmp_path, *(f"{'heat flow ' * (i % 7)} plate {'filler ' * (i % 11)}" for i in range(600)))
    allowed = np.arange(0, 600, 3, dtype=np.int64)
    narrow = index.search("heat flow plate", NONE, 20, allowed)
    monkeypatch.setattr(lexical, "_MANY", 10)
    assert index.search("heat flow plate", NONE, 20, allowed) == narrow
    assert index.search("heat", NONE, 500, allowed) == [
        hit for hit in index.search("heat", NONE, 600) if hit.key in set(allowed.tolist())
    ]


@pytest.mark.parametrize("large", [0, 10**6], ids=["candidates by rarer terms", "everything scored"])
def test_others_are_scored_beside_the_best(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, large: int) -> None:
    monkeypatch.setattr("retrieval.lexical._LARGE", large)
    texts = [f"common {'rare ' * (row % 7)}{'pair of words ' * (row % 3)}text{row}" for row in range(60)]
    index = TantivyIndex(tmp_path)
    index.add(range(60), texts, np.zeros((60, 0), dtype=np.float32))
    index.save()
    query, others = "common text59 text3 text0 pair", np.array([0, 3, 8, 59, 999], dtype=np.int64)
    every = {hit.key: hit.score for hit in index.search(query, np.zeros((1, 0), dtype=np.float32), 60, np.arange(60))}
    found = index.search_beside(query, 2, lambda: others)
    assert [hit.key for hit in found[:2]] == sorted(every, key=lambda key: (-every[key], key))[:2]
    assert {hit.key for hit in found} == {hit.key for hit in found[:2]} | {0, 3, 8, 59}
    assert all(hit.score == pytest.approx(every[hit.key], rel=1e-5) for hit in found)
