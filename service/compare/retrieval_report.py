"""A measurement of retrieval as one HTML page that needs nothing else, as JSON and as CSV.

The page of ``report`` for searches in place of arms. Knows nothing of how passages were found.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from data.state import write_atomic
from service.compare.charts import Point, interval_chart
from service.compare.report import Figure, cell, template

_TEMPLATE = "retrieval.html.jinja"
HEADLINE = "recall@5"
"""What the page speaks of first: with the usual four or five passages, whether the answer could be read at all."""
MISSED = 20
"""Questions that the best method ranks worst, shown at most."""


def best_method(result: Mapping[str, Any]) -> str:
    """Return the method of the highest ``HEADLINE``; of equals the first."""
    methods: Mapping[str, Any] = result["methods"]
    return max(methods, key=lambda name: methods[name][HEADLINE])


def figures(result: Mapping[str, Any]) -> list[Figure]:
    """Return what a reader in a hurry wants of the best method."""
    row = result["methods"][best_method(result)]
    notes = {
        "recall@1": "first passage relevant",
        "recall@5": "relevant among the first five",
        "mrr": "mean of 1 / place",
        "ndcg@10": "nDCG of the first ten",
    }
    return [
        Figure(name, f"{100 * row[name]:.1f}", f"{note}; 95 % interval {_span(row['ci'][name])}")
        for name, note in notes.items()
    ]


def _span(interval: Sequence[float]) -> str:
    return f"{100 * interval[0]:.1f} to {100 * interval[1]:.1f}"


def headline(result: Mapping[str, Any]) -> str:
    """Return what to do, in one short sentence."""
    best = best_method(result)
    if len(result["methods"]) == 1:
        return f"Only {best} was measured"
    against = [row[HEADLINE] for name, row in result["differences"].items() if best in name.split("-")]
    if all(row["p"] < 0.05 for row in against):
        return f"Search {best}: it finds more than every other method"
    return f"No clear winner; {best} finds most"


def render_retrieval_report(
    result: Mapping[str, Any], *, title: str, command: str = "", lineage: Mapping[str, Any] | None = None
) -> str:
    """Return the page.

    Args:
        result: of ``retrieval.evaluate.evaluate_questions``, with ``ranks`` or without.
        title: the page's title.
        command: the command that repeats the measurement.
        lineage: what the result was made from, by name.
    """
    best = best_method(result)
    points = [
        Point(name, 100 * row[HEADLINE], 100 * low, 100 * high, best=name == best)
        for name, row in result["methods"].items()
        for low, high in [row["ci"][HEADLINE]]
    ]
    worst = sorted(result.get("ranks", ()), key=lambda row: -(row["rank"][best] or 1000))
    drawn = Markup(interval_chart(points, f"{HEADLINE}, %"))  # noqa: S704 (escaped by matplotlib)
    return template(_TEMPLATE).render(
        title=title,
        headline=headline(result),
        figures=figures(result),
        best=best,
        result=result,
        chart=drawn,
        missed=[row for row in worst if row["rank"][best] != 1][:MISSED],
        measures=[name for name in next(iter(result["methods"].values())) if name != "ci"],
        command=command,
        lineage=lineage or {},
    )


def ranks_csv(result: Mapping[str, Any]) -> str:
    """Return one row for each question: the place of the first relevant passage under each method, empty for none."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["question_id", "question", *result["methods"]])
    for row in result.get("ranks", ()):
        places = ["" if row["rank"][method] is None else row["rank"][method] for method in result["methods"]]
        writer.writerow([cell(row["id"]), cell(row["query"]), *places])
    return out.getvalue()


def write_retrieval_reports(
    result: Mapping[str, Any],
    folder: Path,
    *,
    title: str = "Which search finds best",
    command: str = "",
    lineage: Mapping[str, Any] | None = None,
) -> Path:
    """Write ``result.json``, ``ranks.csv`` and ``index.html`` into ``folder``; return the path of the page."""
    page = render_retrieval_report(result, title=title, command=command, lineage=lineage)
    kept = {name: value for name, value in result.items() if name != "ranks"}
    write_atomic(folder / "result.json", json.dumps(kept, ensure_ascii=False, indent=2).encode() + b"\n")
    write_atomic(folder / "ranks.csv", ranks_csv(result).encode("utf-8-sig"))  # else Excel misreads Chinese
    write_atomic(folder / "index.html", page.encode())
    return folder / "index.html"
