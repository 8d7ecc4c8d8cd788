"""The charts of a report as inline SVG, drawn by matplotlib, coloured by the page's own CSS variables.

The one importer of matplotlib. Knows nothing of comparisons: it draws names, numbers and intervals.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

_COLOURS = {"#010203": "--ink", "#040506": "--soft", "#070809": "--line", "#0a0b0c": "--page"}
"""Colours that stand for the page's variables: matplotlib wants a colour, the page is light or dark."""
_INK, _SOFT, _LINE, _PAGE = _COLOURS
_SERIES = tuple(f"#0d0e{number:02x}" for number in range(8))
"""As many as the page has ``--series-N``; further ones begin anew."""
_WIDTH_IN = 7.4
_ROW_IN = 0.46


@dataclass(frozen=True, slots=True)
class Point:
    """A value with its interval and, where it has one, a second coordinate."""

    name: str
    value: float
    low: float
    high: float
    x: float = 0.0
    best: bool = False


def interval_chart(points: Sequence[Point], label: str) -> str:
    """Return one row for each point: its value (0-100) and its interval, with the figures at the right."""
    with _figure(0.75 + _ROW_IN * len(points)) as (figure, axes):
        rows = range(len(points))
        for row, point in zip(rows, points, strict=True):
            colour = series(row)
            axes.hlines(row, 0, point.value, color=colour, alpha=0.28, linewidth=11)
            axes.hlines(row, point.low, point.high, color=colour, linewidth=2.4)
            axes.plot([point.value], [row], "o", color=colour, markersize=8 if point.best else 6.5)
            figures = f"{point.value:.1f}  ({point.low:.1f} to {point.high:.1f})"
            axes.text(103, row, figures, va="center", color=_INK, fontweight="bold" if point.best else "normal")
        axes.set_yticks(list(rows), [point.name for point in points], color=_INK)
        axes.set_ylim(len(points) - 0.45, -0.55)
        axes.set_xlim(0, 100)
        axes.grid(axis="x", color=_LINE, linewidth=0.8)
        axes.set_xlabel(label)
        axes.tick_params(axis="y", length=0)
        return _svg(figure, f"intervals {label}")


def plane_chart(points: Sequence[Point], x_label: str, y_label: str) -> str:
    """Return points with vertical intervals over a logarithmic axis, each with its name beside it."""
    with _figure(3.5) as (figure, axes):
        for row, point in enumerate(points):
            colour = series(row)
            axes.vlines(point.x, point.low, point.high, color=colour, linewidth=2.4)
            axes.plot([point.x], [point.value], "o", color=colour, markersize=8 if point.best else 6.5)
        axes.set_xscale("log")
        low, high = min(point.x for point in points), max(point.x for point in points)
        axes.set_xlim(low / 2.1, high * 2.1)
        axes.set_ylim(0, 105)
        _name_points(axes, points)
        _plain_ticks(axes)
        axes.grid(color=_LINE, linewidth=0.8)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        return _svg(figure, f"plane {x_label}")


def _name_points(axes: Any, points: Sequence[Point]) -> None:
    """Write each name to the right of its point, or to the left where another point's interval would run through it."""
    for row, point in enumerate(points):
        right = any(
            point.x < other.x < 1.6 * point.x and other.low - 3 < point.value < other.high + 3 for other in points
        )
        axes.annotate(
            point.name,
            (point.x, point.value),
            (-9 if right else 9, 0),
            textcoords="offset points",
            va="center",
            ha="right" if right else "left",
            color=series(row),
            fontweight="bold" if point.best else "normal",
        )


def _plain_ticks(axes: Any) -> None:
    """Write the ticks of a logarithmic axis as plain numbers, 1, 2 and 5 of each decade, and none between them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())


def curve_chart(curves: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str) -> str:
    """Return one stepless line for each name; both axes are shares, shown as percentages."""
    with _figure(3.5) as (figure, axes):
        for row, (name, curve) in enumerate(curves.items()):
            axes.plot([100 * x for x, _ in curve], [100 * y for _, y in curve], color=series(row), label=name)
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 105)
        axes.grid(color=_LINE, linewidth=0.8)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.legend(frameon=False, labelcolor=_INK)
        return _svg(figure, f"curve {x_label}")


def series(number: int) -> str:
    """Return the colour that stands for the page's ``--series-N``."""
    return _SERIES[number % len(_SERIES)]


@contextmanager
def _figure(height_in: float) -> Iterator[tuple[Any, Any]]:
    import matplotlib as mpl
    from matplotlib.figure import Figure

    settings = {
        "svg.fonttype": "none",
        "text.parse_math": False,  # a name may hold a dollar sign
        "font.size": 10.5,
        "axes.edgecolor": _LINE,
        "axes.labelcolor": _SOFT,
        "xtick.color": _SOFT,
        "ytick.color": _SOFT,
        "text.color": _INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
    }
    with mpl.rc_context(settings):
        figure = Figure(figsize=(_WIDTH_IN, height_in))
        yield figure, figure.add_subplot()


def _svg(figure: Any, name: str) -> str:
    """Return the figure as an SVG element: no XML head, no date, ids that no other chart of the page has."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": name}):
        out = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", transparent=True, bbox_inches="tight", pad_inches=0.04, metadata=nothing)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    for colour, variable in _COLOURS.items():
        text = text.replace(colour, f"var({variable})")
    for number, colour in enumerate(_SERIES):
        text = text.replace(colour, f"var(--series-{number})")
    return text
