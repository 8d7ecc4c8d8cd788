from __future__ import annotations

import csv
import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from data.records import Question
from service.compare.cases import instructive
from service.compare.outcomes import Outcome
from service.compare.report import figures, headline, outcomes_csv, render_report, write_reports
from service.compare.result import Comparison, summarize
from service.compare.strata import kind_of, language_of, strata
from service.compare.table import print_comparison

ATTACK = "<script>alert('x')</script><img src=http://evil.example/a.png>"


def comparison(n: int = 40) -> Comparison:
    questions = tuple(Question(f"q{i}", f"Question {i}? {ATTACK}", ("yes", ATTACK)) for i in range(n))
    outcomes = {
        "rag": tuple(
            Outcome("rag", q.id, f"no {ATTACK}", False, 10.0, False, False, latency_ms=100.0 + i)
            for i, q in enumerate(questions)
        ),
        "combined": tuple(
            Outcome(
                "combined", q.id, "yes [1]", False, 100.0, True, True, (1,), (1,), (ATTACK,), 200.0, adapter="demo@1"
            )
            if i
            else Outcome("combined", q.id, "", False, 0.0, False, False, error=f"engine-timeout: {ATTACK}")
            for i, q in enumerate(questions)
        ),
    }
    result = summarize(outcomes, questions, {"answers": 12.0})
    return Comparison(questions, outcomes, {**result, "model": ATTACK, "collection": "default", "index_generation": 3})


class Page(HTMLParser):
    void = ("meta", "br", "img", "line", "rect", "circle", "link")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.void:
            assert self.open.pop() == tag


@pytest.fixture(scope="module")
def page() -> str:
    return render_report(comparison(), command="ragtune compare --questions q.jsonl")


def test_the_page_is_whole_and_needs_nothing_else(page):
    parser = Page()
    parser.feed(page)
    assert parser.open == []
    names = {tag for tag, _ in parser.tags}
    assert not names & {"script", "img", "link", "iframe", "object"}
    assert not [attrs for _, attrs in parser.tags if {"src", "href", "srcset", "onclick"} & set(attrs)]
    assert not re.search(r"url\((?!#)", page), "only places of the page itself"
    links = [value for _, attrs in parser.tags for name, value in attrs.items() if name.endswith("href")]
    assert all(value.startswith("#") for value in links)
    assert "@import" not in page


def test_what_came_from_outside_is_escaped(page):
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;") >= 40
    assert "<img" not in page


def test_the_verdict_heads_the_page_and_every_question_is_there(page):
    assert page.index("Combined is better than rag") < page.index("<table>")
    assert len(re.findall("<details>", page)) == 40
    assert "failed: engine-timeout" in page
    assert "ragtune compare --questions q.jsonl" in page
    assert "prefers-color-scheme: dark" in page
    assert 'name="viewport"' in page


def test_the_charts_have_the_page_s_own_colours_and_ids_of_their_own(page):
    charts = re.findall(r"<svg .*?</svg>", page, re.DOTALL)
    assert len(charts) == 2
    assert "var(--ink)" in charts[0]
    assert "var(--series-1)" in charts[0]
    assert not re.search(r"(?:fill|stroke): #(?!fff)", page.replace("#ffffff", "")), (
        "a colour that dark pages cannot change"
    )
    ids = [set(re.findall(r'id="([^"]+)"', chart)) - {"figure_1", "axes_1"} for chart in charts]
    assert "97.5" in charts[0]
    references = [set(re.findall(r'"#([^"]+)"|url\(#([^)]+)\)', chart)) for chart in charts]
    assert all({one or other for one, other in found} <= own for found, own in zip(references, ids, strict=True))


def test_the_page_of_one_question_and_one_arm_can_be_drawn():
    question = Question("q", "When?", ("1842",))
    outcomes = {"rag": (Outcome("rag", "q", "1842", False, 100.0, True, True, latency_ms=0.0),)}
    result = summarize(outcomes, [question], {"answers": 1.0}) | {
        "model": "m", "collection": "default", "index_generation": 1
    }  # fmt: skip
    page = render_report(Comparison((question,), outcomes, result))
    assert "Only rag was measured." in page
    assert "Where each arm wins" not in page


def test_the_headline_says_what_to_do_and_how_sure_that_is():
    result = comparison().result
    assert headline(result) == "Serve combined: better than every other arm"
    undecided = {**result["difference"]["combined-rag"], "decisive": False}
    assert headline({**result, "difference": {"combined-rag": undecided}}).startswith("No clear winner; combined")
    assert headline({**result, "recommendation": None}) == "Too few questions to recommend an arm"
    shown = {figure.label: figure.value for figure in figures(result)}
    assert shown["combined, F1"] == "98"
    assert shown["ahead of rag"] == "+88"
    assert "false answers" not in shown, "no question was unanswerable"


