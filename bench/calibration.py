"""Calibrated abstention on 200 random splits: is the share of false answers kept, and what does keeping it cost?

``python -m bench.calibration --data FOLDER``, where the folder holds ``squad2/docs`` and ``squad2/questions.jsonl``.
The packaged starter answers once, in mode combined; its answers are kept under var/bench/calibration, so that a
second run only counts. Each split calibrates on half of the questions and looks at the other half. The baselines get
the same theorem over a score that nothing was fitted for. Knows nothing of how a confidence is computed.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random
from statistics import fmean, stdev
from typing import Any

import numpy as np

from bench.sides import STATE
from data.records import Progress, Question
from service.calibration.calibrate import CalibrationRequest, calibrate, points_of
from service.calibration.calibration import Point, fit
from service.calibration.conformal import threshold
from service.calibration.measures import area_under_risk_coverage, auroc, expected_calibration_error
from service.calibration.report import Kept, keep
from service.calibration.signals import NAMES
from service.compare.outcomes import read_outcomes
from service.settings import Settings
from service.work.evaluate import question_from
from service.workspace import Workspace

TARGETS = (0.05, 0.1, 0.2)
SPLITS = 200
SEED = 7
Confidences = Mapping[str, float]
Scores = Callable[[Sequence[Point], Sequence[Point]], tuple[Confidences, Confidences]]
"""From the points to calibrate on and those to test, the scores of each; fitted ones of the first are unseen."""


def sample(path: Path, per_article: int) -> tuple[Question, ...]:
    """Return so many answerable and so many unanswerable questions of each article, drawn at random.

    The file has an id twice, so that ``read_questions`` refuses it.
    """
    draw = Random(SEED)
    kinds: dict[tuple[str, bool], list[Question]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        question = question_from(json.loads(line))
        kinds.setdefault((str(question.document), question.answerable), []).append(question)
    chosen: list[Question] = []
    for kind in sorted(kinds):
        chosen += draw.sample(kinds[kind], min(per_article, len(kinds[kind])))
    return tuple({question.id: question for question in chosen}.values())


def quiet(progress: Progress) -> None:
    """Say now and then how far it is."""
    if progress.done % 50 == 0:
        print(f"{progress.done} of {progress.total}", flush=True)


def answers(data: Path, per_article: int) -> tuple[list[Point], dict[str, Any]]:
    """Ask the starter, or read what it answered before; return the points and the calibration's own report."""
    questions = sample(data / "squad2" / "questions.jsonl", per_article)
    state = STATE / "calibration"
    with Workspace(Settings.load(state_dir=state, model="starter", embedder="starter")) as workspace:
        workspace.ensure_starter_adapters()
        workspace.ingestor.ingest("default", [data / "squad2" / "docs"])
        figures = calibrate(workspace, CalibrationRequest(questions, "combined", "reader"), quiet)
        found = {}
        for path in (workspace.state.reports).glob("calibrate-*/answers.jsonl"):
            found |= {outcome.question_id: outcome for outcome in read_outcomes(path)}
    asked = [question for question in questions if question.id in found]
    return points_of(asked, [found[question.id] for question in asked]), figures


def confidence(train: Sequence[Point], test: Sequence[Point]) -> tuple[Confidences, Confidences]:
    """Score by the calibrated confidence."""
    fitted = fit(train, NAMES)
    unseen = {point.question_id: fitted.model.probability(point.signals) for point in test if point.answered}
    return fitted.confidences, unseen


def signal(name: str) -> Scores:
    """Return scores by one signal as it is."""

    def scores(train: Sequence[Point], test: Sequence[Point]) -> tuple[Confidences, Confidences]:
        return _plain(train, name), _plain(test, name)

    return scores


def _plain(points: Sequence[Point], name: str) -> Confidences:
    return {point.question_id: point.signals[name] for point in points if point.answered}


