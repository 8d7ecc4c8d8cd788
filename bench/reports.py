"""The committed reports: four arms over three sets and three searches over a fourth, by the packaged starter.

``python -m bench.reports --data FOLDER --out bench/reports [--questions 100] [--sets xquad/en squad2]``. The product
evaluates and writes each report (page, JSON, CSV); here questions are drawn, arms calibrated on articles that are not
measured, and the figures collected, with what the router gains against the best single arm and an oracle. Answers are
kept under var/bench/reports, so a stopped run goes on.
"""

from __future__ import annotations

import argparse
import json
import shlex
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from bench.sides import STATE
from data.errors import CalibrationTooSmall, NoQuestions
from data.records import Progress, Question
from service.calibration.calibrate import CalibrationRequest, calibrate
from service.calibration.calibration import fold_numbers
from service.compare.evaluation import EvaluationRequest, evaluate
from service.compare.searches import evaluate_searches
from service.questions import pair_questions
from service.settings import Settings
from service.work import pairs
from service.work.evaluate import question_from
from service.workspace import Workspace

SEED = 7
QUESTIONS = 100
ADAPTER = "reader"
ARMS = ("base", "rag", "tuned", "combined")
PROPOSALS = 9
"""Proposals for each pair wanted: of the packaged writer's about one in eight passes the checks (RESULTS.md)."""
_CHINESE = "xquad/zh"
_GENERATED = "fastapi-docs/en"
ATTRIBUTION = {
    "xquad/en": "XQuAD, google-deepmind/xquad, CC BY-SA 4.0 (Wikipedia)",
    "squad2": "SQuAD 2.0 dev, rajpurkar/SQuAD-explorer, CC BY-SA 4.0 (Wikipedia)",
    _GENERATED: "documentation of FastAPI, fastapi/fastapi, MIT; questions written by the packaged pair writer",
    _CHINESE: "XQuAD, google-deepmind/xquad, CC BY-SA 4.0 (Wikipedia)",
}
SETS = tuple(ATTRIBUTION)
FILES = ("index.html", "result.json", "answers.csv", "ranks.csv")


@dataclass(frozen=True, slots=True)
class Drawn:
    """Questions to measure, others to calibrate on (of other documents), and ids left out because they are twice."""

    measured: tuple[Question, ...]
    calibrated: tuple[Question, ...]
    dropped: tuple[str, ...] = ()


def read(path: Path) -> tuple[list[Question], tuple[str, ...]]:
    """Return a file's questions, and the ids that it has twice: which of their lines is right nobody can tell."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    twice = {name for name, n in Counter(row["id"] for row in rows).items() if n > 1}
    return [question_from(row) for row in rows if row["id"] not in twice], tuple(sorted(twice))


def draw(questions: Sequence[Question], limit: int) -> tuple[Question, ...]:
    """Return ``limit`` questions at random, of each document and of answerable and unanswerable ones about as many."""
    shuffled = list(questions)
    Random(SEED).shuffle(shuffled)
    seen: Counter[tuple[str | None, bool]] = Counter()
    turns = []
    for question in shuffled:
        kind = (question.document, question.answerable)
        turns.append((seen[kind], question))
        seen[kind] += 1
    return tuple(question for _, question in sorted(turns, key=lambda turn: turn[0])[:limit])


def drawn(data: Path, name: str, limit: int, calibrating: int) -> Drawn:
    """Return ``limit`` questions of a set to measure and ``calibrating`` others; whole documents are either's."""
    questions, dropped = read(data / name / "questions.jsonl")
    return Drawn(*apart(questions, limit, calibrating), dropped)


def apart(
    questions: Sequence[Question], limit: int, calibrating: int
) -> tuple[tuple[Question, ...], tuple[Question, ...]]:
    """Return two samples of so many questions at most, which share no document."""
    halves = fold_numbers([str(question.document) for question in questions], 2)
    parts = [[q for q, half in zip(questions, halves, strict=True) if half == side] for side in (0, 1)]
    return draw(parts[0], limit), draw(parts[1], calibrating)


def told(name: str) -> Callable[[Progress], None]:
    """Return a report that says now and then how far a set is."""

    def report(progress: Progress) -> None:
        if progress.done % 25 == 0:
            print(f"{name}: {progress.stage} {progress.done} of {progress.total}", flush=True)

    return report


def collection_of(name: str) -> str:
    """Return a set's name as that of a collection and of a folder."""
    return name.replace("/", "-")


def calibrated(workspace: Workspace, name: str, questions: Sequence[Question]) -> dict[str, str]:
    """Calibrate every arm that can be; return what became of each: its calibration's id, or why there is none."""
    found = {}
    for mode in ARMS:
        adapter = ADAPTER if mode in ("tuned", "combined") else None
        request = CalibrationRequest(tuple(questions), mode, adapter, collection_of(name))
        try:
            found[mode] = str(calibrate(workspace, request, told(f"{name} {mode}"))["calibration_id"])
        except CalibrationTooSmall as error:
            found[mode] = f"none: {error}"
    return found