def test_csv_has_a_line_for_each_arm_and_question_and_no_formulas(tmp_path):
    question = Question("q", "=1+1", ("@cmd",), origin="feedback")
    outcomes = {"rag": (Outcome("rag", "q", "+1\n2, 3", False, 0.0, False, False, latency_ms=1.25),)}
    rows = list(csv.reader(io.StringIO(outcomes_csv(Comparison((question,), outcomes, {})))))
    assert [len(row) for row in rows] == [14, 14]
    found = dict(zip(*rows, strict=True))
    assert (found["question"], found["accepted"], found["answer"]) == ("'=1+1", "'@cmd", "'+1\n2, 3")
    assert (found["origin"], found["latency_ms"]) == ("feedback", "1.2")
    write_reports(comparison(2), tmp_path, command="ragtune compare", lineage={"index generation": 3, "none": None})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["answers.csv", "index.html", "result.json"]
    page = (tmp_path / "index.html").read_text()
    assert "<dt>index generation</dt><dd>3</dd>" in page
    assert "<dt>none</dt>" not in page


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("How many roses grow?", "how many, how much"),
        ("In what year was it built?", "when"),
        ("Whose garden is it?", "who"),
        ("In what city is it?", "where"),
        ("Why blue?", "why"),
        ("How does it work?", "how"),
        ("Name it.", "other"),
        ("灯塔是哪年建的？", "when"),
        ("谁种的？", "who"),
        ("有多少玫瑰？", "how many, how much"),
    ],
)
def test_kinds_of_questions(text, kind):
    assert kind_of(Question("q", text, ("x",))) == kind
    assert kind_of(Question("q", text, (), answerable=False)) == "no answer in the documents"
    assert language_of(Question("q", text, ())) == ("other languages" if text.isascii() else "Chinese")


def test_strata_hold_every_question_once_and_name_the_rest():
    questions = [Question(f"q{i}", "When?", ("x",), document=f"d{min(i, 14) if i < 20 else 0}") for i in range(30)]
    outcomes = {"rag": [Outcome("rag", q.id, "x", False, 100.0 * (i % 2), True, True) for i, q in enumerate(questions)]}
    found = strata(questions, outcomes)
    assert set(found) == {"document"}, "what all questions share is no property"
    assert len(found["document"]) == 13
    assert list(found["document"])[-1] == "all others"
    assert sum(row["n"] for row in found["document"].values()) == 30
    first = found["document"]["d0"]
    assert first["n"] == 11
    assert first["arms"]["rag"]["f1"] == pytest.approx(100 * 5 / 11)


def test_cases_show_gains_losses_and_what_nobody_knows():
    questions = [Question(f"q{i}", f"{i}?", ("x",)) for i in range(60)]

    def row(arm, right):
        return [Outcome(arm, q.id, "x", False, 100.0 * right(i), right(i), right(i)) for i, q in enumerate(questions)]

    outcomes = {"rag": row("rag", lambda i: i < 30), "combined": row("combined", lambda i: 10 <= i < 50)}
    found = instructive(questions, outcomes, "combined")
    assert len(found) == 20
    assert len({case.question.id for case in found}) == 20
    lessons = [case.lesson for case in found]
    assert lessons.count("only combined is right") == 10
    assert lessons.count("rag right, combined wrong") == 10
    few = instructive(questions[:8], {arm: rows[:8] for arm, rows in outcomes.items()}, "combined")
    assert len(few) == 8
    nobody = instructive(questions[50:], {arm: rows[50:] for arm, rows in outcomes.items()}, "combined", limit=3)
    assert [case.lesson for case in nobody] == ["no arm is right"] * 3


def test_risk_and_coverage_are_drawn_where_confidences_are_calibrated():
    questions = tuple(Question(f"q{i}", "?", ("x",)) for i in range(20))
    rows = tuple(
        Outcome("rag", q.id, "x", False, 100.0 * (i % 2), i % 2 == 1, i % 2 == 1, confidence=i / 20)
        for i, q in enumerate(questions)
    )
    result = summarize({"rag": rows}, questions, {"answers": 1.0})
    about = {"model": "m", "collection": "default", "index_generation": 1}
    page = render_report(Comparison(questions, {"rag": rows}, {**result, **about}))
    assert "Risk and coverage" in page
    assert "% of the answers wrong" in page


def test_errors_count_as_wrong_and_the_recommendation_follows_the_mean():
    result = comparison().result
    assert result["arms"]["combined"]["f1"] == pytest.approx(97.5)
    assert len(result["arms"]["combined"]["errors"]) == 1
    assert result["recommendation"] == "combined"
    assert result["difference"]["combined-rag"]["decisive"]
    assert result["arms"]["rag"]["latency_ms_p95"] > result["arms"]["rag"]["latency_ms_p50"]


def test_an_arm_that_never_answers_is_not_recommended():
    """Of 40 questions half have no answer: to abstain always gives 50 F1, which is more than 40."""
    questions = tuple(Question(f"q{i}", "?", ("yes",) if i % 2 else ()) for i in range(40))

    def row(arm, f1, abstained):
        return tuple(Outcome(arm, q.id, "", abstained, f1(i), f1(i) == 100, False) for i, q in enumerate(questions))

    outcomes = {
        "combined": row("combined", lambda i: 80.0 * (i % 2), abstained=False),
        "tuned": row("tuned", lambda i: 100.0 * (1 - i % 2), abstained=True),
    }
    result = summarize(outcomes, questions, {"answers": 1.0})
    assert result["arms"]["tuned"]["f1"] > result["arms"]["combined"]["f1"]
    assert result["recommendation"] == "combined"
    alone = summarize({"tuned": outcomes["tuned"]}, questions, {"answers": 1.0})
    assert alone["recommendation"] == "tuned"


def test_the_table_shows_arms_differences_and_verdict():
    shown = io.StringIO()
    print_comparison(comparison().result, Console(width=120, file=shown))
    text = shown.getvalue()
    assert "97.5" in text
    assert "combined-rag" in text
    assert comparison().result["verdict"][:40] in text
    assert "Smallest difference" in text
