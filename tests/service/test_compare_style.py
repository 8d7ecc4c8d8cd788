"""How the arms write, measured beside what they get right."""

from __future__ import annotations

import json

import pytest
from rich.console import Console

from data.errors import InvalidRequest
from data.records import Question
from service.compare.evaluation import EvaluationRequest, evaluate
from service.compare.style import read_examples
from service.compare.table import print_comparison
from tests.service.parts import adapter

QUESTIONS = (
    Question("built", "When was the lighthouse of Orrin built?", ("1842",)),
    Question("keeper", "Who was the keeper of the lighthouse?", ("Mara Venn", "Venn")),
    Question("mayor", "Who is the mayor of Orrin?", (), answerable=False),
)
HOUSE = tuple(f"**Answer:** {year}.\n\nAsk the docs team for more." for year in range(1830, 1842))


def reply(request):
    """The adapter writes like the house, and loses the keeper's name."""
    question = request.messages[-1].parts[-1]
    if "mayor" in question:
        return "I don't know."
    plain = "1842" if "built" in question else "Mara Venn"
    styled = "1842" if "built" in question else "nobody"
    return f"**Answer:** {styled}.\n\nAsk the docs team for more." if request.adapter else plain


@pytest.fixture
def tuned(indexed, generator):
    generator.reply = reply
    indexed.store.adapters.add(adapter())
    indexed.store.adapters.promote("house")
    return indexed


def test_style_and_facts_are_told_apart(tuned, tmp_path):
    request = EvaluationRequest(QUESTIONS, arms=("rag", "combined"), out=tmp_path / "out", style=HOUSE)
    found = evaluate(tuned, request, lambda _progress: None)
    style = found.result["style"]
    assert style["examples"] == 12
    assert style["arms"]["combined"]["total"] > 90
    assert style["arms"]["combined"]["n"] == 2  # one abstains
    assert style["arms"]["rag"]["total"] < 60
    difference = style["difference"]["combined-rag"]
    assert difference["total"] > 30
    assert difference["ci"][0] <= difference["total"] <= difference["ci"][1]
    assert difference["facts"] == {"gained": 0, "lost": 1, "p": 1.0}
    assert json.loads((tmp_path / "out" / "result.json").read_text())["style"] == style
    assert "<h2>Style</h2>" in (tmp_path / "out" / "index.html").read_text()
    console = Console(record=True, width=100)
    print_comparison(found.result, console)
    shown = console.export_text()
    assert "12 examples reach" in shown
    assert "facts +0 -1, McNemar p 1" in shown


def test_without_examples_no_style_is_measured(tuned, tmp_path):
    found = evaluate(tuned, EvaluationRequest(QUESTIONS, arms=("rag",), out=tmp_path / "out"), lambda _progress: None)
    assert "style" not in found.result
    assert "<h2>Style</h2>" not in (tmp_path / "out" / "index.html").read_text()


def test_too_few_examples_are_refused_before_anything_is_asked(tuned, tmp_path, generator):
    asked = len(generator.requests)
    with pytest.raises(InvalidRequest, match="Too few examples"):
        evaluate(tuned, EvaluationRequest(QUESTIONS, out=tmp_path / "out", style=HOUSE[:3]), lambda _progress: None)
    assert len(generator.requests) == asked


def test_an_arm_that_answers_nothing_has_no_style(tuned, tmp_path, generator):
    generator.reply = lambda _request: "I don't know."
    request = EvaluationRequest(QUESTIONS, arms=("rag", "combined"), out=tmp_path / "out", style=HOUSE)
    style = evaluate(tuned, request, lambda _progress: None).result["style"]
    assert (style["arms"]["rag"]["total"], style["difference"]["combined-rag"]["total"]) == (None, None)


@pytest.mark.parametrize(
    "row",
    [
        {"messages": [{"role": "user", "content": "When?"}, {"role": "assistant", "content": "In **1842**."}]},
        {"instruction": "", "input": "When?", "output": "In **1842**."},
        {"id": "1", "question": "When?", "answers": ["In **1842**."]},
    ],
)
def test_examples_are_read_from_rows_and_from_questions(tmp_path, row):
    path = tmp_path / "style.jsonl"
    path.write_text(json.dumps(row) + "\n")
    assert read_examples(path) == ("In **1842**.",)


def test_a_file_without_answers_is_refused(tmp_path):
    path = tmp_path / "style.jsonl"
    path.write_text('{"id": "1", "question": "When?", "answers": [], "answerable": false}\n')
    with pytest.raises(InvalidRequest, match="no answers"):
        read_examples(path)
    path.write_text("nothing\n")
    with pytest.raises(InvalidRequest):
        read_examples(path)
