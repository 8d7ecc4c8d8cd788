"""One whole evaluation over a workspace: arms chosen, questions asked, reports written, row kept.

What the command line, the demo and the evaluation job share.
"""

from __future__ import annotations

import shlex
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import CalibrationMissing, CalibrationStale, InvalidRequest, UnknownEvaluation
from data.model_files import file_type
from data.prompt import prompt_version
from data.protocols import Report
from data.records import Adapter, Method, Question
from service.answerer import nothing_indexed
from service.arms import Arm, adapter_label, find_adapter
from service.asking import AskRequest
from service.calibration.kept import can_calibrate
from service.compare.judge import find_judge, judge_answers, open_judge
from service.compare.quantized import QuantizedAnswers, quantizations
from service.compare.report import write_reports
from service.compare.result import Comparison
from service.compare.run import (
    MAX_TOKENS,
    Setup,
    check_questions,
    choose_arms,
    compare,
    run_id,
    with_methods,
    with_quantizations,
)
from service.compare.scores import similarity
from service.compare.strata import answered_in_another_language
from service.compare.style import check_examples, style_summary
from service.houses import with_defaults
from service.other_generator import spread
from service.questions import check_askable, leaked_questions, repeated_questions, stored_questions

if TYPE_CHECKING:
    from data.store import Store
    from service.workspace import Workspace


@dataclass(frozen=True, slots=True)
class EvaluationRequest:
    """What to compare. ``arms`` empty means all that can run; ``out`` None a folder of its own.

    ``max_false_answer_rate`` is kept by the arms whose abstention is calibrated; there must be one.
    ``methods``: search methods, each of which makes an arm of every arm with passages. ``quantizations``: types of the
    base model's weights, each of which makes an arm of every arm. ``judge``: URL of a server whose ``judge_model`` says
    which answers are better; "" for none. ``identity``: of the evaluation
    (its job's); "" for a new one. ``title`` heads the report. ``repeat_with``: the command that repeats it, where that
    is not ``ragtune compare`` alone. ``style``: answers of the house, against whose style every arm's answers are
    measured; none, and they are not. ``top_k``, ``max_tokens`` and ``temperature`` None take the collection's own.
    """

    questions: tuple[Question, ...]
    arms: tuple[str, ...] = ()
    adapter: str | None = None
    collection: str = "default"
    top_k: int | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    out: Path | None = None
    fresh: bool = False
    questions_file: str = ""
    style: tuple[str, ...] = ()
    max_false_answer_rate: float | None = None
    methods: tuple[Method, ...] = ()
    quantizations: tuple[str, ...] = ()
    judge: str = ""
    judge_model: str = ""
    identity: str = ""
    title: str = "Which arm answers best"
    repeat_with: str = ""

    @property
    def command(self) -> str:
        """Return the command line that repeats this evaluation, "" if its questions are in no file."""
        if self.repeat_with or not self.questions_file:
            return self.repeat_with
        sampling = {"--top-k": self.top_k, "--max-tokens": self.max_tokens, "--temperature": self.temperature}
        words = [word for name, value in sampling.items() if value is not None for word in (name, f"{value:g}")]
        words += ["--arms", ",".join(self.arms)] if self.arms else []
        words += ["--adapter", self.adapter] if self.adapter else []
        words += ["--retrievers", ",".join(self.methods)] if self.methods else []
        words += ["--quantizations", ",".join(self.quantizations)] if self.quantizations else []
        words += ["--judge", self.judge] if self.judge else []
        words += ["--judge-model", self.judge_model] if self.judge_model else []
        words += ["--collection", self.collection] if self.collection != "default" else []
        rate = self.max_false_answer_rate
        words += [] if rate is None else ["--max-false-answer-rate", f"{rate:g}"]
        return f"ragtune compare --questions {self.questions_file} {shlex.join(words)}"


def questions_for_arms(workspace: Workspace, inputs: Mapping[str, Any], origins: Sequence[str]) -> list[Question]:
    """Return the stored questions of ``origins`` that no adapter of the arms of a job's ``inputs`` was trained on.

    Raises:
        InvalidRequest: no such origin.
        Everything ``choose_arms`` raises.
    """
    about = inputs.get("arms", ()), inputs.get("adapter"), inputs["collection"]
    arms = choose_arms(workspace.store, workspace.model, *about)
    labels = dict.fromkeys(label for arm in arms for label in arm.adapters)
    used = [find_adapter(workspace.store, label) for label in labels]
    return [q for origin in origins for q in stored_questions(workspace.store, inputs["collection"], origin, used)]


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