def halves(points: Sequence[Point], draw: np.random.Generator, *, by_article: bool) -> tuple[list[Point], list[Point]]:
    """Return two random halves; whole articles, or each question for itself."""
    keys = sorted({point.group if by_article else point.question_id for point in points})
    chosen = {keys[place] for place in draw.permutation(len(keys))[: len(keys) // 2]}
    first = [p for p in points if (p.group if by_article else p.question_id) in chosen]
    return first, [p for p in points if (p.group if by_article else p.question_id) not in chosen]


def one_split(train: Sequence[Point], test: Sequence[Point], scores: Scores, target: float, plus: int) -> Kept:
    """Return what became of the test half under the threshold of the other.

    ``plus`` 0 leaves the finite-sample correction out: the share among the calibration questions is the target.
    """
    known, unseen = scores(train, test)
    false = sorted((known[p.question_id] for p in train if p.answered and not p.answerable), reverse=True)
    unanswerable = sum(not p.answerable for p in train)
    if plus:
        return keep(test, unseen, threshold(false, unanswerable, target))
    allowed = math.floor(target * unanswerable + 1e-9)
    return keep(test, unseen, false[allowed] if len(false) > allowed else -math.inf)


def abstention_f1(kept: Kept) -> float:
    """Return the F1 of abstaining where there is no answer."""
    right = kept.unanswerable - kept.false
    abstained = right + kept.answerable - kept.answered
    return 2 * right / (abstained + kept.unanswerable) if abstained + kept.unanswerable else 0.0


def row(points: Sequence[Point], scores: Scores, target: float, *, by_article: bool, plus: int = 1) -> dict[str, float]:
    """Return means over the splits, with the standard deviation of the realised rate over them."""
    draw = np.random.default_rng(SEED)
    found = [one_split(*halves(points, draw, by_article=by_article), scores, target, plus) for _ in range(SPLITS)]
    rates = [kept.false / kept.unanswerable for kept in found]
    given = [
        (kept.answered - kept.wrong) / (kept.answered + kept.false) for kept in found if kept.answered + kept.false
    ]
    return {
        "realised": fmean(rates),
        "spread": stdev(rates),
        "coverage": fmean(kept.answered / kept.answerable for kept in found),
        "right_of_given": fmean(given) if given else math.nan,
        "abstention_f1": fmean(map(abstention_f1, found)),
    }


SIDES: dict[str, tuple[Scores, int]] = {
    "calibrated confidence": (confidence, 1),
    "the same without the finite-sample correction": (confidence, 0),
    "mean log-probability": (signal("logprob_mean"), 1),
    "retrieval score": (signal("score_best"), 1),
}


def measures(points: Sequence[Point]) -> dict[str, dict[str, float | None]]:
    """Return how each score ranks answers, and how far from the truth it is where it is a probability.

    The confidence of an answer is by a model that has seen no question of its article.
    """
    answered = [point for point in points if point.answered]
    right, answerable = [point.right for point in answered], [point.answerable for point in answered]
    fitted = fit(points, NAMES, folds=len({point.group for point in points})).confidences
    scores = {
        "calibrated confidence": [fitted[point.question_id] for point in answered],
        "mean log-probability": [math.exp(point.signals["logprob_mean"]) for point in answered],
        "retrieval score": [point.signals["score_best"] for point in answered],
    }
    return {
        name: {
            "auroc_right": auroc(values, right),
            "auroc_answerable": auroc(values, answerable),
            "aurc": area_under_risk_coverage(values, right),
            "ece": expected_calibration_error(values, right),
        }
        for name, values in scores.items()
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Answer, split, count and print."""
    parser = argparse.ArgumentParser(prog="python -m bench.calibration", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--per-article", type=int, default=10, help="answerable questions of each article; as many not")
    parser.add_argument("--articles", help="only these, comma-separated file names; the answers to all are kept")
    options = parser.parse_args(arguments)
    points, figures = answers(options.data, options.per_article)
    if options.articles:
        points = [point for point in points if point.group in options.articles.split(",")]
    line: dict[str, Any] = {"bench": "calibration", "questions": len(points), "measures": measures(points)}
    line["unanswerable"] = sum(not point.answerable for point in points)
    line["answered_unanswerable"] = sum(not point.answerable and point.answered for point in points)
    line["answered_answerable"] = sum(point.answerable and point.answered for point in points)
    line["right"] = sum(point.right for point in points)
    line["splits"] = {
        kind: {
            f"{name}, {target:g}": row(points, scores, target, by_article=kind == "articles", plus=plus)
            for name, (scores, plus) in SIDES.items()
            for target in TARGETS
        }
        for kind in ("questions", "articles")
    }
    print(json.dumps({**line, "report": {name: figures[name] for name in ("auroc", "ece", "aurc", "n")}}))
    for name, found in line["measures"].items():
        print(name, {key: None if value is None else round(value, 3) for key, value in found.items()})
    for kind, rows in line["splits"].items():
        for name, found in rows.items():
            print(f"{kind:9} {name:50}", {key: round(value, 3) for key, value in found.items()})


if __name__ == "__main__":
    main()
