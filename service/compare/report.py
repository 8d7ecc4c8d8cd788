"""A comparison as one HTML page that needs nothing else (no script, no font, no network), as JSON and as CSV.

Everything that came from documents, questions or models is escaped by Jinja. Knows nothing of how
the comparison was made.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from data.records import Question
from service.compare.cases import RIGHT, instructive
from service.compare.charts import Point, curve_chart, interval_chart, plane_chart
from service.compare.outcomes import Outcome
from service.compare.result import Comparison
from service.compare.strata import generated_note

_FOLDER = Path(__file__).parent.parent / "web"
_TEMPLATE = "comparison.html.jinja"
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What makes a spreadsheet take a cell for a formula (OWASP, CSV Injection)."""
_CSV = ("arm", "question_id", "origin", "question", "accepted", "answerable", "answer", "abstained", "f1", "em")
_CSV_REST = ("contained", "latency_ms", "adapter", "error")


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure at the head of the page: what it is, how much, and what to know about it."""

    label: str
    value: str
    note: str


@lru_cache(maxsize=4)
def template(name: str) -> Template:
    """Return a page's template, which escapes all that it is given."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda rate: "–" if rate is None else f"{100 * rate:.0f} %"
    return environment.get_template(name)


def _questions(
    questions: Sequence[Question], outcomes: Mapping[str, Sequence[Outcome]]
) -> list[tuple[Question, list[Outcome], float]]:
    """Pair each question with its outcomes; where arms differ most comes first."""
    rows = []
    for position, question in enumerate(questions):
        given = [row[position] for row in outcomes.values()]
        scores = [outcome.f1 for outcome in given]
        rows.append((question, given, max(scores) - min(scores)))
    return sorted(rows, key=lambda row: -row[2])


def favoured_arm(result: Mapping[str, Any]) -> str:
    """Return the arm that the page speaks for: the recommended one, else that of the highest mean F1."""
    arms = whole_arms(result)
    recommended = result.get("recommendation")
    return str(recommended) if recommended in arms else max(arms, key=lambda arm: arms[arm]["f1"])