def _asked(store: Store, request: EvaluationRequest) -> AskRequest:
    """Return how every question is asked: as ``request`` says, else as the collection does, else as comparisons do."""
    named = {"top_k": request.top_k, "max_tokens": request.max_tokens, "temperature": request.temperature}
    given = {name: value for name, value in named.items() if value is not None}
    comparing: Any = {"max_tokens": MAX_TOKENS, **given}
    return with_defaults(store, AskRequest("", request.collection, **comparing), given)


def plan(workspace: Workspace, request: EvaluationRequest) -> Setup:
    """Return the setup that ``request`` amounts to now.

    Raises:
        NothingIndexed: an arm uses passages and the collection holds none.
        Everything ``choose_arms`` raises.
    """
    model, asked = workspace.model, _asked(workspace.store, request)
    chosen = choose_arms(workspace.store, model, request.arms, request.adapter, request.collection)
    arms = varied(workspace, chosen, request)
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
        top_k=asked.top_k,
        max_tokens=asked.max_tokens,
        temperature=asked.temperature,
        calibrations=calibrated(workspace, arms, request),
        max_false_answer_rate=request.max_false_answer_rate,
        rerank=str(workspace.settings.rerank),
        unsupported=str(workspace.settings.unsupported),
        engine=str(workspace.settings.engine_url or ""),
        prompt=prompt_version(workspace.store.houses.current(request.collection).instructions),
        quantization=file_type(model.meta),
    )


def varied(workspace: Workspace, arms: Sequence[Arm], request: EvaluationRequest) -> tuple[Arm, ...]:
    """Return the arms once for each quantization and search method that is wanted.

    Raises:
        As ``with_methods``, ``quantizations`` and ``with_quantizations``.
    """
    kinds = quantizations(workspace, request.quantizations)
    return with_quantizations(with_methods(arms, request.methods), kinds)


def calibrated(workspace: Workspace, arms: Sequence[Arm], request: EvaluationRequest) -> dict[str, str]:
    """Return the ids of the calibrations that fit, by arm name.

    Raises:
        CalibrationMissing: a share of false answers is to be kept, and no arm is calibrated.
        CalibrationStale, CalibrationTooSmall: it cannot be kept by an arm that was calibrated.
        InvalidRequest: it is to be kept by answers that are sampled.
    """
    kept, rate = workspace.answerer.calibrations, request.max_false_answer_rate
    asked = _asked(workspace.store, request)
    if rate is not None and asked.temperature:
        raise InvalidRequest(
            "A share of false answers can be kept for answers that are written greedily",
            got=asked.temperature,
            wanted="temperature 0",
            hint="Ask for temperature 0 here, or change the collection's: "
            f"ragtune collections set {request.collection} --temperature 0",
        )
    found: dict[str, str] = {}
    missing: CalibrationMissing | None = None
    for arm in filter(can_calibrate, arms):
        wanted = kept.fitting(arm, request.collection, asked.top_k, arm.method)
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
    check_askable(request.questions, workspace.settings.max_question_chars)
    check_examples(request.style)
    setup = plan(workspace, request)
    if request.judge:
        find_judge(workspace.settings, workspace.model, request.judge, request.judge_model)
    folder = request.out or workspace.state.reports / f"compare-{run_id(request.questions, setup)[:12]}"
    identity = request.identity or uuid.uuid4().hex
    fresh = identity if request.fresh else None
    # Quantizations are engines of this machine. One request at a time and node: beside others it takes longer.
    where = nullcontext((workspace, 0)) if request.quantizations else spread(workspace, together=1)
    with where as (generating, places), QuantizedAnswers(generating) as answers:
        at_once = max(1, places)
        comparison = compare(answers, request.questions, setup, folder, report, fresh=fresh, parallel=at_once)
    if request.style:
        style = style_summary(request.style, comparison.outcomes)
        comparison = replace(comparison, result={**comparison.result, "style": style})
    comparison = _with_similarity(workspace, comparison, request.collection)
    if request.judge:
        found = _judged(workspace, request, comparison, folder, report)
        comparison = replace(comparison, result={**comparison.result, "judge": found})
    comparison = replace(comparison, result=_named(workspace, request, setup, comparison.result))
    stored = dict(comparison.result) | {"id": identity, "folder": str(folder), "created_at": time.time()}
    lineage = _lineage(workspace, setup, stored)
    # As it was asked, since the collection's own values may change.
    asked = replace(request, top_k=setup.top_k, max_tokens=setup.max_tokens, temperature=setup.temperature)
    write_reports(comparison, folder, title=request.title, command=asked.command, lineage=lineage)
    if not request.identity or not _stored(workspace, identity):  # else a run before this one was stopped at its end
        workspace.store.evaluations.add(identity, stored, request.collection)
    return Evaluation(identity, folder, comparison)


