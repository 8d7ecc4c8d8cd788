"""A comparison as one HTML page that needs nothing else: no script, no font, no network.

Everything that came from documents, questions or models is escaped by Jinja. Knows nothing of how
the comparison was made.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from data.records import Question
from service.compare.outcomes import Outcome
from service.compare.result import Comparison

_FOLDER = Path(__file__).parent.parent / "web"
_TEMPLATE = "comparison.html.jinja"

LEFT, WIDTH, LABEL, ROW = 92, 560, 185, 40
"""Chart geometry in SVG units: column of names, plot (0 to 100 F1), column of figures, height of a row."""


@dataclass(frozen=True, slots=True)
class Bar:
    """One arm in the chart; x positions and ``y`` in SVG units."""

    arm: str
    label: str
    y: float
    end: float
    low: float
    high: float


def _x(f1: float) -> float:
    return round(LEFT + WIDTH * f1 / 100, 1)


def chart_bars(arms: Mapping[str, Mapping[str, Any]]) -> list[Bar]:
    """Return where each arm's bar and interval stand in the chart."""
    bars = []
    for position, (arm, figures) in enumerate(arms.items()):
        low, high = figures["f1_ci"]
        label = f"{figures['f1']:.1f} ({low:.1f} to {high:.1f})"
        bars.append(Bar(arm, label, ROW * (position + 0.5), _x(figures["f1"]), _x(low), _x(high)))
    return bars


@lru_cache(maxsize=1)
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda rate: "–" if rate is None else f"{100 * rate:.0f} %"
    return environment.get_template(_TEMPLATE)


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


def render_report(comparison: Comparison, *, title: str = "Which arm answers best", command: str = "") -> str:
    """Return the page.

    Args:
        comparison: what to show.
        title: the page's title.
        command: the command that repeats the comparison.
    """
    result = comparison.result
    bars = chart_bars(result["arms"])
    return _template().render(
        title=title,
        command=command,
        result=result,
        bars=bars,
        ticks=[(tick, _x(tick)) for tick in range(0, 101, 20)],
        left=LEFT,
        width=LEFT + WIDTH + LABEL,
        height=ROW * len(bars),
        rows=_questions(comparison.questions, comparison.outcomes),
    )


def write_reports(
    comparison: Comparison, folder: Path, *, title: str = "Which arm answers best", command: str = ""
) -> Path:
    """Write ``result.json`` and ``index.html`` into ``folder``; return the path of the page."""
    from data.state import write_atomic

    page = render_report(comparison, title=title, command=command)
    write_atomic(folder / "result.json", json.dumps(comparison.result, ensure_ascii=False, indent=2).encode() + b"\n")
    write_atomic(folder / "index.html", page.encode())
    return folder / "index.html"