def whole_arms(result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the figures of the arms that answered to the end."""
    return {arm: row for arm, row in result["arms"].items() if not row.get("failed")}


def arm_points(arms: Mapping[str, Mapping[str, Any]], favoured: str) -> list[Point]:
    """Return each arm's F1 with its interval over its median time in seconds."""
    return [
        Point(
            name=arm,
            value=row["f1"],
            low=row["f1_ci"][0],
            high=row["f1_ci"][1],
            x=max(row["latency_ms_p50"], 1) / 1000,
            best=arm == favoured,
        )
        for arm, row in arms.items()
    ]


def headline(result: Mapping[str, Any]) -> str:
    """Return what to do, in one short sentence."""
    favoured, differences = favoured_arm(result), result["difference"]
    if result.get("recommendation") is None:
        return "Too few questions to recommend an arm" if differences else f"Only {favoured} was measured"
    against = [row for name, row in differences.items() if favoured in _sides(name, result["arms"])]
    if against and all(row["decisive"] for row in against):
        return f"Serve {favoured}: better than every other arm"
    if any(row["decisive"] for row in against):
        return f"Serve {favoured}: no other arm is shown to be better"
    return f"No clear winner; {favoured} has the highest score"


def _sides(name: str, arms: Mapping[str, Any]) -> tuple[str, str]:
    """Return the two arms of a difference; an arm's own name may hold a hyphen."""
    return next((a, b) for a in arms for b in arms if f"{a}-{b}" == name)


def figures(result: Mapping[str, Any]) -> list[Figure]:
    """Return what a reader in a hurry wants of the favoured arm, and of its lead."""
    favoured = favoured_arm(result)
    row = result["arms"][favoured]
    low, high = row["f1_ci"]
    found = [
        Figure(f"{favoured}, F1", f"{row['f1']:.0f}", f"of 100; 95 % interval {low:.0f} to {high:.0f}"),
        Figure("answers with the right fact", f"{row['containment']:.0f} %", f"of {row['n']} questions"),
    ]
    for name, difference in result["difference"].items():
        a, b = _sides(name, result["arms"])
        if favoured in (a, b):
            sign = 1 if favoured == a else -1
            low, high = sorted(sign * bound for bound in difference["ci"])
            note = f"F1 points; 95 % interval {low:+.1f} to {high:+.1f}"
            found.append(Figure(f"ahead of {b if favoured == a else a}", f"{sign * difference['f1']:+.0f}", note))
            break
    if row["false_answer_rate"] is not None:
        found.append(
            Figure("false answers", f"{100 * row['false_answer_rate']:.0f} %", "where the documents have none")
        )
    p95 = f"95 % within {row['latency_ms_p95'] / 1000:.1f} s"
    return [*found, Figure("median time", f"{row['latency_ms_p50'] / 1000:.1f} s", p95)]


def labels(arms: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """Return the quantization and the search of each arm, of what is not the same for all."""
    several = [
        name for name in ("quantization", "method") if len({row.get(name) for row in arms.values()} - {None}) > 1
    ]
    return {arm: ", ".join(row[name] for name in several if row.get(name)) for arm, row in arms.items()}


def _charts(comparison: Comparison, favoured: str) -> dict[str, Markup]:
    """Return the charts; those that have nothing to show are left out. Names in them are escaped by matplotlib."""
    points = arm_points(whole_arms(comparison.result), favoured)
    drawn = {"arms": interval_chart(points, "F1 with its 95 % interval")}
    if len(points) > 1:
        drawn["latency"] = plane_chart(points, "median seconds for an answer", "F1")
    curves = {arm: row.get("risk_coverage") for arm, row in whole_arms(comparison.result).items()}
    known = {
        arm: [(point["coverage"], point["risk"]) for point in curve]
        for arm, curve in curves.items()
        if curve is not None
    }
    if known:
        drawn["risk"] = curve_chart(known, "% of the questions answered", "% of the answers wrong")
    return {name: Markup(svg) for name, svg in drawn.items()}  # noqa: S704 (escaped by matplotlib)


def render_report(
    comparison: Comparison,
    *,
    title: str = "Which arm answers best",
    command: str = "",
    lineage: Mapping[str, Any] | None = None,
) -> str:
    """Return the page.

    Args:
        comparison: what to show.
        title: the page's title.
        command: the command that repeats the comparison.
        lineage: what the result was made from, by name.
    """
    result = comparison.result
    favoured = favoured_arm(result)
    return template(_TEMPLATE).render(
        sides=lambda name: " − ".join(_sides(name, result["arms"])),
        title=title,
        command=command,
        result=result,
        favoured=favoured,
        headline=headline(result),
        figures=figures(result),
        labels=labels(result["arms"]),
        charts=_charts(comparison, favoured),
        cases=instructive(comparison.questions, comparison.outcomes, favoured),
        rows=_questions(comparison.questions, comparison.outcomes),
        right=RIGHT,
        lineage=dict(lineage or {}),
        strata=result.get("strata", {}),
        generated=generated_note(result["questions"].get("origins", {})),
    )


def outcomes_csv(comparison: Comparison) -> str:
    """Return one line for each arm and question; a cell that a spreadsheet would take for a formula is quoted."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow((*_CSV, *_CSV_REST))
    for arm, rows in comparison.outcomes.items():
        for question, outcome in zip(comparison.questions, rows, strict=True):
            accepted = " / ".join(question.answers)
            asked = (arm, question.id, question.origin, question.question, accepted, question.answerable)
            scored = (outcome.text, outcome.abstained, f"{outcome.f1:.2f}", outcome.em)
            rest = (outcome.contained, f"{outcome.latency_ms:.1f}", outcome.adapter or "", outcome.error)
            writer.writerow([cell(value) for value in (*asked, *scored, *rest)])
    return out.getvalue()


def cell(value: object) -> object:
    """Return a value for a CSV that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def write_reports(
    comparison: Comparison,
    folder: Path,
    *,
    title: str = "Which arm answers best",
    command: str = "",
    lineage: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``result.json``, ``answers.csv`` and ``index.html`` into ``folder``; return the path of the page."""
    from data.state import write_atomic

    page = render_report(comparison, title=title, command=command, lineage=lineage)
    write_atomic(folder / "result.json", json.dumps(comparison.result, ensure_ascii=False, indent=2).encode() + b"\n")
    write_atomic(folder / "answers.csv", outcomes_csv(comparison).encode("utf-8-sig"))  # else Excel misreads Chinese
    write_atomic(folder / "index.html", page.encode())
    return folder / "index.html"
