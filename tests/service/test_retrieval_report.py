from __future__ import annotations

import csv
import io
import json
import re

import pytest

from data.records import Question
from service.compare.retrieval_report import headline, render_retrieval_report
from service.compare.searches import evaluate_searches

ATTACK = "<script>alert('x')</script>"
QUESTIONS = (
    Question("built", f"When was the lighthouse of Orrin built? {ATTACK}", ("1842",)),
    Question("roses", "=What grows in the garden of Tolm?", ("blue roses",)),
    Question("moon", "Who walked on the moon?", ("Neil Armstrong",)),
    Question("mayor", "Who is the mayor?", (), answerable=False),
)


@pytest.fixture
def report(indexed, tmp_path):
    found = evaluate_searches(indexed, QUESTIONS, out=tmp_path / "out", title="orrin", command="ragtune again")
    return found, tmp_path / "out"


def test_the_page_says_which_search_finds_what_and_where_it_fails(report):
    found, folder = report
    page = (folder / "index.html").read_text()
    assert page.count("<svg") == 1
    assert "ragtune again" in page
    assert "1 questions that name neither were left out" in page
    assert re.search(r"Who walked on the moon\?</th><td>–</td><td>–</td><td>–</td>", page)
    assert ATTACK not in page
    assert "<link" not in page
    assert "src=" not in page
    assert json.loads((folder / "result.json").read_text())["methods"] == found["methods"]


def test_every_question_s_places_are_in_the_csv(report):
    _, folder = report
    rows = list(csv.DictReader(io.StringIO((folder / "ranks.csv").read_text("utf-8-sig"))))
    assert [row["question_id"] for row in rows] == ["built", "roses", "moon"]
    assert (rows[0]["lexical"], rows[2]["lexical"]) == ("1", "")
    assert rows[1]["question"].startswith("'="), "no spreadsheet may take it for a formula"


def test_without_a_folder_nothing_is_written(indexed, tmp_path):
    found = evaluate_searches(indexed, QUESTIONS, methods=["lexical"])
    assert "ranks" not in found
    assert list(tmp_path.glob("**/index.html")) == []
    assert headline(found) == "Only lexical was measured"
    assert "<h2>Differences" not in render_retrieval_report(found, title="one")
