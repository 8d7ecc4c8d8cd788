"""Answers questions: arm, passages, prompt, generation, citations.

Knows nothing of HTTP, and of the engine only the ``Generator`` protocol.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Generator as Events
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from data.errors import Conflict, ContextOverflow, InvalidRequest, NothingIndexed, QuestionInvalid, UnknownCollection
from data.prompt import Renumbering, abstains, answer_messages, asked_question, passage_labels, renumber
from data.protocols import GenerationRequest, GenerationResult, Generator
from data.records import Adapter, Answer, Filter, Message, Method, Model, Passage
from service.arms import Arm, did_you_mean, find_adapter, resolve_mode
from service.citations import cite_passages
from service.settings import Rerank, Settings

if TYPE_CHECKING:
    from data.store import Store
    from retrieval.rerank import Reranker
    from retrieval.retriever import Retriever


class Parts(Protocol):
    """What an answerer works with; a ``Workspace`` has it all."""

    @property
    def settings(self) -> Settings:
        """Limits and timeouts."""

    @property
    def store(self) -> Store:
        """Where adapters are looked up and answers kept."""

    @property
    def retriever(self) -> Retriever:
        """Finds passages."""

    @property
    def generator(self) -> Generator:
        """Writes the answer."""

    @property
    def model(self) -> Model:
        """The base model."""

    def adapter_key(self, adapter: Adapter) -> str:
        """Return the generator's key of an adapter."""

    def reranker(self, kind: Rerank | None = None) -> Reranker | None:
        """Return the reranker of that kind, of the configured one for None; None where it is off."""


@dataclass(frozen=True, slots=True)
class AskRequest:
    """A question and how to answer it.

    ``filter`` narrows the search; ``rerank`` None takes the configured one.
    ``arm`` overrides ``mode`` and ``adapter``. ``system`` replaces the default instruction.
    ``max_tokens`` bounds the answer; ``temperature`` 0 is greedy.
    """

    question: str
    collection: str = "default"
    mode: str = "auto"
    adapter: str | None = None
    top_k: int = 4
    max_tokens: int = 256
    temperature: float = 0.0
    seed: int | None = None
    history: tuple[Message, ...] = ()
    max_false_answer_rate: float | None = None
    system: str | None = None
    method: Method = "hybrid"
    filter: Filter | None = None
    rerank: Rerank | None = None
    arm: Arm | None = None
    keep: bool = True


