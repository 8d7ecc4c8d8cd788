"""An optional judge: another model says which of two answers is better, each pair in both orders.

Any server of OpenAI's protocol can judge, but none whose model wrote the answers: a model prefers its own (Panickssery
et al., 2024). A judge also prefers a place (Zheng et al., 2023), so each pair is shown in both orders; where the two
orders disagree the verdict is a tie, and how often they agree is told. What the judge does not say, or says so that it
cannot be read, is unscored, with the reason: it is never counted as anything else. An answer could talk to the judge
and ask for its vote; nothing here prevents that. Knows nothing of how answers came about.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from pydantic import SecretStr

from data.errors import EngineError, InvalidRequest, JobCancelled, RagtuneError, StateError, Unauthorized
from data.prompt import strip_citations
from data.protocols import GenerationRequest, Generator, Report
from data.records import Message, Model, Progress, Question, content_id
from data.state import map_os_error
from service.compare.outcomes import Outcome
from service.compare.preferences import preference
from service.compare.result import arm_pairs
from service.spans import traced_generator

if TYPE_CHECKING:
    from service.engine.openai import OpenAIGenerator

Said = Literal["first", "second", "tie"]


class JudgeSettings(Protocol):
    """What is set of the judge; ``service.settings.Settings`` has it."""

    @property
    def judge_url(self) -> str | None:
        """Address of the operator's judge."""

    @property
    def judge_model(self) -> str:
        """Its model's name there, "" for the only one."""

    @property
    def judge_api_key(self) -> SecretStr | None:
        """Sent to that address alone."""


GIVE_UP = 5
"""Failures in a row after which the judge counts as down: what is left is unscored without asking."""
_MAX_TOKENS = 64
_SCHEMA = json.dumps(
    {
        "type": "object",
        "properties": {"better": {"type": "string", "enum": ["1", "2", "tie"]}},
        "required": ["better"],
        "additionalProperties": False,
    }
)
_SAID: Mapping[str, Said] = {"1": "first", "2": "second", "tie": "tie"}
_SYSTEM = (
    "You compare two answers to one question. The better one says what an accepted answer says and adds nothing wrong. "
    "Where the documents do not tell, the better one says that it does not know. Length, style and order do not count. "
    'Reply with JSON and nothing else: {"better": "1"}, {"better": "2"}, or {"better": "tie"} if neither is better.'
)
_VERDICT = re.compile(r'\{\s*"better"\s*:\s*"?(1|2|tie)"?\s*\}')
_QUANTIZED = re.compile(r"[-_.:](?:f16|f32|bf16|iq\d\w*|q\d\w*|fp8|int[48]|gguf|awq|gptq)$")


@dataclass(frozen=True, slots=True)
class Judgment:
    """What the judge said of two answers in one order; ``said`` None where it is unscored, for ``reason``."""

    key: str
    said: Said | None
    reason: str = ""


def same_model(judge: str, model: Model) -> bool:
    """Tell whether a judge's name is one of the names of ``model``: by its last part, without its quantization."""
    files = (Path(model.gguf).name, Path(model.weights).name)
    own = {_bare(name) for name in (model.name, model.source, str(model.meta.get("name") or ""), *files)}
    return _bare(judge) in own - {""}


def _bare(name: str) -> str:
    bare = name.strip().lower().rstrip("/").rsplit("/", 1)[-1]
    while (shorter := _QUANTIZED.sub("", bare)) != bare:
        bare = shorter
    return bare


def check_judge(name: str, url: str, models: Sequence[str], model: Model) -> None:
    """Refuse a judge that would judge answers of its own.

    Args:
        name: of the judge's model.
        url: of its server.
        models: all that its server lists.
        model: which wrote the answers.

    Raises:
        InvalidRequest: it is the same model, or a ragtune, which answers by its own.
    """
    ragtune = {"base", "rag", "auto"} <= set(models)
    if ragtune or same_model(name, model):
        raise InvalidRequest(
            "This judge would judge its own answers",
            got=f"{name} at {url}",
            wanted=f"another model than {model.name}" + (", on a server that is no ragtune" if ragtune else ""),
            hint="Name another server with --judge, or another of its models with --judge-model.",
        )


