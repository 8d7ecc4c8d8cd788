"""Answers questions: arm, passages, prompt, generation, citations.

Knows nothing of HTTP, and of the engine only the ``Generator`` protocol.
"""

from __future__ import annotations

import math
import time
import uuid
from collections.abc import Generator as Events
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from data.access import current
from data.errors import Conflict, ContextOverflow, InvalidRequest, NothingIndexed, QuestionInvalid, UnknownCollection
from data.prompt import Renumbering, abstains, answer_messages, asked_question, passage_labels, renumber
from data.protocols import Delta, GenerationRequest, GenerationResult, Generator, WrittenToken
from data.records import Adapter, Answer, Filter, Message, Method, Model, Passage
from service.arms import Arm, did_you_mean, find_adapter, resolve_sum
from service.citations import cite_passages
from service.hangup import Hangup, generation
from service.lineage import check_fresh, is_stale
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
    ``adapters`` are names and scales of adapters that are summed onto ``adapter``.
    ``arm`` overrides ``mode``, ``adapter`` and their scales. ``system`` replaces the default instruction.
    ``max_tokens`` bounds the answer; ``temperature`` 0 is greedy. ``like`` overrides them and ``seed``: the answer is
    generated with the settings of that request (sampling, stop strings, grammar, log-probabilities).
    """

    question: str
    collection: str = "default"
    mode: str = "auto"
    adapter: str | None = None
    adapter_scale: float = 1.0
    adapters: tuple[tuple[str, float], ...] = ()
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
    like: GenerationRequest | None = None
    keep: bool = True


@dataclass(frozen=True, slots=True)
class PassagesFound:
    """The first event of a streamed answer."""

    passages: tuple[Passage, ...]


@dataclass(frozen=True, slots=True)
class Token:
    """A piece of a streamed answer's text.

    ``tokens`` are those the model wrote since the piece before, where they were asked for: as it wrote them, so with
    the passages' labels where the text has their ranks.
    """

    text: str
    tokens: tuple[WrittenToken, ...] = ()


AnswerEvent = PassagesFound | Token | Answer
"""What ``Answerer.stream`` yields: PassagesFound once, Token any number of times, Answer once."""


@dataclass(slots=True)
class _Turn:
    """One question on its way to its answer."""

    ask: AskRequest
    arm: Arm
    keys: tuple[tuple[str, float], ...]
    passages: list[Passage]
    generation: int | None
    started: float
    retrieve_ms: float = 0.0
    stale: bool = False
    dropped: int = 0

    def request(self, timeout_s: float) -> GenerationRequest:
        """Return the generation request over the passages that are left."""
        ask = self.ask
        like = ask.like or GenerationRequest(
            (), max_tokens=ask.max_tokens, temperature=ask.temperature, seed=ask.seed, timeout_s=timeout_s
        )
        messages = answer_messages(ask.question, self.passages, ask.history, ask.system)
        if not self.keys:
            return replace(like, messages=messages)
        (key, scale), *added = self.keys
        return replace(like, messages=messages, adapter=key, adapter_scale=scale, added_adapters=tuple(added))

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

    def answer(self, ask: AskRequest, hangup: Hangup | None = None) -> Answer:
        """Answer to the end, or until the client leaves.

        Raises:
            ClientLeft: ``hangup`` was told that nobody waits any more.
            QuestionInvalid: empty or too long.
            UnknownMode, UnknownAdapter, UnknownCollection, NoLiveAdapter: what was named does not exist.
            NothingIndexed: the arm uses passages and the collection has none.
            StaleAdapter: its adapter is stale, and such adapters are refused.
            EngineError: as ``Generator.generate`` raises.
        """
        if hangup is not None:
            return next(event for event in self.stream(ask, hangup) if isinstance(event, Answer))
        turn = self._begin(ask)
        while True:
            try:
                result = self._parts.generator.generate(turn.request(self._parts.settings.engine_timeout_s))
                return self._finish(turn, result)
            except ContextOverflow as error:
                turn.drop_passage(error)

    def stream(self, ask: AskRequest, hangup: Hangup | None = None) -> Events[AnswerEvent, None, None]:
        """Yield the passages, the text as it comes, and the answer. Closing it stops the generation.

        Raises:
            Everything ``answer`` raises, before the first event where the engine is not involved. It raises a full
            queue before it, too.
        """
        turn = self._begin(ask)
        found: PassagesFound | None = PassagesFound(tuple(turn.passages))
        while True:
            request = turn.request(self._parts.settings.engine_timeout_s)
            try:
                # The generation begins before the passages are shown: until then a refusal can still have a status.
                with generation(self._parts.generator, request, hangup or Hangup()) as deltas:
                    if found is not None:
                        yield found
                        found = None
                    yield from self._told(turn, deltas)
            except ContextOverflow as error:
                turn.drop_passage(error)
            else:
                return

    def _told(self, turn: _Turn, deltas: Iterator[Delta]) -> Iterator[AnswerEvent]:
        shown = Renumbering(passage_labels(turn.passages))
        for delta in deltas:
            text = shown.feed(delta.text) + (shown.finish() if delta.result is not None else "")
            if text or delta.tokens:
                yield Token(text, delta.tokens)
            if delta.result is not None:
                yield self._finish(turn, delta.result)

    def _begin(self, ask: AskRequest) -> _Turn:
        started = time.perf_counter()
        self._check(ask)
        parts = self._parts
        named = (ask.adapter, ask.adapter_scale)
        arm = ask.arm or resolve_sum(ask.mode, named, ask.adapters, parts.store, parts.model, collection=ask.collection)
        if parts.settings.refuse_stale_adapters:
            for label in arm.adapters:
                check_fresh(parts.store, find_adapter(parts.store, label))
        passages: list[Passage] = []
        index: int | None = None
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
            passages, index = list(found.passages), found.generation
            if not passages and not parts.store.documents.count(ask.collection):
                raise nothing_indexed(ask.collection)
        retrieve_ms = (time.perf_counter() - started) * 1000
        used = [find_adapter(parts.store, label) for label in arm.adapters]
        keys = tuple((parts.adapter_key(each), n) for each, n in zip(used, arm.adapters.values(), strict=True))
        stale = any(is_stale(parts.store, each) for each in used)
        return _Turn(ask, arm, keys, passages, index, started, retrieve_ms, stale)

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
                "queue": result.queued_ms,
                "retrieve": turn.retrieve_ms,
                "prefill": result.prefill_ms,
                "generate": result.generate_ms,
                "total": (time.perf_counter() - turn.started) * 1000,
            },
            index_generation=turn.generation,
            passages=tuple(turn.passages),
            passages_dropped=turn.dropped,
            adapters=turn.arm.adapters,
            adapter_stale=turn.stale,
        )
        current().charge(result.usage.prompt_tokens + result.usage.completion_tokens)
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
    if collection == "default" and current().sees(collection):
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