@dataclass(frozen=True, slots=True)
class PassagesFound:
    """The first event of a streamed answer."""

    passages: tuple[Passage, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a streamed answer's text."""

    text: str


AnswerEvent = PassagesFound | Token | Answer
"""What ``Answerer.stream`` yields: PassagesFound once, Token any number of times, Answer once."""


@dataclass(slots=True)
class _Turn:
    """One question on its way to its answer."""

    ask: AskRequest
    arm: Arm
    adapter_key: str | None
    passages: list[Passage]
    generation: int | None
    started: float
    retrieve_ms: float = 0.0
    dropped: int = 0
    text: list[str] = field(default_factory=list)

    def request(self, timeout_s: float) -> GenerationRequest:
        """Return the generation request over the passages that are left."""
        ask = self.ask
        return GenerationRequest(
            answer_messages(ask.question, self.passages, ask.history, ask.system),
            adapter=self.adapter_key,
            max_tokens=ask.max_tokens,
            temperature=ask.temperature,
            seed=ask.seed,
            timeout_s=timeout_s,
        )

    def drop_passage(self, error: ContextOverflow) -> None:
        """Leave out the lowest passage, or give up where none is left."""
        if not self.passages:
            raise error
        self.passages.pop()
        self.dropped += 1


class Answerer:
    """Answers questions through the arm each one asks for. Thread-safe."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def answer(self, ask: AskRequest) -> Answer:
        """Answer to the end.

        Raises:
            QuestionInvalid: empty or too long.
            UnknownMode, UnknownAdapter, UnknownCollection, NoLiveAdapter: what was named does not exist.
            NothingIndexed: the arm uses passages and the collection has none.
            EngineError: as ``Generator.generate`` raises.
        """
        turn = self._begin(ask)
        while True:
            try:
                result = self._parts.generator.generate(turn.request(self._parts.settings.engine_timeout_s))
                return self._finish(turn, result)
            except ContextOverflow as error:
                turn.drop_passage(error)

    def stream(self, ask: AskRequest) -> Events[AnswerEvent, None, None]:
        """Yield the passages, the text as it comes, and the answer. Closing it stops the generation.

        Raises:
            Everything ``answer`` raises, before the first event where the engine is not involved.
        """
        turn = self._begin(ask)
        yield PassagesFound(tuple(turn.passages))
        while True:
            try:
                yield from self._stream_turn(turn)
            except ContextOverflow as error:
                turn.drop_passage(error)
            else:
                return

    def _stream_turn(self, turn: _Turn) -> Iterator[AnswerEvent]:
        deltas = self._parts.generator.stream(turn.request(self._parts.settings.engine_timeout_s))
        shown = Renumbering(passage_labels(turn.passages))
        try:
            for delta in deltas:
                text = shown.feed(delta.text) + (shown.finish() if delta.result is not None else "")
                if text:
                    yield Token(text)
                if delta.result is not None:
                    yield self._finish(turn, delta.result)
        finally:
            close = getattr(deltas, "close", None)
            if close is not None:
                close()

    def _begin(self, ask: AskRequest) -> _Turn:
        started = time.perf_counter()
        self._check(ask)
        parts = self._parts
        arm = ask.arm or resolve_mode(ask.mode, ask.adapter, parts.store, parts.model, ask.collection)
        passages: list[Passage] = []
        generation = None
        if arm.passages:
            found = parts.retriever.retrieve(
                ask.question,
                ask.collection,
                ask.top_k,
                ask.method,
                context=question_before(ask.history),
                filter=ask.filter,
                reranker=parts.reranker(ask.rerank),
            )
            passages, generation = list(found.passages), found.generation
            if not passages and not parts.store.documents.count(ask.collection):
                raise nothing_indexed(ask.collection)
        retrieve_ms = (time.perf_counter() - started) * 1000
        key = parts.adapter_key(find_adapter(parts.store, arm.adapter)) if arm.adapter else None
        return _Turn(ask, arm, key, passages, generation, started, retrieve_ms)

    def _check(self, ask: AskRequest) -> None:
        check_question(ask.question, self._parts.settings.max_question_chars)
        check_collection(self._parts.store, ask.collection)
        if ask.top_k < 1 or ask.max_tokens < 1:
            raise InvalidRequest("top_k and max_tokens are at least 1", got=min(ask.top_k, ask.max_tokens))
        if ask.max_false_answer_rate is not None:
            raise Conflict(
                "Abstention has not been calibrated on this collection",
                got=ask.max_false_answer_rate,
                hint="Leave max_false_answer_rate out.",
            )

    def _finish(self, turn: _Turn, result: GenerationResult) -> Answer:
        text = renumber(result.text, passage_labels(turn.passages)).strip()
        abstained = abstains(text)
        answer = Answer(
            id=uuid.uuid4().hex,
            text=text,
            abstained=abstained,
            confidence=confidence(result.logprobs),
            citations=() if abstained else cite_passages(text, turn.passages),
            mode=turn.arm.mode,
            model=self._parts.model.name,
            adapter=turn.arm.adapter,
            usage=result.usage,
            timings={
                "retrieve": turn.retrieve_ms,
                "prefill": result.prefill_ms,
                "generate": result.generate_ms,
                "total": (time.perf_counter() - turn.started) * 1000,
            },
            index_generation=turn.generation,
            passages=tuple(turn.passages),
            passages_dropped=turn.dropped,
        )
        if turn.ask.keep:
            self._parts.store.answers.add(answer, turn.ask.question, turn.ask.collection)
        return answer


def question_before(history: Sequence[Message]) -> str:
    """Return the last question of a conversation, which a follow-up may go back to; "" if there is none."""
    return next((asked_question(turn.content) for turn in reversed(history) if turn.role == "user"), "")


def check_question(question: str, max_chars: int) -> None:
    """Raise ``QuestionInvalid`` for a question that is blank, no Unicode, or longer than ``max_chars``."""
    if any("\ud800" <= character <= "\udfff" for character in question):
        raise QuestionInvalid("The question is not Unicode", got=ascii(question[:200]), wanted="UTF-8")
    if not question.strip():
        raise QuestionInvalid("The question is empty", got=repr(question[:20]), wanted="some text")
    if len(question) > max_chars:
        raise QuestionInvalid(
            "The question is too long",
            got=f"{len(question)} characters",
            wanted=f"at most {max_chars}",
            hint="Put long material into a document and ingest it.",
        )


def nothing_indexed(collection: str) -> NothingIndexed:
    """Return the error for a collection that has no documents (any more)."""
    return NothingIndexed(
        "Nothing is indexed in this collection", got=collection, hint="Index documents first: ragtune ingest PATH"
    )


def check_collection(store: Store, collection: str) -> None:
    """Raise ``UnknownCollection`` unless it exists; "default" always does."""
    if collection == "default":
        return
    names = store.collections.names()
    if collection not in names:
        raise UnknownCollection(
            "No such collection", got=collection, wanted=", ".join(names), hint=did_you_mean(collection, names)
        )


def confidence(logprobs: tuple[float, ...]) -> float | None:
    """Return the geometric mean of the token probabilities, 0 to 1; None where they are unknown.

    It orders answers of one arm; it is not calibrated, so it is no probability of being right.
    """
    return math.exp(sum(logprobs) / len(logprobs)) if logprobs else None
