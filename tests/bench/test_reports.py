from __future__ import annotations

import argparse
import json
from collections import Counter
from pathlib import Path

from bench.reports import command_of, draw, drawn, read


def write(path: Path, rows: list[dict[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def rows(n: int) -> list[dict[str, object]]:
    made = []
    for i in range(n):
        answerable = i % 3 > 0
        row = {"id": str(i), "question": f"Q{i}?", "answers": ["a"] * answerable, "answerable": answerable}
        made.append({**row, "document": f"{i % 6 // 2}{i % 2}.md"})
    return made


def test_an_id_that_stands_twice_leaves_both_questions_out_and_is_named(tmp_path):
    contradicting = {"id": "7", "question": "Q7?", "answers": [], "answerable": False, "document": "x.md"}
    path = write(tmp_path / "set" / "questions.jsonl", [*rows(12), contradicting])
    questions, dropped = read(path)
    assert dropped == ("7",)
    assert "7" not in {question.id for question in questions}
    assert len(questions) == 11


def test_documents_are_measured_or_calibrated_on_never_both(tmp_path):
    write(tmp_path / "set" / "questions.jsonl", rows(120))
    found = drawn(tmp_path, "set", 40, 50)
    assert (len(found.measured), len(found.calibrated)) == (40, 50)
    assert not {q.document for q in found.measured} & {q.document for q in found.calibrated}


def test_a_sample_takes_each_document_and_kind_in_turn(tmp_path):
    questions, _ = read(write(tmp_path / "q.jsonl", rows(120)))
    sample = draw(questions, 24)
    counted = Counter((question.document, question.answerable) for question in sample)
    assert max(counted.values()) - min(counted.values()) <= 1
    assert len(counted) == len({(q.document, q.answerable) for q in questions})
    assert draw(questions, 24) == sample, "the same sample in every run"


def test_the_command_of_a_report_names_no_folder_of_the_machine_that_made_it(tmp_path):
    options = argparse.Namespace(data=tmp_path, out=Path("bench/reports"), questions=40, calibrate=60)
    command = command_of(options, "squad2")
    assert command.endswith("--data DATA --out bench/reports --questions 40 --calibrate 60 --sets squad2")
    pages = list((Path(__file__).parents[2] / "bench" / "reports").glob("*/index.html"))
    assert len(pages) == 4
    for page in pages:
        assert "python -m bench.reports --data DATA " in page.read_text(encoding="utf-8"), page.parent.name
