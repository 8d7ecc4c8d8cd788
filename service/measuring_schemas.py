"""The JSON that HTTP clients send to measure: evaluations, calibrations, blind comparisons. As ``schemas``, checked."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from data.errors import InvalidRequest
from data.formats import QuestionIds, accepted_answers
from data.jsonl import located
from data.records import Method
from data.store import Vote
from service.answerer import AskRequest
from service.schemas import Body, Sampling


class EvaluationQuestion(Body):
    """One held-out question with every accepted answer; without an id it gets one of its text."""

    id: str | None = Field(None, min_length=1)
    question: str
    answers: list[str] = Field(default_factory=list)
    answerable: bool = True
    document: str | None = None
    origin: str = Field("file", max_length=64)


def _checked(questions: list[EvaluationQuestion]) -> list[EvaluationQuestion]:
    """Give them ids and check their answers as ``data.formats.read_questions`` does those of a file.

    Raises:
        InvalidRequest: an id stands twice, or answers and ``answerable`` contradict each other; the row is named.
    """
    ids = QuestionIds()
    for row, question in enumerate(questions, 1):
        try:
            question.answers = list(accepted_answers(question.answers, answerable=question.answerable))
            question.id = ids.claim(question.question, question.id)
        except InvalidRequest as error:
            raise located(error, f"questions, row {row}") from error
    return questions


EvaluationQuestions = Annotated[list[EvaluationQuestion], Field(max_length=10_000), AfterValidator(_checked)]


class EvaluationBody(Body):
    """``POST /v1/evaluations``: the arms over held-out questions; ``style`` are answers written as the house does.

    ``judge`` lets the operator's judge compare the answers; ``fresh`` asks again what an earlier run has answered.
    ``origins`` adds stored questions: corrections ("feedback"), accepted pairs that were not trained on ("pairs").
    ``top_k``, ``max_tokens`` and ``temperature`` are the collection's own where they are left out, else 4, 48 and 0.
    """

    questions: EvaluationQuestions = Field(default_factory=list)
    collection: str = "default"
    arms: list[str] = Field(default_factory=list, max_length=16)
    adapter: str | None = None
    top_k: int | None = Field(None, ge=1, le=50)
    max_tokens: int | None = Field(None, ge=1, le=8192)
    temperature: float | None = Field(None, ge=0, le=2)
    style: list[str] = Field(default_factory=list, max_length=1000)
    max_false_answer_rate: float | None = Field(None, gt=0, le=1)
    origins: list[Literal["feedback", "pairs"]] = Field(default_factory=list, max_length=2)
    methods: list[Method] = Field(default_factory=list, max_length=3)
    quantizations: list[str] = Field(default_factory=list, max_length=4)
    judge: bool = False
    fresh: bool = False


class CalibrationBody(Body):
    """``POST /v1/calibrations``: learn what an arm's confidence means, from questions of known answers.

    ``top_k`` is the collection's own where it is left out, else 4.
    """

    questions: EvaluationQuestions = Field(default_factory=list)
    mode: str = "auto"
    adapter: str | None = None
    collection: str = "default"
    top_k: int | None = Field(None, ge=1, le=50)


class BlindBody(Sampling):
    """``POST /v1/blind``: two arms, by mode or adapter; combined and rag, else rag and base, where none are named."""

    question: str
    arms: list[str] = Field(default_factory=list, max_length=2)

    def ask(self) -> AskRequest:
        """Return it as the answerer's request, without an arm."""
        return self._ask(question=self.question)


class VoteBody(Body):
    """Which of a blind comparison's answers is better."""

    vote: Vote
