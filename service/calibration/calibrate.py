"""Calibrates abstention over a workspace: questions asked, a confidence fitted, its worth measured, the fit kept.

What the command line and the job share. Answers are kept as they come, so that a stopped run goes on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import CalibrationTooSmall, InvalidRequest
from data.protocols import Report
from data.records import Question, content_id
from service.answerer import AskRequest, check_collection, nothing_indexed
from service.arms import Arm, find_adapter, resolve_mode
from service.calibration.calibration import FOLDS, Calibration, FittedFor, Point, check_points, fit
from service.calibration.hiding import Hidden, hide_answers
from service.calibration.report import report as describe
from service.calibration.signals import NAMES
from service.compare.answering import Answers, ask_all
from service.compare.outcomes import Outcome, OutcomeFile
from service.compare.run import MAX_TOKENS, check_questions
from service.promotion import check_base
from service.questions import check_askable

if TYPE_CHECKING:
    from service.workspace import Workspace


@dataclass(frozen=True, slots=True)
class CalibrationRequest:
    """What to calibrate. ``adapter`` as for ``compare``; ``fresh`` asks again what an earlier run has answered."""

    questions: tuple[Question, ...]
    mode: str = "auto"
    adapter: str | None = None
    collection: str = "default"
    top_k: int = 4
    fresh: bool = False


def plan(workspace: Workspace, request: CalibrationRequest) -> tuple[Arm, FittedFor]:
    """Return the arm to calibrate and what the calibration will hold for.

    Raises:
        NoQuestions, InvalidRequest: the questions cannot be used.
        UnknownCollection, UnknownMode, UnknownAdapter, NoLiveAdapter: what was named does not exist.
        NothingIndexed: the arm uses passages and the collection holds none.
    """
    check_questions(request.questions)
    check_askable(request.questions, workspace.settings.max_question_chars)
    check_collection(workspace.store, request.collection)
    arm = resolve_mode(
        request.mode, request.adapter, workspace.store, workspace.model, request.collection, named=find_adapter
    )
    if arm.adapter is not None:
        check_base(find_adapter(workspace.store, arm.adapter), workspace.model)
    if arm.passages and workspace.retriever.generation(request.collection) is None:
        raise nothing_indexed(request.collection)
    return arm, workspace.answerer.calibrations.fitting(arm, request.collection, request.top_k)


def calibrate(workspace: Workspace, request: CalibrationRequest, report: Report) -> dict[str, Any]:
    """Ask the questions, fit, measure and keep the calibration; return its report.

    Raises:
        CalibrationTooSmall: too few right or wrong answers, or no unanswerable question and no passages to hide.
        EngineError: the generator tells no log-probabilities of its alternatives.
        Everything ``plan`` raises.
    """
    arm, wanted = plan(workspace, request)
    hidden = _with_unanswerable(workspace, request, arm)
    file = _answers_file(workspace, request, wanted, hidden)
    outcomes = _ask(workspace.answerer, _requests(request, arm, hidden), file, report)
    points = points_of(hidden.questions, outcomes)
    check_points(points)
    fitted = fit(points, NAMES)
    made = bool(hidden.chunks)
    figures = {
        **{"mode": arm.mode, "adapter": arm.adapter, "collection": request.collection, "top_k": request.top_k},
        "made_unanswerable": made,
        **describe(points, NAMES, fitted),
        "failed": [outcome.question_id for outcome in outcomes if outcome.error],
    }
    calibration = Calibration(
        fitted_for=wanted,
        model=fitted.model,
        false_confidences=fitted.false_confidences,
        unanswerable=fitted.unanswerable,
        made=made,
        report=figures,
        created_at=time.time(),
    )
    path = workspace.answerer.calibrations.save(arm, calibration)
    return {"calibration_id": calibration.id, "path": str(path), **figures}


def points_of(questions: Sequence[Question], outcomes: Sequence[Outcome]) -> list[Point]:
    """Return the questions that were asked without failing, with what is known of their answers.

    Questions are grouped by document where there are enough documents to keep apart, else each is its own group.
    """
    documents = {question.document for question in questions}
    apart = None not in documents and len(documents) >= FOLDS
    return [
        Point(
            question_id=question.id,
            group=str(question.document) if apart else question.id,
            answerable=question.answerable,
            answered=outcome.answered,
            right=outcome.right and question.answerable,
            signals=outcome.signals,
        )
        for question, outcome in zip(questions, outcomes, strict=True)
        if not outcome.error and (outcome.abstained or outcome.signals)
    ]


def _with_unanswerable(workspace: Workspace, request: CalibrationRequest, arm: Arm) -> Hidden:
    """Return the questions; where all are answerable, every second one with its answers hidden."""
    if not all(question.answerable for question in request.questions):
        return Hidden(request.questions, {})
    if not arm.passages:
        raise CalibrationTooSmall(
            "All questions are answerable, and this arm reads no passages that could be hidden",
            got=f"{len(request.questions)} answerable questions for mode {arm.mode}",
            wanted='some questions with "answerable": false',
        )
    return hide_answers(request.questions, workspace.retriever, request.collection, request.top_k)


def _requests(request: CalibrationRequest, arm: Arm, hidden: Hidden) -> list[tuple[Question, Arm, AskRequest]]:
    return [
        (
            question,
            arm,
            AskRequest(
                question.question,
                collection=request.collection,
                top_k=request.top_k,
                max_tokens=MAX_TOKENS,
                arm=arm,
                keep=False,
                hidden=hidden.chunks.get(question.id, frozenset()),
                measured=True,
            ),
        )
        for question in hidden.questions
    ]


def _answers_file(workspace: Workspace, request: CalibrationRequest, wanted: FittedFor, hidden: Hidden) -> OutcomeFile:
    """Return where the answers are kept; equal questions to equal parts share them."""
    generation = workspace.retriever.generation(request.collection) if wanted.embedder else None
    described = [asdict(wanted), generation, *map(asdict, hidden.questions)]
    run = content_id(json.dumps(described, ensure_ascii=False, sort_keys=True))
    path = Path(workspace.state.reports) / f"calibrate-{run[:12]}" / "answers.jsonl"
    if request.fresh:
        path.unlink(missing_ok=True)
    return OutcomeFile(path, run)


def _ask(
    answers: Answers, requests: Sequence[tuple[Question, Arm, AskRequest]], file: OutcomeFile, report: Report
) -> list[Outcome]:
    with file as kept:
        for done in ask_all(answers, requests, kept, "calibrate"):
            report(done)
        outcomes = [kept.kept[arm.name, question.id] for question, arm, _ in requests]
    silent = [outcome for outcome in outcomes if outcome.answered and not outcome.signals]
    if silent:
        raise InvalidRequest(
            "The generator tells no log-probabilities, from which a confidence could be computed",
            got=f"{len(silent)} answers without",
            hint="Use the local engine, or a server that reports top_logprobs (llama-server, vLLM).",
        )
    return outcomes
