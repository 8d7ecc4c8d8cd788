"""A round of the loop as Markdown: what came out of it first, then each step. Knows nothing of how rounds are run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

STEPS = ("ingest", "pairs", "train", "evaluate", "promote")
"""The steps of a round, in their order."""


def round_report(record: Mapping[str, Any]) -> str:
    """Return a round as Markdown: what came out of it first, then each step."""
    steps = record["steps"]
    lines = [f"# Round {record['number']} of {record['collection']}", "", f"**{outcome(record)}**", ""]
    for step in STEPS:
        if step in steps:
            lines.append(f"- {step} ({steps[step]['seconds']:.0f} s): {_step_text(step, steps[step])}")
    lines += ["", "| made from | |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in record["lineage"].items() if value is not None]
    promoted = steps.get("promote", {})
    if promoted.get("reasons"):
        lines += ["", "What the policy found:", "", *(f"- {reason}" for reason in promoted["reasons"])]
    if steps.get("evaluate", {}).get("leaked"):
        lines += ["", "Questions left out because an adapter was trained on them:", ""]
        lines += [f"- {each['id']} ({each['adapter']}: {each['like']})" for each in steps["evaluate"]["leaked"]]
    return "\n".join(lines) + "\n"


def outcome(record: Mapping[str, Any]) -> str:
    """Return what a round came to, in one sentence."""
    live = record["live"] or "no adapter"
    if record["status"] == "failed":
        error = record["error"]
        return f"The round failed at {record['failed_step']}: {error['detail']}. {live} is live, as before."
    promoted = record["steps"]["promote"]
    if promoted["promoted"]:
        return f"{promoted['live']} is live, in place of {promoted['before'] or 'answers without an adapter'}."
    if promoted.get("shadow"):
        return f"{promoted['shadow']} answers in the shadow now; {live} stays live."
    if promoted.get("refused"):
        return f"{promoted['decision']['candidate']} was not promoted; {live} stays live."
    return f"Nothing to promote; {live} stays live."


def _step_text(step: str, found: Mapping[str, Any]) -> str:
    if found.get("skipped"):
        return f"skipped, {found['skipped']}"
    if step == "ingest":
        counts = ", ".join(
            f"{found[name]} {name}" for name in ("indexed", "unchanged", "moved", "deleted") if name in found
        )
        return counts + "".join(f"; failed: {each['source']} ({each['detail']})" for each in found["failed"])
    if step == "pairs":
        ledger = found["ledger"]
        rejected = sum(ledger["rejected"].values())
        return (
            f"{ledger['accepted']} accepted, {rejected} rejected and {ledger['failed']} failed of {ledger['requested']}"
        )
    if step == "train":
        return f"{found['adapter']} from {found['pairs']} pairs"
    if step == "evaluate":
        return f"{found['questions']['n']} questions. {found['verdict']}"
    return "promoted" if found["promoted"] else "not promoted"
