"""Progress on standard error: a bar where a terminal is, plain lines where not.

A ``ProgressView`` is a ``Report``. Knows nothing of jobs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import Progress as Bars

from data.records import Progress
from service.commands.session import stderr

LINE_EVERY_S = 10.0
"""Without a terminal: at most one line in so many seconds for each stage."""


def duration(seconds: float | None) -> str:
    """Return a duration for people: "40 s", "3 min 20 s", "" if unknown."""
    if seconds is None:
        return ""
    whole = round(seconds)
    return f"{whole} s" if whole < 60 else f"{whole // 60} min {whole % 60:02d} s"


def metrics_text(metrics: Mapping[str, Any]) -> str:
    """Return metrics in a few words: "loss 1.234, accepted 40"."""
    shown = []
    for name, value in metrics.items():
        if isinstance(value, float):
            shown.append(f"{name} {value:.4g}")
        elif isinstance(value, int | str):
            shown.append(f"{name} {value}")
        elif isinstance(value, Mapping):
            shown.append(f"{name} {sum(v for v in value.values() if isinstance(v, int))}")
    return ", ".join(shown)


class ProgressView:
    """Shows the progress of one piece of work; a context manager, callable with each ``Progress``."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self._title = title
        self._console = console or stderr()
        self._bars: Bars | None = None
        self._task: TaskID | None = None
        self._stage = ""
        self._line_at = 0.0
        self._last = Progress()

    def __enter__(self) -> ProgressView:
        if self._console.is_terminal:
            columns = (
                "{task.description}",
                BarColumn(),
                "{task.fields[count]}",
                TimeElapsedColumn(),
                "{task.fields[note]}",
            )
            built = [TextColumn(c, markup=False) if isinstance(c, str) else c for c in columns]
            self._bars = Bars(*built, console=self._console, transient=True)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()
        if kind is KeyboardInterrupt and self._last.stage:
            name, count, _ = self._texts(self._last)
            # The bar is gone by now, and with it how far the work was.
            place = filter(None, (name, count, metrics_text(self._last.metrics)))
            self._console.print("Stopped at:", "  ".join(place), markup=False)

    def __call__(self, progress: Progress) -> None:
        """Show ``progress``."""
        self._last = progress
        if self._bars is not None:
            self._show_bar(self._bars, progress)
        else:
            self._show_line(progress)

    def _texts(self, progress: Progress) -> tuple[str, str, str]:
        name = f"{self._title}: {progress.stage}" if progress.stage and progress.stage != self._title else self._title
        count = f"{progress.done}/{progress.total} {progress.unit}".strip() if progress.total else progress.unit
        left = duration(progress.eta_s)
        note = ", ".join(filter(None, [f"{left} left" if left else "", metrics_text(progress.metrics)]))
        return name, count, note

    def _show_bar(self, bars: Bars, progress: Progress) -> None:
        name, count, note = self._texts(progress)
        total = progress.total or None
        if self._task is None:
            self._task = bars.add_task(name, total=total, count=count, note=note)
        bars.update(self._task, description=name, total=total, completed=progress.done, count=count, note=note)

    def _show_line(self, progress: Progress) -> None:
        now = time.monotonic()
        last = bool(progress.total) and progress.done >= progress.total
        if progress.stage == self._stage and not last and now - self._line_at < LINE_EVERY_S:
            return
        self._stage, self._line_at = progress.stage, now
        self._console.print("  ".join(filter(None, self._texts(progress))), markup=False)
