"""One arm's answer to one question, scored; and the file that keeps them so that a run resumes.

Knows nothing of engines and indexes: it scores an ``Answer`` record against a ``Question``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from data.errors import RagtuneError
from data.prompt import strip_citations
from data.records import AbstainedBy, Answer, Question
from data.scoring import contains, exact_match, rouge_l, token_f1
from data.state import map_os_error

RIGHT_F1 = 50.0
"""An answer that shares so much (0-100) with an accepted one counts as right though it does not hold all of it."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one arm answered to one question, and how right it was.

    ``f1`` runs 0-100. ``cited`` and ``supporting`` are passage numbers: those the user is shown as
    citations, and those whose text holds an accepted answer. ``confidence`` is the calibrated one, None without it;
    ``abstained_by`` and ``signals`` as in ``Answer``. ``rouge_l`` runs 0-100; of the answer's ``sentences`` so many as
    ``grounded`` are borne out by a passage (both 0 where nothing was verified). ``error`` is "" unless the question
    failed.
    """

    arm: str
    question_id: str
    text: str
    abstained: bool
    f1: float
    em: bool
    contained: bool
    cited: tuple[int, ...] = ()
    supporting: tuple[int, ...] = ()
    passages: tuple[str, ...] = ()
    latency_ms: float = 0.0
    retrieve_ms: float = 0.0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    adapter: str | None = None
    error: str = ""
    confidence: float | None = None
    abstained_by: AbstainedBy | None = None
    signals: Mapping[str, float] = field(default_factory=dict)
    rouge_l: float = 0.0
    sentences: int = 0
    grounded: int = 0

    @property
    def answered(self) -> bool:
        """Tell whether an answer was given."""
        return not self.abstained and not self.error

    @property
    def right(self) -> bool:
        """Tell whether an answer was given that is right: it holds an accepted one, or shares most words with it.

        Of an unanswerable question no answer is right.
        """
        return self.answered and (self.contained or self.f1 >= RIGHT_F1)

    @property
    def key(self) -> tuple[str, str]:
        """Return what identifies an outcome within one run."""
        return self.arm, self.question_id


def score_answer(arm: str, question: Question, answer: Answer) -> Outcome:
    """Score an answer: SQuAD-normalised exact match, token F1 and containment without citation marks.

    Abstaining is wholly wrong on an answerable question and wholly right on an unanswerable one.
    """
    text = strip_citations(answer.text)
    if answer.abstained or not question.answerable:
        right = answer.abstained and not question.answerable
        f1, em, contained, rouge = 100.0 * right, right, right, 100.0 * right
    else:
        rouge = 100.0 * float(rouge_l(text, question.answers))
        f1 = 100.0 * float(token_f1(text, question.answers))
        em, contained = bool(exact_match(text, question.answers)), bool(contains(text, question.answers))
    numbered = list(enumerate(answer.passages, 1))
    return Outcome(
        arm=arm,
        question_id=question.id,
        text=answer.text,
        abstained=answer.abstained,
        f1=f1,
        em=em,
        contained=contained,
        cited=tuple(citation.n for citation in answer.citations),
        supporting=tuple(n for n, p in numbered if question.answers and contains(p.chunk.text, question.answers)),
        passages=tuple(p.chunk.heading or p.title or p.source for _, p in numbered),
        latency_ms=float(answer.timings.get("total", 0.0)),
        retrieve_ms=float(answer.timings.get("retrieve", 0.0)),
        prompt_tokens=answer.usage.prompt_tokens,
        cached_tokens=answer.usage.cached_tokens,
        completion_tokens=answer.usage.completion_tokens,
        adapter=answer.adapter,
        confidence=answer.confidence,
        abstained_by=answer.abstained_by,
        signals=answer.signals,
        rouge_l=rouge,
        sentences=len(answer.sentences),
        grounded=sum(sentence.supported for sentence in answer.sentences),
    )


def failed(arm: str, question: Question, error: RagtuneError) -> Outcome:
    """Return the outcome of a question that could not be answered: wrong, and listed."""
    return Outcome(arm, question.id, "", False, 0.0, False, False, error=f"{error.type}: {error}")


def from_json(row: Mapping[str, Any]) -> Outcome:
    """Read an outcome back from its JSON object."""
    lists = {name: tuple(row[name]) for name in ("cited", "supporting", "passages")}
    return Outcome(**{**row, **lists})


def read_outcomes(path: Path) -> list[Outcome]:
    """Return the outcomes kept in a file, whatever run they are of; none if there is no file."""
    lines = path.read_bytes().splitlines()[1:] if path.exists() else []
    return [from_json(json.loads(line)) for line in lines]


class OutcomeFile:
    """JSON lines of outcomes, each durable before the next question; the first line names the run.

    Opening a file of the same run keeps its outcomes; a file of another run is replaced. A last line
    that a crash cut short is dropped, and so is everything from a damaged line on. Failed questions
    are not kept: a resumed run asks them again.
    """

    def __init__(self, path: Path, run: str) -> None:
        self._path = path
        self._run = run
        self._file: IO[bytes] | None = None
        self.kept: dict[tuple[str, str], Outcome] = {}

    def __enter__(self) -> OutcomeFile:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self.kept = {outcome.key: outcome for outcome in self._read() if not outcome.error}
            temporary = self._path.with_suffix(".tmp")
            self._file = temporary.open("wb")
            self._write({"run": self._run})
            for outcome in self.kept.values():
                self._write(asdict(outcome))
            self._sync()
            temporary.replace(self._path)
        except OSError as error:
            raise map_os_error(error, self._path) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, outcome: Outcome) -> None:
        """Append an outcome, on disk when this returns."""
        self.kept[outcome.key] = outcome
        try:
            self._write(asdict(outcome))
            self._sync()
        except OSError as error:
            raise map_os_error(error, self._path) from error

    def _write(self, row: Mapping[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")

    def _sync(self) -> None:
        assert self._file is not None
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self) -> Iterable[Outcome]:
        if not self._path.exists():
            return
        lines = self._path.read_bytes().split(b"\n")[:-1]
        try:
            if not lines or json.loads(lines[0]) != {"run": self._run}:
                return
            for line in lines[1:]:
                yield from_json(json.loads(line))
        except (ValueError, KeyError, TypeError):
            return  # a damaged line ends what can be trusted; the questions after it are asked again
