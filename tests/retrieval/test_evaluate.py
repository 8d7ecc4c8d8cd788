import json
import math
from pathlib import Path

import pytest

from data.errors import InvalidRequest, NoQuestions
from data.records import Question
from retrieval.evaluate import evaluate_questions, evaluate_retrieval
from retrieval.ingest import Ingestor
from retrieval.measures import compare, ndcg_at, recall_at, reciprocal_rank
from retrieval.retriever import Retriever
from tests.retrieval.hashing import HashingEmbedder

DOCUMENTS = [
    ("d1", "Apples", "Apples grow on trees and some of them are red."),
    ("d2", "Pears", "Pears are sweet and green."),
    ("d3", "Trains", "Trains run on rails between cities."),
    ("d4", "Ships", "Ships sail on the sea."),
]
QUERIES = [("q1", "red apples"), ("q2", "sweet pears"), ("q3", "rails"), ("q4", "nobody judged this")]
QRELS = "query_id\tdocument_id\trelevance\nq1\td1\t2\nq1\td2\t1\nq2\td2\t1\nq3\td3\t1\nq3\td4\t0\n"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path, Path]:
    corpus, queries, qrels = tmp_path / "c.jsonl", tmp_path / "q.jsonl", tmp_path / "r.tsv"
    corpus.write_text("".join(json.dumps({"id": i, "title": t, "text": x}) + "\n" for i, t, x in DOCUMENTS))
    queries.write_text("".join(json.dumps({"id": i, "text": x}) + "\n" for i, x in QUERIES))
    qrels.write_text(QRELS)
    return corpus, queries, qrels


def test_measures_by_hand() -> None:
    relevant = {"a": 2.0, "b": 1.0}
    assert ndcg_at(["a", "b"], relevant, 10) == pytest.approx(1.0)
    assert ndcg_at(["x", "a"], relevant, 10) == pytest.approx((2 / math.log2(3)) / (2 + 1 / math.log2(3)))
    assert ndcg_at(["a", "b"], relevant, 1) == pytest.approx(1.0)
    assert recall_at(["x", "b"], relevant, 2) == 0.5
    assert recall_at(["x", "b"], relevant, 1) == 0.0
    assert reciprocal_rank(["x", "y", "b"], relevant) == pytest.approx(1 / 3)
    assert ndcg_at([], relevant, 10) == recall_at([], relevant, 5) == reciprocal_rank([], relevant) == 0.0


def test_every_method_gets_every_figure_with_its_interval(files: tuple[Path, Path, Path]) -> None:
    result = evaluate_retrieval(*files, HashingEmbedder())
    assert set(result["methods"]) == {"hybrid", "dense", "lexical"}
    assert result["queries"] == 3
    for figures in result["methods"].values():
        assert set(figures) == {"ndcg@10", "recall@1", "recall@5", "recall@10", "mrr", "ci"}
        for measure in ("ndcg@10", "recall@5", "mrr"):
            low, high = figures["ci"][measure]
            assert 0 <= low <= figures[measure] <= high <= 1
    assert result["methods"]["lexical"]["mrr"] == 1.0
    assert result["methods"]["dense"]["recall@5"] == 1.0


def test_the_figures_are_reproducible(files: tuple[Path, Path, Path]) -> None:
    assert evaluate_retrieval(*files, HashingEmbedder()) == evaluate_retrieval(*files, HashingEmbedder())


def test_only_the_chosen_methods_run(files: tuple[Path, Path, Path]) -> None:
    assert list(evaluate_retrieval(*files, HashingEmbedder(), ["lexical"])["methods"]) == ["lexical"]


def test_unrelated_judgements_are_an_error(files: tuple[Path, Path, Path]) -> None:
    files[2].write_text("query\tdocument\trelevance\nother\td1\t1\n")
    with pytest.raises(NoQuestions):
        evaluate_retrieval(*files, HashingEmbedder())


@pytest.mark.parametrize(
    ("which", "content", "line"),
    [
        (0, '{"id": "d1", "text": "x"}\nnot json\n', "Line 2"),
        (0, '{"id": "d1", "title": "x"}\n', "Line 1"),
        (0, "[1]\n", "Line 1"),
        (1, '{"text": "x"}\n', "Line 1"),
        (2, "h\th\th\nq1\td1\tmany\n", "Line 2"),
        (2, "h\th\th\nq1 d1 1\n", "Line 2"),
    ],
)
def test_a_malformed_line_is_named(files: tuple[Path, Path, Path], which: int, content: str, line: str) -> None:
    files[which].write_text(content)
    with pytest.raises(InvalidRequest, match=line):
        evaluate_retrieval(*files, HashingEmbedder())


def test_a_missing_file_is_named(files: tuple[Path, Path, Path], tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest) as raised:
        evaluate_retrieval(tmp_path / "none.jsonl", files[1], files[2], HashingEmbedder())
    assert "none.jsonl" in str(raised.value)


def test_differences_are_paired(files: tuple[Path, Path, Path]) -> None:
    result = evaluate_retrieval(*files, HashingEmbedder())
    assert set(result["differences"]) == {"hybrid-dense", "hybrid-lexical", "dense-lexical"}
    found = result["differences"]["hybrid-lexical"]["ndcg@10"]
    means = [result["methods"][method]["ndcg@10"] for method in ("hybrid", "lexical")]
    assert found["difference"] == pytest.approx(means[0] - means[1], abs=2e-4)
    assert found["ci"][0] <= found["difference"] <= found["ci"][1]


def test_no_p_value_is_zero() -> None:
    rankings = {"a": {f"q{n}": ["x"] for n in range(30)}, "b": {f"q{n}": ["y", "x"] for n in range(30)}}
    found = compare(rankings, {f"q{n}": {"x": 1.0} for n in range(30)})["differences"]["a-b"]["ndcg@10"]
    assert found["p"] == pytest.approx(2 / 1001, abs=1e-4), "each of a thousand resamples favours a"


def test_queries_on_which_methods_differ_are_named() -> None:
    rankings = {"a": {"q1": ["x"], "q2": ["x"], "q3": ["y"]}, "b": {"q1": ["x"], "q2": ["y", "x"], "q3": ["z", "z2"]}}
    relevant = {"q1": {"x": 1.0}, "q2": {"x": 1.0}, "q3": {"y": 1.0}}
    rows = compare(rankings, relevant, disagreements=5)["disagreements"]
    assert [row["id"] for row in rows] == ["q3", "q2"]
    assert rows[0]["first"] == {"a": "y", "b": "z"}
    assert len(compare(rankings, relevant, disagreements=1)["disagreements"]) == 1
    assert "disagreements" not in compare(rankings, relevant)


def test_own_questions_are_asked_of_a_collection(ingestor: Ingestor, retriever: Retriever, folder: Path) -> None:
    ingestor.ingest("default", [folder])
    name = next(path.name for path in sorted(folder.iterdir()) if path.suffix == ".txt" or path.suffix == ".md")
    word = (folder / name).read_text().split()[-1].strip(".")
    questions = [
        Question("named", word, (), document=name),
        Question("answered", word, (word,)),
        Question("unanswerable", "none", (), answerable=False),
    ]
    result = evaluate_questions(questions, retriever, disagreements=3)
    assert (result["queries"], result["left_out"]) == (2, 1)
    assert result["methods"]["lexical"]["recall@5"] == 1.0
    with pytest.raises(NoQuestions):
        evaluate_questions(questions[2:], retriever)
