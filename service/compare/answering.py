"""Asks arms questions and keeps the outcomes, so that a stopped run goes on where it was.

Knows nothing of the engine: it asks whatever answers an ``AskRequest``.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from itertools import groupby
from typing import Protocol

from data.errors import (
    AdapterInert,
    BaseModelMismatch,
    InvalidModel,
    JobCancelled,
    RagtuneError,
    StateError,
    UnknownAdapter,
)
from data.records import Answer, Progress, Question
from service.answerer import AskRequest
from service.arms import Arm
from service.compare.outcomes import Outcome, OutcomeFile, failed, score_answer

GIVE_UP = 5
"""Questions in a row on which an arm fails before it is asked no more: one bad question must not end it."""
_LASTING = (UnknownAdapter, BaseModelMismatch, AdapterInert, InvalidModel)
"""Errors of an arm, not of a question: the next question would meet them too."""
_RECENT = 32


Asked = tuple[Question, Arm, AskRequest]
"""A question, the arm it is asked of, and how."""


class Answers(Protocol):
    """Anything that answers a request: the service's ``Answerer``."""

    def answer(self, ask: AskRequest) -> Answer:
        """Answer to the end."""


class Failures:
    """Counts how often each arm failed in a row; ``ended`` holds the error of each arm that cannot go on."""

    def __init__(self) -> None:
        self.ended: dict[str, RagtuneError] = {}
        self._in_a_row: Counter[str] = Counter()

    def note(self, arm: str, error: RagtuneError) -> None:
        """Count a failure."""
        self._in_a_row[arm] += 1
        if isinstance(error, _LASTING) or self._in_a_row[arm] >= GIVE_UP:
            self.ended[arm] = error

    def passed(self, arm: str) -> None:
        """Note that an arm answered."""
        self._in_a_row[arm] = 0


def ask_all(
    answers: Answers,
    requests: Sequence[Asked],
    kept: OutcomeFile,
    stage: str,
    failures: Failures | None = None,
    *,
    parallel: int = 1,
) -> Iterator[Progress]:
    """Ask what is not kept yet and keep the outcomes, in order; yield the progress after each answer.

    With ``failures`` an arm that failed for good is asked no more. Up to ``parallel`` questions are asked at a time.
    """
    todo = [request for request in requests if (request[1].name, request[0].id) not in kept.kept]
    total = len(requests)
    recent: deque[float] = deque(maxlen=_RECENT)
    yield Progress(total - len(todo), total, "answers", None, stage)
    ended = failures.ended if failures is not None else {}
    last = time.perf_counter()
    for position, (arm, outcome, error) in enumerate(_outcomes(answers, todo, ended, parallel), 1):
        if outcome is None or arm in ended:
            continue
        if failures is not None:
            failures.note(arm, error) if error is not None else failures.passed(arm)
        kept.add(outcome)
        now = time.perf_counter()
        recent.append(now - last)
        last = now
        left = (len(todo) - position) * sum(recent) / len(recent)
        yield Progress(total - len(todo) + position, total, "answers", left, stage, {"arm": arm})


def _outcomes(
    answers: Answers, todo: Sequence[Asked], ended: Container[str], parallel: int
) -> Iterator[tuple[str, Outcome | None, RagtuneError | None]]:
    """Yield each request's arm and outcome, in order; None where the arm had ended."""

    def ask(group: Sequence[Asked]) -> list[tuple[str, Outcome | None, RagtuneError | None]]:
        return [
            (each[1].name, *(_outcome(answers, *each) if each[1].name not in ended else (None, None))) for each in group
        ]

    if parallel == 1:
        for each in todo:
            yield from ask([each])
        return
    groups = [list(group) for _, group in groupby(todo, key=lambda each: (each[1].quantization, each[0].id))]
    waiting: deque[Future[list[tuple[str, Outcome | None, RagtuneError | None]]]] = deque()
    pool = ThreadPoolExecutor(parallel, "questions")
    try:
        for group in groups:
            waiting.append(pool.submit(copy_context().run, ask, group))  # who asks is a context variable
            if len(waiting) == 2 * parallel:
                yield from waiting.popleft().result()
        while waiting:
            yield from waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _outcome(answers: Answers, question: Question, arm: Arm, ask: AskRequest) -> tuple[Outcome, RagtuneError | None]:
    try:
        return score_answer(arm.name, question, answers.answer(ask)), None
    except (StateError, JobCancelled):
        raise
    except RagtuneError as error:
        return failed(arm.name, question, error), error
