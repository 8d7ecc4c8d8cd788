from __future__ import annotations

import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from data.records import Question
from service.compare.outcomes import Outcome
from service.compare.report import chart_bars, render_report
from service.compare.result import Comparison, summarize
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
    assert "url(" not in page
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


def test_the_chart_shows_each_mean_within_its_interval():
    result = comparison().result
    bars = chart_bars(result["arms"])
    assert [bar.arm for bar in bars] == ["rag", "combined"]
    for bar in bars:
        assert bar.low <= bar.end <= bar.high
    assert bars[1].end > bars[0].end


def test_errors_count_as_wrong_and_the_recommendation_follows_the_mean():
    result = comparison().result
    assert result["arms"]["combined"]["f1"] == pytest.approx(97.5)
    assert len(result["arms"]["combined"]["errors"]) == 1
    assert result["recommendation"] == "combined"
    assert result["difference"]["combined-rag"]["decisive"]
    assert result["arms"]["rag"]["latency_ms_p95"] > result["arms"]["rag"]["latency_ms_p50"]


def test_the_table_shows_arms_differences_and_verdict():
    shown = io.StringIO()
    print_comparison(comparison().result, Console(width=120, file=shown))
    text = shown.getvalue()
    assert "97.5" in text
    assert "combined-rag" in text
    assert comparison().result["verdict"][:40] in text
    assert "Smallest difference" in text
