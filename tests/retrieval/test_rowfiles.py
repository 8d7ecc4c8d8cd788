"""Row files: exported rows are production's messages, do not leak, and can be imported again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from data.errors import InvalidRequest, NoAcceptedPairs, SplitLeak
from data.prompt import ANSWER_WITH_PASSAGES, answer_messages
from data.records import QAPair, content_id
from retrieval.rowfiles import export_rows, import_pairs, split_pairs
from tests.retrieval.scripted import Corpus
from tests.retrieval.test_examples import ROWS


@pytest.fixture
def corpus(tmp_path: Path) -> Iterator[Corpus]:
    with Corpus(tmp_path) as made:
        yield made


def add(corpus: Corpus, question: str, answer: str, words: str) -> None:
    chunk_ids = (corpus.chunk_id(words),)
    kind = "span" if answer else "unanswerable"
    pair = QAPair(content_id(question), question, answer, chunk_ids, kind, "test", "accepted")
    corpus.store.pairs.add("default", None, [pair])


def add_all(corpus: Corpus) -> None:
    for question, answer, words in ROWS:
        add(corpus, question, answer, words)
    add(corpus, "Who designed the first bridge of Fresno?", "", "founded in 1872")


def lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_exported_rows_are_what_production_would_send(corpus: Corpus, tmp_path: Path) -> None:
    add_all(corpus)
    result = export_rows(corpus.store, corpus.retriever, "default", tmp_path / "rows", eval_share=0.4, seed=1)
    assert sorted(result["files"]) == ["eval.instruction.jsonl", "eval.jsonl", "train.instruction.jsonl", "train.jsonl"]
    rows = lines(tmp_path / "rows" / "train.jsonl") + lines(tmp_path / "rows" / "eval.jsonl")
    assert result["train"] + result["eval"] == len(rows) >= 8
    by_question = {row["messages"][1]["content"].rsplit("Question: ")[-1]: row["messages"] for row in rows}
    question = "Where was Martin Luther born in 1483?"
    asked = answer_messages(question, corpus.retriever.search(question, "default", 4))
    label = asked[-1].parts[0][1:3]  # the passage that holds the answer comes first
    assert by_question[question][:-1] == [{"role": m.role, "content": m.content} for m in asked]
    assert by_question[question][-1] == {"role": "assistant", "content": f"Eisleben [{label}]"}
    assert by_question["Who designed the first bridge of Fresno?"][-1]["content"] == "I don't know."


def test_formats_hold_the_same_rows(corpus: Corpus, tmp_path: Path) -> None:
    add_all(corpus)
    export_rows(
        corpus.store, corpus.retriever, "default", tmp_path, formats=("chat", "instruction", "sharegpt"), seed=1
    )
    chat, instruction = lines(tmp_path / "train.jsonl"), lines(tmp_path / "train.instruction.jsonl")
    shared = lines(tmp_path / "train.sharegpt.jsonl")
    assert len(chat) == len(instruction) == len(shared) > 0
    for row, other, third in zip(chat, instruction, shared, strict=True):
        assert other["instruction"] == row["messages"][0]["content"] == ANSWER_WITH_PASSAGES["en"]
        assert [other["input"], other["output"]] == [message["content"] for message in row["messages"][1:]]
        assert [turn["value"] for turn in third["conversations"]] == [m["content"] for m in row["messages"]]
    with pytest.raises(InvalidRequest, match="csv"):
        export_rows(corpus.store, corpus.retriever, "default", tmp_path, formats=("csv",))  # type: ignore[arg-type]


def test_documents_and_near_duplicates_stay_on_one_side(corpus: Corpus) -> None:
    add_all(corpus)
    for words in ("Albrecht", "Sendivogius"):
        add(corpus, f"What is told in two documents alike{'?' * len(words)}", words, words)
    split = split_pairs(corpus.store, "default", eval_share=0.4, seed=1)
    documents = [
        {corpus.store.chunks.get(pair.chunk_ids[0]).document_id for pair in side}
        for side in (split.train, split.evaluation)
    ]
    assert all(documents)
    assert not documents[0] & documents[1]
    told = [sum(pair.question.startswith("What is told") for pair in side) for side in (split.train, split.evaluation)]
    assert sorted(told) == [0, 2]


def test_a_leak_fails_the_export_and_names_both_rows(corpus: Corpus, tmp_path: Path) -> None:
    add_all(corpus)
    for words in ("Albrecht", "Sendivogius", "founded in 1872"):
        add(corpus, f"What is told in all three documents alike{'?' * len(words)}", words, words)
    with pytest.raises(SplitLeak) as caught:
        export_rows(corpus.store, corpus.retriever, "default", tmp_path / "rows", eval_share=0.4, seed=1)
    first, second = (content_id(f"What is told in all three documents alike{'?' * n}") for n in (8, 11))
    assert first in str(caught.value)
    assert second in str(caught.value)
    assert not (tmp_path / "rows").exists()


def test_export_without_accepted_pairs_says_so(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(NoAcceptedPairs, match="pairs generate"):
        export_rows(corpus.store, corpus.retriever, "default", tmp_path)


def test_exported_rows_can_be_imported_again(corpus: Corpus, tmp_path: Path) -> None:
    add_all(corpus)
    export_rows(
        corpus.store, corpus.retriever, "default", tmp_path, formats=("chat", "instruction"), eval_share=0, seed=1
    )
    for name in ("train.jsonl", "train.instruction.jsonl"):
        report = import_pairs(corpus.store, name.split(".")[1], tmp_path / name, retriever=corpus.retriever)
        assert report.failed == []
        pairs = corpus.store.pairs.all(name.split(".")[1], "accepted")
        assert {row[:2] for row in ROWS} <= {(pair.question, pair.answer) for pair in pairs}
        assert "Who designed the first bridge of Fresno?" in {p.question for p in pairs if p.kind == "unanswerable"}


def test_imported_pairs_find_their_chunk_and_come_once(corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    rows = [
        {
            "id": "1",
            "question": "Where was Luther born?",
            "answers": ["In Saxony", "eisleben"],
            "document": "luther.md",
        },
        {"id": "2", "question": "Is oxygen a gas?", "answers": ["Yes, it is a gas at room temperature."]},
        {"id": "3", "question": "Who founded Leipzig?", "answers": [], "answerable": False},
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    report = import_pairs(corpus.store, "default", path, retriever=corpus.retriever)
    assert (report.imported, report.known, report.failed) == (3, 0, [])
    born, gas, leipzig = corpus.store.pairs.all("default", "accepted")
    assert (born.answer, born.kind, born.chunk_ids) == ("eisleben", "span", (corpus.chunk_id("Eisleben"),))
    assert (gas.kind, gas.chunk_ids, gas.generated_by) == ("free", (), "import:questions.jsonl")
    assert (leipzig.kind, leipzig.answer) == ("unanswerable", "")
    again = import_pairs(corpus.store, "default", path, retriever=corpus.retriever)
    assert (again.imported, again.known) == (0, 3)


def test_questions_need_no_id_to_become_pairs(corpus: Corpus, tmp_path: Path) -> None:
    """The shortest form is the one that an empty file's hint names."""
    path = tmp_path / "questions.jsonl"
    rows = [{"question": "Where was Luther born?", "answers": ["Eisleben"]}, {"question": "?", "answers": "no list"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    report = import_pairs(corpus.store, "default", path, retriever=corpus.retriever)
    assert (report.imported, report.known, report.failed_count) == (1, 1, 1)
    assert "line 2" in report.failed[0]["detail"]


def test_each_bad_row_fails_alone(corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    good = {"instruction": "Who isolated oxygen?", "input": "", "output": "Michael Sendivogius"}
    turn = {"from": "human", "value": "And then?"}
    long = {"conversations": [turn, {"from": "gpt", "value": "This."}, turn, {"from": "gpt", "value": "That."}]}
    blank = {"messages": [{"role": "user", "content": " "}, {"role": "assistant", "content": "Yes"}]}
    path.write_text("\n".join(["{broken", json.dumps(good), '{"text": "?"}', json.dumps(long), json.dumps(blank), ""]))
    report = import_pairs(corpus.store, "default", path)
    assert report.imported == 1
    assert len(report.failed) == 4
    assert any("line 1" in failure["detail"] for failure in report.failed)
    assert any("line 3" in failure["detail"] for failure in report.failed)
    assert any("4 turns" in failure["detail"] for failure in report.failed)
    with pytest.raises(InvalidRequest, match=r"absent\.jsonl"):
        import_pairs(corpus.store, "default", tmp_path / "absent.jsonl")


def test_an_alpaca_row_asks_with_its_instruction(corpus: Corpus, tmp_path: Path) -> None:
    path = tmp_path / "alpaca.json"
    rows = [
        {"instruction": "Name the element.", "input": "Its atomic number is 8.", "output": "Oxygen"},
        {"instruction": "Where was Luther born?", "input": "", "output": "Eisleben"},
    ]
    path.write_bytes(json.dumps(rows).encode("utf-16"))
    assert import_pairs(corpus.store, "default", path).imported == 2
    questions = [pair.question for pair in corpus.store.pairs.all("default")]
    assert questions == ["Name the element.\n\nIts atomic number is 8.", "Where was Luther born?"]


def test_bad_rows_are_told_up_to_a_number_and_all_counted(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("retrieval.rowfiles.MOST_FAILURES", 3)
    monkeypatch.setattr("retrieval.rowfiles.IMPORT_BATCH", 2)
    path = tmp_path / "rows.jsonl"
    good = [json.dumps({"instruction": f"Why {n}?", "output": "Because."}) for n in range(5)]
    path.write_text("\n".join(["{broken"] * 7 + good + good))
    report = import_pairs(corpus.store, "default", path)
    assert (report.imported, report.known, len(report.failed), report.failed_count) == (5, 5, 3, 7)