def _with_similarity(workspace: Workspace, comparison: Comparison, collection: str) -> Comparison:
    """Return the comparison with the semantic similarity of each arm's answers, and what serving takes of memory."""
    embedder = workspace.embedders.of(collection)
    arms = {
        arm: {**figures, **similarity(comparison.questions, comparison.outcomes[arm], embedder)}
        if arm in comparison.outcomes  # an arm that failed has no outcomes to compare
        else figures
        for arm, figures in comparison.result["arms"].items()
    }
    return replace(comparison, result={**comparison.result, "arms": arms, "memory_mb": _memory_mb(workspace)})


def _judged(
    workspace: Workspace, request: EvaluationRequest, comparison: Comparison, folder: Path, report: Report
) -> dict[str, Any]:
    """Return what the judge says; a judge that does not answer leaves all unscored, with the reason."""
    url, name = request.judge, request.judge_model
    unreachable = find_judge(workspace.settings, workspace.model, url, name)
    if unreachable:
        return {"model": name or None, "pairs": {}, "unscored": unreachable}
    with open_judge(workspace.settings, url, name) as judge:
        path = folder / "judgments.jsonl"
        found = judge_answers(judge, comparison.questions, comparison.outcomes, path, report)
    return {**found, "unscored": None}


def _memory_mb(workspace: Workspace) -> float | None:
    """Return what the local engine was planned to take, MB (10^6 bytes): weights, keys and values, what is kept."""
    if workspace.settings.engine_url or not workspace.model.meta.get("gguf_bytes"):
        return None
    from service.engine.memory import demand

    return demand(workspace.model, workspace.engine_options(workspace.model)).total / 1e6


def _stored(workspace: Workspace, identity: str) -> bool:
    try:
        workspace.store.evaluations.get(identity)
    except UnknownEvaluation:
        return False
    return True


def _used(workspace: Workspace, setup: Setup) -> list[Adapter]:
    """Return the adapters of the arms that are still there."""
    labels = dict.fromkeys(label for arm in setup.arms for label in arm.adapters)
    known = {adapter_label(adapter): adapter for adapter in workspace.store.adapters.list()}
    return [known[label] for label in labels if label in known]


def _named(workspace: Workspace, request: EvaluationRequest, setup: Setup, result: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result with the questions named whose figures mislead.

    They repeat others, an adapter was trained on them, or their answers are in another language.
    """
    leaked = leaked_questions(workspace.store, request.questions, _used(workspace, setup))
    about = {
        "repeated": repeated_questions(request.questions),
        "leaked": leaked,
        "other_language": answered_in_another_language(request.questions),
    }
    return {**result, "questions": {**result["questions"], **about}}


def _lineage(workspace: Workspace, setup: Setup, stored: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the result was made from, by name, for the report."""
    adapters = {
        f"adapter {adapter_label(each)}": f"rows {each.rows_sha256 or 'unknown'}, {each.stage}, reads {each.attention}"
        for each in _used(workspace, setup)
    }
    return {
        "evaluation": stored["id"],
        "made": datetime.fromtimestamp(stored["created_at"], UTC).isoformat(" ", "seconds"),
        "model": f"{setup.model}, weights {setup.model_sha256}",
        "index generation": setup.index_generation,
        "passages": setup.top_k,
        "answers": f"temperature {setup.temperature:g}, at most {setup.max_tokens} tokens",
        "questions from": ", ".join(f"{name} {n}" for name, n in stored["questions"]["origins"].items()),
        **adapters,
    }
