"""One whole evaluation over a workspace: arms chosen, questions asked, reports written, row kept.

What the command line, the demo and the evaluation job share.
"""

from __future__ import annotations

import shlex
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import CalibrationMissing, CalibrationStale
from data.protocols import Report
from data.records import Question
from service.answerer import nothing_indexed
from service.arms import Arm
from service.compare.report import write_reports
from service.compare.result import Comparison
from service.compare.run import MAX_TOKENS, Setup, check_questions, choose_arms, compare, run_id
from service.compare.scores import similarity
from service.compare.style import check_examples, style_summary

if TYPE_CHECKING:
    from service.workspace import Workspace


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """What to compare. ``arms`` empty means all that can run; ``out`` None a folder of its own.

    ``style``: answers of the house, against whose style every arm's answers are measured; none, and they are not.
    ``max_false_answer_rate`` is kept by the arms whose abstention is calibrated; there must be one.
    """

    questions: tuple[Question, ...]
    arms: tuple[str, ...] = ()
    adapter: str | None = None
    collection: str = "default"
    top_k: int = 4
    max_tokens: int = MAX_TOKENS
    out: Path | None = None
    fresh: bool = False
    questions_file: str = ""
    style: tuple[str, ...] = ()
    max_false_answer_rate: float | None = None

    @property
    def command(self) -> str:
        """Return the command line that repeats this evaluation, "" if its questions are in no file."""
        if not self.questions_file:
            return ""
        words = ["ragtune", "compare", "--questions", self.questions_file, "--top-k", str(self.top_k)]
        words += ["--arms", ",".join(self.arms)] if self.arms else []
        words += ["--adapter", self.adapter] if self.adapter else []
        words += ["--collection", self.collection] if self.collection != "default" else []
        rate = self.max_false_answer_rate
        words += [] if rate is None else ["--max-false-answer-rate", f"{rate:g}"]
        return shlex.join(words)


@dataclass(frozen=True, slots=True)
class Evaluation:
    """A finished evaluation: its id, its folder with index.html and result.json, and what it found."""

    id: str
    folder: Path
    comparison: Comparison

    @property
    def result(self) -> Mapping[str, Any]:
        """Return the result of design.md section 4."""
        return self.comparison.result


def plan(workspace: Workspace, request: EvaluationRequest) -> Setup:
    """Return the setup that ``request`` amounts to now.

    Raises:
        NothingIndexed: an arm uses passages and the collection holds none.
        Everything ``choose_arms`` raises.
    """
    model = workspace.model
    arms = choose_arms(workspace.store, model, request.arms, request.adapter, request.collection)
    passages = any(arm.passages for arm in arms)
    generation = workspace.retriever.generation(request.collection) if passages else None
    if passages and generation is None:
        raise nothing_indexed(request.collection)
    return Setup(
        arms=arms,
        collection=request.collection,
        model=model.name,
        model_sha256=model.sha256,
        index_generation=generation,
        top_k=request.top_k,
        max_tokens=request.max_tokens,
        calibrations=calibrated(workspace, arms, request),
        max_false_answer_rate=request.max_false_answer_rate,
    )


def calibrated(workspace: Workspace, arms: Sequence[Arm], request: EvaluationRequest) -> dict[str, str]:
    """Return the ids of the calibrations that fit, by arm name.

    Raises:
        CalibrationMissing: a share of false answers is to be kept, and no arm is calibrated.
        CalibrationStale, CalibrationTooSmall: it cannot be kept by an arm that was calibrated.
    """
    kept, rate = workspace.answerer.calibrations, request.max_false_answer_rate
    found: dict[str, str] = {}
    missing: CalibrationMissing | None = None
    for arm in arms:
        wanted = kept.fitting(arm, request.collection, request.top_k)
        try:
            held = kept.require(arm, wanted)
            if rate is not None:
                held.threshold(rate)
            found[arm.name] = held.id
        except CalibrationMissing as error:
            missing = error
        except CalibrationStale:
            if rate is not None:
                raise
    if rate is not None and not found and missing is not None:
        raise missing
    return found


def evaluate(workspace: Workspace, request: EvaluationRequest, report: Report) -> Evaluation:
    """Run the comparison, write its reports and keep its result.

    Raises:
        NoQuestions, InvalidRequest: the questions, or the examples of the style, cannot be used.
        Everything ``plan`` and ``compare`` raise.
    """
    check_questions(request.questions)
    check_examples(request.style)
    setup = plan(workspace, request)
    folder = request.out or workspace.state.reports / f"compare-{run_id(request.questions, setup)[:12]}"
    comparison = compare(workspace.answerer, request.questions, setup, folder, report, fresh=request.fresh)
    if request.style:
        style = style_summary(request.style, comparison.outcomes)
        comparison = replace(comparison, result={**comparison.result, "style": style})
    comparison = _with_similarity(workspace, comparison, request.collection)
    identity = uuid.uuid4().hex
    stored = dict(comparison.result) | {"id": identity, "folder": str(folder), "created_at": time.time()}
    write_reports(comparison, folder, command=request.command)
    workspace.store.evaluations.add(identity, stored, request.collection)
    return Evaluation(identity, folder, comparison)


def _with_similarity(workspace: Workspace, comparison: Comparison, collection: str) -> Comparison:
    """Return the comparison with the semantic similarity of each arm's answers, and what serving takes of memory."""
    embedder = workspace.embedders.of(collection)
    arms = {
        arm: {**figures, **similarity(comparison.questions, comparison.outcomes[arm], embedder)}
        for arm, figures in comparison.result["arms"].items()
    }
    return replace(comparison, result={**comparison.result, "arms": arms, "memory_mb": _memory_mb(workspace)})


def _memory_mb(workspace: Workspace) -> float | None:
    """Return what the local engine was planned to take, MB (10^6 bytes): weights, keys and values, what is kept."""
    if workspace.settings.engine_url or not workspace.model.meta.get("gguf_bytes"):
        return None
    from service.engine.memory import demand

    return demand(workspace.model, workspace.engine_options(workspace.model)).total / 1e6
