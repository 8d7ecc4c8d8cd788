"""Runs the arms over the questions, so that a stopped run goes on where it was.

Knows nothing of the engine, and calls no statistics itself. Arms alternate question by question, so that a stopped
run is still paired.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import (
    InvalidRequest,
    NoQuestions,
)
from data.formats import accepted_answers
from data.jsonl import located
from data.prompt import prompt_version
from data.protocols import Report
from data.records import METHODS, Method, Model, Question, content_id
from data.state import map_os_error, write_atomic
from service.answerer import AskRequest
from service.arms import Arm, find_adapter, resolve_arm, resolve_mode
from service.calibration.calibration import ANSWER_TOKENS
from service.compare.answering import Answers, Asked, Failures, ask_all
from service.compare.outcomes import OutcomeFile
from service.compare.result import Comparison, summarize, summarize_failed
from service.compare.router import fit_router, oracle
from service.promotion import check_base

if TYPE_CHECKING:
    from data.store import Store

READER = "reader"
"""Name of the starter adapter that is shown as a row of its own."""
MAX_TOKENS = ANSWER_TOKENS
"""Enough for any short answer with its mark; the same for every arm."""
MOST_ARMS = 48
"""Every two are compared, so that the work grows with the square."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a comparison runs with; equal setups over equal questions share their answers.

    ``calibrations`` are the ids of those that fit, by arm name; ``max_false_answer_rate`` is kept by these arms.
    ``quantization`` is that of the model as it is served, None where it is not known.
    """

    arms: tuple[Arm, ...]
    collection: str
    model: str
    model_sha256: str
    index_generation: int | None
    top_k: int = 4
    max_tokens: int = MAX_TOKENS
    temperature: float = 0.0
    calibrations: Mapping[str, str] = field(default_factory=dict)
    max_false_answer_rate: float | None = None
    rerank: str = "off"
    unsupported: str = "mark"
    engine: str = ""
    quantization: str | None = None
    prompt: str = field(default_factory=prompt_version)

    def rate(self, arm: Arm) -> float | None:
        """Return the share of false answers that an arm keeps to, None where it answers as it likes."""
        return self.max_false_answer_rate if arm.name in self.calibrations else None

    def labels(self, arm: Arm) -> dict[str, Any]:
        """Return what an arm was run with that its name need not say."""
        return {
            "max_false_answer_rate": self.rate(arm),
            "method": arm.method if arm.passages else None,
            "quantization": arm.quantization or self.quantization,
        }


def check_questions(questions: Sequence[Question]) -> None:
    """Refuse an empty set, and one that has an id twice.

    Raises:
        NoQuestions: there is none.
        InvalidRequest: two questions share an id, or one's answers and ``answerable`` contradict each other.
    """
    if not questions:
        raise NoQuestions("There are no questions to compare on", hint="Give a file with --questions FILE.")
    seen: set[str] = set()
    for question in questions:
        if question.id in seen:
            raise InvalidRequest("Two questions have the same id", got=question.id, wanted="an id of its own for each")
        try:
            accepted_answers(question.answers, answerable=question.answerable)
        except InvalidRequest as error:
            raise located(error, f"Question {question.id}") from error
        seen.add(question.id)


def with_methods(arms: Sequence[Arm], methods: Sequence[Method]) -> tuple[Arm, ...]:
    """Return the arms once for each search method, named ``arm:method`` from the second on; none leave them alone.

    Raises:
        InvalidRequest: no such method, or one twice.
    """
    if set(methods) - set(METHODS) or len(set(methods)) < len(methods):
        raise InvalidRequest(
            "These are no search methods", got=", ".join(methods), wanted=f"some of {', '.join(METHODS)}"
        )
    if not methods:
        return tuple(arms)
    first, *others = methods
    return tuple(
        each
        for arm in arms
        for each in (
            replace(arm, method=first),
            *(replace(arm, name=f"{arm.name}:{method}", method=method) for method in others if arm.passages),
        )
    )


def with_quantizations(arms: Sequence[Arm], kinds: Mapping[str, str]) -> tuple[Arm, ...]:
    """Return the arms once for each quantization: ``kinds`` says what to put behind the name, and the type.

    Raises:
        InvalidRequest: that makes more than ``MOST_ARMS``.
    """
    found = tuple(
        replace(arm, name=arm.name + suffix, quantization=kind) for suffix, kind in kinds.items() for arm in arms
    )
    if len(found) > MOST_ARMS:
        raise InvalidRequest(
            "So many arms cannot be compared at once",
            got=f"{len(found)} arms",
            wanted=f"at most {MOST_ARMS}: arms times quantizations times search methods",
        )
    return found


def choose_arms(
    store: Store, model: Model, names: Sequence[str] = (), adapter: str | None = None, collection: str = "default"
) -> tuple[Arm, ...]:
    """Return the arms to run: those named, else all that can run.

    Args:
        store: where adapters are looked up.
        model: the base model.
        names: modes, "reader" or adapter names; empty for all of base, rag, tuned, combined, reader that exist.
        adapter: the adapter of tuned and combined, ``name`` (its newest version) or ``name@version``; None for
            the live one.
        collection: the collection asked.

    Raises:
        UnknownMode, UnknownAdapter, NoLiveAdapter: as ``resolve_arm`` raises.
        InvalidRequest: an arm is named twice.
    """
    if len(set(names)) < len(names):
        raise InvalidRequest("An arm is named twice", got=",".join(names))
    live = adapter is not None or store.adapters.live(model.sha256, collection) is not None
    wanted = list(names) or ["base", "rag", *(["tuned", "combined"] if live else [])]
    arms = [
        resolve_mode(name, adapter, store, model, collection, named=find_adapter)
        if name in ("tuned", "combined")
        else resolve_arm(name, store, model, collection, named=find_adapter)
        for name in wanted
    ]
    arms = [Arm(name, arm.passages, arm.adapter) for name, arm in zip(wanted, arms, strict=True)]
    known = store.adapters.list()
    if not names and any(a.name == READER and a.base_sha256 == model.sha256 for a in known):
        reader = resolve_arm(READER, store, model, collection, named=find_adapter)
        if reader.adapter not in {arm.adapter for arm in arms}:
            arms.append(reader)
    for arm in arms:
        if arm.adapter is not None:
            check_base(find_adapter(store, arm.adapter), model)
    return tuple(arms)


def run_id(questions: Sequence[Question], setup: Setup) -> str:
    """Return the id that equal questions and setups share."""
    described = [asdict(setup), *(asdict(question) for question in questions)]
    return content_id(json.dumps(described, ensure_ascii=False, sort_keys=True))


def compare(
    answers: Answers,
    questions: Sequence[Question],
    setup: Setup,
    out: Path,
    report: Report,
    *,
    fresh: str | None = None,
    parallel: int = 1,
) -> Comparison:
    """Ask every question through every arm and summarize.

    Each answer is on disk in ``out / answers.jsonl`` before the next question, so that the same call
    goes on after a stop. A question that fails counts as wrong and is listed; an arm that cannot go on, or fails
    ``GIVE_UP`` times in a row, is marked and left out of what is compared; a failing state directory or a cancel
    ends the run.

    Args:
        answers: answers requests through the served model.
        questions: what to ask, each with its accepted answers.
        setup: the arms and their settings.
        out: the folder of this comparison.
        report: receives progress; raises ``JobCancelled`` to stop.
        fresh: a name; what a run without this name has answered is asked again.
        parallel: how many questions are asked at a time; it changes no answer.

    Raises:
        NoQuestions, InvalidRequest: the questions cannot be used.
        RagtuneError: of the first arm that failed, if all did.
        StateError: the folder cannot be written.
    """
    check_questions(questions)
    path = out / "answers.jsonl"
    if fresh is not None:
        _begin_anew(path, fresh)
    failures = Failures()
    started = time.perf_counter()
    with OutcomeFile(path, run_id(questions, setup)) as kept:
        requests = _requests(questions, setup)
        for done in ask_all(answers, requests, kept, "compare", failures, parallel=parallel):
            report(done)
        found = dict(kept.kept)
    spent = time.perf_counter() - started
    whole = [arm.name for arm in setup.arms if arm.name not in failures.ended]
    if not whole:
        raise next(iter(failures.ended.values()))
    outcomes = {arm: tuple(found[arm, question.id] for question in questions) for arm in whole}
    started = time.perf_counter()
    result = summarize(outcomes, questions, {"answers": spent})
    result["arms"] |= {
        arm: summarize_failed([(q, found[arm, q.id]) for q in questions if (arm, q.id) in found], error)
        for arm, error in failures.ended.items()
    }
    result["seconds"]["statistics"] = time.perf_counter() - started
    for arm in setup.arms:
        result["arms"][arm.name] |= setup.labels(arm)
    calibrations = {arm: each for arm, each in setup.calibrations.items() if arm in outcomes}
    result["router"] = fit_router(outcomes, questions, calibrations) | {"oracle": oracle(outcomes)}
    result |= {"model": setup.model, "collection": setup.collection, "index_generation": setup.index_generation}
    return Comparison(tuple(questions), outcomes, result)


def _requests(questions: Sequence[Question], setup: Setup) -> list[Asked]:
    """Return what is asked, in order: one quantization after the other, in each the arms in turn for every question."""
    kinds = dict.fromkeys(arm.quantization for arm in setup.arms)
    return [
        (question, arm, request_of(question, arm, setup))
        for kind in kinds
        for question in questions
        for arm in setup.arms
        if arm.quantization == kind
    ]


def _begin_anew(path: Path, name: str) -> None:
    """Forget the answers of runs without this name; a stopped run of this name goes on."""
    marker = path.with_name("fresh")
    try:
        if not marker.exists() or marker.read_text(encoding="utf-8") != name:
            path.unlink(missing_ok=True)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(marker, name.encode())
    except OSError as error:
        raise map_os_error(error, marker) from error


def request_of(question: Question, arm: Arm, setup: Setup) -> AskRequest:
    """Return how a comparison asks a question of an arm."""
    return AskRequest(
        question.question,
        collection=setup.collection,
        top_k=setup.top_k,
        max_tokens=setup.max_tokens,
        temperature=setup.temperature,
        seed=0,  # a sampled comparison can be repeated too
        method=arm.method,
        arm=arm,
        max_false_answer_rate=setup.rate(arm),
        keep=False,
    )