def generated(workspace: Workspace, limit: int, calibrating: int) -> Drawn:
    """Return questions that the packaged writer makes of the documentation; those of an earlier run are kept."""
    collection = collection_of(_GENERATED)
    questions, wanted = pair_questions(workspace.store, collection, ()), limit + calibrating
    if len(questions) < wanted:
        kinds = ["span", "unanswerable"]
        limit = PROPOSALS * (wanted - len(questions))
        inputs = {"collection": collection, "limit": limit, "seed": SEED, "kinds": kinds}
        ledger = pairs.run(workspace, inputs, told(f"{_GENERATED} pairs"))
        print(f"{_GENERATED}: {ledger['accepted']} of {ledger['requested']} proposals accepted", flush=True)
        questions = pair_questions(workspace.store, collection, ())
    if not questions:
        raise NoQuestions("No proposal was accepted", hint="Ask for more with --questions.")
    return Drawn(*apart(questions, limit, calibrating))


def measured(workspace: Workspace, name: str, asked: Drawn, command: str, out: Path) -> dict[str, Any]:
    """Evaluate the arms on a set and write its report; return the figures that RESULTS.md has."""
    calibrations = calibrated(workspace, name, asked.calibrated) if asked.calibrated else {}
    request = EvaluationRequest(
        asked.measured,
        ARMS,
        ADAPTER,
        collection_of(name),
        title=f"Which arm answers best: {name}",
        repeat_with=command,
    )
    evaluation = evaluate(workspace, request, told(name))
    page = copy(evaluation.folder, out / collection_of(name))
    result = evaluation.result
    names = ("f1", "f1_ci", "em", "containment", "false_answer_rate", "citation_precision", "latency_ms_p50")
    return {
        "questions": len(asked.measured),
        "dropped": asked.dropped,
        "arms": {arm: {key: figures[key] for key in names} for arm, figures in result["arms"].items()},
        "verdict": result["verdict"],
        "calibrations": calibrations,
        "router": result["router"],
        "page_bytes": page.stat().st_size,
    }


def searched(workspace: Workspace, name: str, asked: Drawn, command: str, out: Path) -> dict[str, Any]:
    """Measure the searches of a set and write their report; return the figures that RESULTS.md has."""
    folder, collection = out / collection_of(name), collection_of(name)
    title = f"Which search finds best: {name}"
    found = evaluate_searches(workspace, asked.measured, collection, out=folder, title=title, command=command)
    page = folder / "index.html"
    return {"questions": found["queries"], "methods": found["methods"], "page_bytes": page.stat().st_size}


def copy(source: Path, target: Path) -> Path:
    """Copy a report's files, without the answers that a stopped run goes on from; return the page's new path."""
    target.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)
    return target / "index.html"


def calibrating(options: argparse.Namespace) -> int:
    """Return how many questions arms are calibrated on."""
    return int(options.questions if options.calibrate is None else options.calibrate)


def command_of(options: argparse.Namespace, name: str) -> str:
    """Return the command that makes one set's report again, DATA for a folder that is nobody else's."""
    words = ["--data", "DATA", "--out", str(options.out), "--questions", str(options.questions)]
    words += ["--calibrate", str(options.calibrate)] if options.calibrate is not None else []
    return f"python -m bench.reports {shlex.join([*words, '--sets', name])}"


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Make the reports; return their figures by set."""
    found: dict[str, Any] = {}
    settings = Settings.load(state_dir=STATE / "reports", model="starter", embedder="starter")
    with Workspace(settings) as workspace:
        workspace.ensure_starter_adapters()
        for name in options.sets:
            folder = options.data / name
            workspace.ingestor.ingest(collection_of(name), [folder / "docs" if (folder / "docs").is_dir() else folder])
            command = command_of(options, name)
            if name == _CHINESE:
                asked = Drawn(tuple(read(folder / "questions.jsonl")[0])[: options.questions], ())
                found[name] = searched(workspace, name, asked, command, options.out)
                continue
            limits = options.questions, calibrating(options)
            asked = generated(workspace, *limits) if name == _GENERATED else drawn(options.data, name, *limits)
            found[name] = measured(workspace, name, asked, command, options.out)
    return {"bench": "reports", "sets": found}


def index(out: Path) -> str:
    """Return the README of the folder: which reports there are, of what, under which licence."""
    lines = ["# Reports", "", "Made by `python -m bench.reports`; figures in `bench/RESULTS.md`.", ""]
    lines += ["| report | questions and texts from |", "|---|---|"]
    for name, origin in ATTRIBUTION.items():
        if (out / collection_of(name) / "index.html").exists():
            lines.append(f"| [{name}]({collection_of(name)}/index.html) | {origin} |")
    lines += ["", "`squad2` has one id twice, once answerable and once not: both questions were left out."]
    lines += [
        "The questions of `fastapi-docs/en` passed a check by the same reader that is measured: they flatter it.",
        "",
    ]
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the reports and print their figures."""
    parser = argparse.ArgumentParser(prog="python -m bench.reports", description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("bench/reports"))
    parser.add_argument("--questions", type=int, default=QUESTIONS, help="of each set")
    parser.add_argument("--calibrate", type=int, help="further questions to calibrate every arm on; else as many")
    parser.add_argument("--sets", nargs="*", choices=SETS, default=SETS)
    options = parser.parse_args(arguments)
    figures = run(options)
    (options.out / "README.md").write_text(index(options.out), encoding="utf-8")
    print(json.dumps(figures, ensure_ascii=False))


if __name__ == "__main__":
    main()