def find_judge(settings: JudgeSettings, model: Model, url: str, name: str = "") -> str:
    """Ask the judge's server what it is; return "" where it can judge, else why it does not answer (now).

    Args:
        settings: as ``open_judge`` takes them.
        model: which writes the answers.
        url: of the judge.
        name: of its model.

    Raises:
        InvalidRequest: it would judge its own answers, or has several models and none is named.
    """
    with open_judge(settings, url, name) as judge:
        try:
            models = judge.check().models
        except (EngineError, Unauthorized) as error:
            return f"{error.type}: {error}"
        check_judge(judge.model, judge.url, models, model)
    return ""


def judge_answers(
    judge: Generator,
    questions: Sequence[Question],
    outcomes: Mapping[str, Sequence[Outcome]],
    path: Path,
    report: Report,
) -> dict[str, Any]:
    """Let the judge compare the preferred arm's answers with every other arm's; return what it found.

    What it said is kept in ``path`` and not asked again, so that a stopped run goes on.

    Args:
        judge: the judging model.
        questions: those that were asked.
        outcomes: every arm's outcomes, in the order of ``questions``.
        path: JSON lines of what was said.
        report: receives progress; raises ``JobCancelled`` to stop.

    Returns:
        ``{"model", "pairs": {"a-b": {...}}}``: as ``preference`` has it, of ``a`` against ``b``, with ``agreement``,
        the share (0-1) of the questions shown in both orders on which both said the same; ``first_shown``, how often
        the answer shown first won, of the verdicts that were no tie; ``same``, how many answers were equal and so
        even without asking; ``unscored``, by reason.

    Raises:
        StateError: what was said cannot be kept.
    """
    pairs = [pair for pair in arm_pairs(outcomes) if pair[0] == arm_pairs(outcomes)[0][0]] if len(outcomes) > 1 else []
    court = _Court(traced_generator(judge, "judge"), path, report, total=2 * len(pairs) * len(questions))
    found = {}
    for a, b in pairs:
        rows = list(zip(questions, outcomes[a], outcomes[b], strict=True))
        found[f"{a}-{b}"] = _pair([court.hear(question, one, other) for question, one, other in rows])
    return {"model": judge.model, "pairs": found}


@dataclass(frozen=True, slots=True)
class _Heard:
    """Both orders of one question: what was said, in terms of the order that was shown; equal answers are not shown."""

    forward: Judgment | None
    swapped: Judgment | None

    @property
    def scored(self) -> tuple[Said, Said] | None:
        if self.forward is None or self.swapped is None or self.forward.said is None or self.swapped.said is None:
            return None
        return self.forward.said, self.swapped.said


_TURNED: Mapping[Said, Said] = {"first": "second", "second": "first", "tie": "tie"}


def _pair(heard: Sequence[_Heard]) -> dict[str, Any]:
    both = [each.scored for each in heard if each.scored is not None]
    verdicts = Counter(forward if forward == _TURNED[swapped] else "tie" for forward, swapped in both)
    shown = Counter(said for each in both for said in each)
    same = sum(each.forward is None for each in heard)
    reasons = Counter(
        next(judgment.reason for judgment in (each.forward, each.swapped) if judgment and judgment.said is None)
        for each in heard
        if each.forward is not None and each.scored is None
    )
    decided = shown["first"] + shown["second"]
    return {
        **preference(verdicts["first"], verdicts["second"], verdicts["tie"] + same),
        "agreement": sum(forward == _TURNED[swapped] for forward, swapped in both) / len(both) if both else None,
        "first_shown": shown["first"] / decided if decided else None,
        "same": same,
        "unscored": dict(reasons),
    }


