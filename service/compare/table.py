"""A comparison as a table in the terminal. Knows nothing of how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from service.compare.preferences import preference_line
from service.compare.statistics import count_questions
from service.compare.strata import generated_note

_COLUMNS = ("arm", "F1", "95 %", "EM", "contains", "abstains", "cites", "p50 ms", "errors")


def _percent(rate: float | None) -> str:
    return "–" if rate is None else f"{100 * rate:.0f} %"


def _row(arm: str, figures: Mapping[str, Any]) -> tuple[str, ...]:
    low, high = figures["f1_ci"]
    return (
        arm,
        f"{figures['f1']:.1f}",
        f"{low:.1f} – {high:.1f}",
        f"{figures['em']:.1f}",
        f"{figures['containment']:.1f}",
        str(figures["abstained"]),
        _percent(figures["citation_precision"]),
        f"{figures['latency_ms_p50']:.0f}",
        str(len(figures["errors"])),
    )


def comparison_table(result: Mapping[str, Any]) -> RenderableType:
    """Return the arms as a table, the differences below it, and the verdict last."""
    table = Table(title=count_questions(result["questions"]["n"]), title_justify="left", pad_edge=False, box=None)
    whole = {arm: figures for arm, figures in result["arms"].items() if not figures.get("failed")}
    best = max(whole, key=lambda arm: whole[arm]["f1"])
    for position, column in enumerate(_COLUMNS):
        table.add_column(column, justify="left" if position == 0 else "right", no_wrap=True)
    for arm, figures in result["arms"].items():
        table.add_row(*_row(arm, figures), style="bold" if arm == best else "")
    notes = [
        *(*_warnings(result), *_adapters(result), *_differences(result)),
        *(*_confidence(result), *_style(result), *_judge(result)),
    ]
    return Group(table, *notes, Text(), Text(result["verdict"], style="bold"))


def _warnings(result: Mapping[str, Any]) -> list[Text]:
    """Return what speaks against the figures: arms that failed, questions that leaked or repeat others."""
    lines = [
        Text(f"{arm} failed after {row['failed']['after']} questions, is left out: {row['failed']['error']}", "red")
        for arm, row in result["arms"].items()
        if row.get("failed")
    ]
    for each in result["questions"].get("leaked", ()):
        lines.append(Text(f"{each['adapter']} was trained on {each['id']}: {each['like']}", "red"))
    for each in result["questions"].get("repeated", ()):
        lines.append(Text(f"{each['id']} asks (nearly) what {each['of']} asks", "dim"))
    for each in result["questions"].get("other_language", ()):
        lines.append(Text(f"{each}: its accepted answers are in another language, so no other can be right", "red"))
    note = generated_note(result["questions"].get("origins", {}))
    return [*lines, Text(note, "dim")] if note else lines


def _adapters(result: Mapping[str, Any]) -> list[Text]:
    """Return which version of which adapter each arm was, in one line; none where no arm had one."""
    used = [f"{arm} {figures['adapter']}" for arm, figures in result["arms"].items() if figures.get("adapter")]
    return [Text(f"Adapters: {', '.join(used)}", "dim")] if used else []


def _differences(result: Mapping[str, Any]) -> list[Text]:
    lines = []
    for name, difference in result["difference"].items():
        low, high = difference["ci"]
        shown = f"{name:<18} {difference['f1']:+6.1f} F1   95 % {low:+.1f} to {high:+.1f}   p {difference['p']:.2g}"
        lines.append(Text(shown, style="" if difference["decisive"] else "dim"))
    smallest = result["minimum_detectable_difference"]
    shown = "none" if smallest > 100 else f"{smallest:.1f} F1 points (80 % power)"
    lines.append(Text(f"Smallest difference these questions can show: {shown}", "dim"))
    return lines


def _confidence(result: Mapping[str, Any]) -> list[Text]:
    """Return what the calibrated arms' confidences are worth, and what auto makes of them; nothing without any."""
    lines = []
    for arm, found in result["arms"].items():
        if found.get("aurc") is None:
            continue
        rate = found["max_false_answer_rate"]
        got = _percent(found["false_answer_rate"])
        kept = "" if rate is None else f", false answers wanted {_percent(rate)}, got {got}"
        shown = f"{arm:<18} AURC {found['aurc']:.3f}, calibration error {found['ece']:.3f}{kept}"
        lines.append(Text(f"{shown}, answerable ones answered {_percent(found['coverage_answerable'])}"))
    router = result.get("router") or {}
    if router.get("held_out"):
        gain = f"{router['held_out']['gain']:+.1f} F1 against {router['held_out']['best_single']} alone"
        route = f"{router['first']}, then {router['second']} under a confidence of {router['switch']:.2f}: {gain}"
        lines.append(Text(f"auto: {route if router['enabled'] else 'one arm for all, ' + router['reason']}"))
    return lines


def _style(result: Mapping[str, Any]) -> list[Text]:
    """Return how each arm writes, and whether its facts are another's; nothing where that was not measured."""
    style = result.get("style")
    if style is None:
        return []
    lines = [Text(), Text(f"Style, 0 to 100 ({style['examples']} examples reach {style['ceiling']:.1f}):")]
    for arm, found in style["arms"].items():
        shown = f"{found['total']:5.1f}   95 % {_interval(found)}   n {found['n']}" if found["n"] else "no answer"
        lines.append(Text(f"{arm:<18} {shown}"))
    for name, found in style["difference"].items():
        facts = found["facts"]
        shown = f"{found['total']:+5.1f}   95 % {_interval(found)}   " if found["n"] else ""
        shown += f"facts +{facts['gained']} -{facts['lost']}, McNemar p {facts['p']:.2g}"
        lines.append(Text(f"{name:<18} {shown}", "dim"))
    return lines


def _judge(result: Mapping[str, Any]) -> list[Text]:
    """Return whom the judge prefers, and what it could not score; nothing where none was asked."""
    judge = result.get("judge")
    if judge is None:
        return []
    if judge["unscored"]:
        return [Text(f"Unscored by the judge: {judge['unscored']}", "red")]
    lines = [Text(), Text(f"Judge {judge['model']}, each pair of answers in both orders:")]
    for name, found in judge["pairs"].items():
        agreed = f"; the orders agree on {_percent(found['agreement'])}"
        unscored = ", ".join(f"{n} {reason}" for reason, n in found["unscored"].items())
        lines.append(Text(preference_line(*_two(name, result["arms"]), found) + agreed))
        lines += [Text(f"{name}: unscored {unscored}", "red")] if unscored else []
    return lines


def _two(name: str, arms: Mapping[str, Any]) -> tuple[str, str]:
    return next((a, b) for a in arms for b in arms if f"{a}-{b}" == name)


def _interval(figures: Mapping[str, Any]) -> str:
    low, high = figures["ci"]
    return f"{low:.1f} to {high:.1f}"


def print_comparison(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Print the table on standard output, or on ``console``."""
    (console or Console()).print(comparison_table(result))
