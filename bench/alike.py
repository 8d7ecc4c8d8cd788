"""How often does a comparison of arms that are alike call one better? 200 comparisons in which nothing differs.

``python -m bench.alike [--reports bench/reports] [--runs 200]``. The scores are those of the committed reports'
answers. In every run the arms' outcomes of each question change places at random, so that no arm is better by
construction while questions keep being as hard, and arms as unlike each other, as they were. Each run is summarized as
a comparison is: the main difference alone, the others corrected together. No model is asked.
"""

from __future__ import annotations

import argparse
import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data.records import Question
from service.compare.outcomes import Outcome
from service.compare.result import summarize
from service.compare.statistics import wilson_interval

SEED = 7
RUNS = 200
Outcomes = Mapping[str, Sequence[Outcome]]


def read(path: Path) -> tuple[list[Question], Outcomes]:
    """Return a report's questions and each arm's outcomes, scores alone."""
    questions: dict[str, Question] = {}
    arms: dict[str, list[Outcome]] = {}
    with path.open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            known = row["answerable"] == "True"
            questions[row["question_id"]] = Question(row["question_id"], row["question"], ("-",) * known, known)
            abstained, em, contained = (row[name] == "True" for name in ("abstained", "em", "contained"))
            found = Outcome(row["arm"], row["question_id"], "-", abstained, float(row["f1"]), em, contained)
            arms.setdefault(row["arm"], []).append(found)
    return list(questions.values()), arms


def shuffled(arms: Outcomes, draw: np.random.Generator) -> Outcomes:
    """Return the outcomes with the arms of each question in an order drawn at random."""
    names = list(arms)
    rows = [
        [
            replace(arms[names[place]][i], arm=name)
            for name, place in zip(names, draw.permutation(len(names)), strict=True)
        ]
        for i in range(len(arms[names[0]]))
    ]
    return {name: [row[place] for row in rows] for place, name in enumerate(names)}


def decisions(path: Path, runs: int) -> dict[str, Any]:
    """Return in how many runs the main difference, and any of the others, was called decisive, with intervals."""
    questions, arms = read(path)
    draw = np.random.default_rng(SEED)
    counts = {"main": 0, "others": 0}
    for _ in range(runs):
        first, *rest = summarize(shuffled(arms, draw), questions, {})["difference"].values()
        counts["main"] += first["decisive"]
        counts["others"] += any(row["decisive"] for row in rest)
    found: dict[str, Any] = {"questions": len(questions), "arms": len(arms), "runs": runs}
    for name, count in counts.items():
        found |= {name: count, f"{name}_ci": wilson_interval(count, runs)}
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Shuffle every report's outcomes and print how often a difference was called decisive."""
    parser = argparse.ArgumentParser(prog="python -m bench.alike", description=__doc__)
    parser.add_argument("--reports", type=Path, default=Path("bench/reports"))
    parser.add_argument("--runs", type=int, default=RUNS)
    options = parser.parse_args(arguments)
    paths = sorted(options.reports.glob("*/answers.csv"))
    if not paths:
        raise SystemExit(f"No report with answers under {options.reports}: make one with python -m bench.reports")
    print(json.dumps({"bench": "alike", "sets": {path.parent.name: decisions(path, options.runs) for path in paths}}))


if __name__ == "__main__":
    main()
