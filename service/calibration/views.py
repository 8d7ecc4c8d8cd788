"""A calibration as the JSON that HTTP clients and ``--json`` get, and as lines for people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from service.calibration.calibration import Calibration


def calibration_view(calibration: Calibration) -> dict[str, Any]:
    """Return a calibration: its id, what it holds for, and the figures that ``calibrate`` printed."""
    return {
        "calibration_id": calibration.id,
        "created_at": calibration.created_at,
        "fitted_for": asdict(calibration.fitted_for),
        **calibration.report,
    }


def summary_lines(figures: Mapping[str, Any]) -> list[str]:
    """Return what a calibration is worth, in a few sentences."""
    made = ", made by hiding the passages that hold the answer" if figures["made_unanswerable"] else ""
    arm = f"{figures['mode']} {figures['adapter']}" if figures["adapter"] else figures["mode"]
    lines = [
        f"{arm}: {figures['n']} questions, {figures['unanswerable']} of them unanswerable{made}; "
        f"{figures['answered']} answered, {figures['right']} rightly.",
        f"On questions it had not seen ({figures['held_out']}): AUROC {_number(figures['auroc'])}, "
        f"AURC {_number(figures['aurc'])}, calibration error {_number(figures['ece'])} "
        f"(of the token probabilities alone {_number(figures['ece_uncalibrated'])}).",
    ]
    unseen = "" if not figures["failed"] else f"{len(figures['failed'])} questions failed and count for nothing."
    return [*lines, unseen] if unseen else lines


def threshold_rows(figures: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Return a row for each rate: wanted, threshold, and what happened on held-out questions."""
    return [_threshold_row(row) for row in figures["thresholds"]]


def _threshold_row(row: Mapping[str, Any]) -> tuple[str, ...]:
    wanted = f"{100 * row['max_false_answer_rate']:.0f} %"
    if row["threshold"] is None:
        return wanted, f"needs {row['unanswerable_needed']} unanswerable questions", "", "", ""
    held = row["held_out"] or {}
    rates = (held.get(name) for name in ("false_answer_rate", "coverage_answerable", "wrong_answer_rate"))
    return wanted, f"{row['threshold']:.3f}", *("–" if rate is None else f"{100 * rate:.1f} %" for rate in rates)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