class _Court:
    """Asks the judge, keeps what it said, and stops asking a judge that is down."""

    def __init__(self, judge: Generator, path: Path, report: Report, *, total: int) -> None:
        self._judge, self._path, self._report, self._total = judge, path, report, total
        self._kept = {judgment.key: judgment for judgment in _read(path)}
        self._failures = 0
        self._down = ""
        self._done = 0
        self._begun = False

    def hear(self, question: Question, one: Outcome, other: Outcome) -> _Heard:
        """Show two answers in both orders; equal ones are even."""
        if _shown(one) == _shown(other):
            self._done += 2
            return _Heard(None, None)
        return _Heard(self._ask(question, one, other), self._ask(question, other, one))

    def _ask(self, question: Question, first: Outcome, second: Outcome) -> Judgment:
        messages = _messages(question, _shown(first), _shown(second))
        key = content_id(*(message.content for message in messages), self._judge.model)
        found = self._kept.get(key) or self._judged(key, messages)
        self._done += 1
        self._report(Progress(self._done, self._total, "judgments", None, "judge"))
        return found

    def _judged(self, key: str, messages: tuple[Message, ...]) -> Judgment:
        if self._down:
            return Judgment(key, None, self._down)
        request = GenerationRequest(messages, max_tokens=_MAX_TOKENS, json_schema=_SCHEMA)
        try:
            text = self._judge.generate(request).text
        except (StateError, JobCancelled):
            raise
        except RagtuneError as error:
            self._failures += 1
            self._down = f"the judge is down: {error.type}" if self._failures >= GIVE_UP else ""
            return Judgment(key, None, error.type)
        self._failures = 0
        said = read_verdict(text)
        if said is None:
            return Judgment(key, None, "no verdict in what the judge said")
        found = self._kept[key] = Judgment(key, said)
        self._write(found)
        return found

    def _write(self, judgment: Judgment) -> None:
        lines = [judgment] if self._begun else [*self._kept.values()]  # a line that a crash cut short goes
        text = "".join(json.dumps(asdict(each)) + "\n" for each in lines)
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a" if self._begun else "w", encoding="utf-8") as file:
                file.write(text)
        except OSError as error:
            raise map_os_error(error, self._path) from error
        self._begun = True


def read_verdict(text: str) -> Said | None:
    """Return what a judge's text says, None where it says nothing, or several things."""
    found = {_SAID[verdict] for verdict in _VERDICT.findall(text)}
    return found.pop() if len(found) == 1 else None


def _shown(outcome: Outcome) -> str:
    return strip_citations(outcome.text) if not outcome.error else "(no answer)"


def _messages(question: Question, first: str, second: str) -> tuple[Message, ...]:
    accepted = " / ".join(question.answers) if question.answerable else "(the documents do not tell)"
    parts = (
        f"Question: {question.question}\n\nAccepted: {accepted}\n\n",
        f"Answer 1: {first}\n\n",
        f"Answer 2: {second}\n\nWhich is better?",
    )
    return Message("system", (_SYSTEM,)), Message("user", parts)


def open_judge(settings: JudgeSettings, url: str, model: str = "") -> OpenAIGenerator:
    """Return the server at ``url`` as a judge; the operator's key goes to the operator's judge alone.

    Args:
        settings: name the operator's judge, its model and its key.
        url: of the judge.
        model: its name there; "" for the operator's, else the only one that the server lists.

    Raises:
        InvalidRequest: the address cannot be one.
    """
    from service.engine.openai import OpenAIGenerator

    own = url == settings.judge_url
    key = settings.judge_api_key if own else None
    return OpenAIGenerator(url, key.get_secret_value() if key else "", model or (settings.judge_model if own else ""))


def _read(path: Path) -> Iterator[Judgment]:
    """Yield what was kept; a line that a crash cut short is left out."""
    if not path.exists():
        return
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            yield Judgment(**json.loads(line))
        except (ValueError, TypeError):
            continue
