"""Answers questions: arm, passages, prompt, generation, citations.

Knows nothing of HTTP, and of the engine only the ``Generator`` protocol.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Generator as Events
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from data.access import current
from data.errors import ContextOverflow, InvalidRequest, NothingIndexed, QuestionInvalid, UnknownCollection
from data.prompt import Renumbering, asked_question, passage_labels
from data.protocols import Delta, GenerationResult, Generator, WrittenToken
from data.records import Adapter, Answer, Message, Model, Passage
from service.arms import Arm, did_you_mean, find_adapter, live_and_latest, resolve_mode, resolve_sum
from service.asking import AskRequest
from service.calibration.conformal import check_rate
from service.calibration.kept import Calibrations
from service.compare.router import Router, router_of
from service.hangup import Hangup, charge_usage, generation
from service.houses import instructions_of
from service.lineage import check_fresh, is_stale
from service.settings import Rerank, Settings
from service.spans import generation_span, retrieval_span
from service.support import read_ahead
from service.turn import Turn, judge, keep, policy_of
from service.verification import CheckedMarks

if TYPE_CHECKING:
    from data.state import StateDirectory
    from data.store import Store
    from retrieval.embedders import Embedders
    from retrieval.rerank import Reranker
    from retrieval.retriever import Retriever
    from service.calibration.calibration import Calibration, FittedFor


__all__ = [
    "AnswerEvent",
    "Answerer",
    "AskRequest",
    "Parts",
    "PassagesFound",
    "Token",
    "check_collection",
    "check_question",
    "nothing_indexed",
    "question_before",
]


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

    @property
    def state(self) -> StateDirectory:
        """Where calibrations are kept."""

    @property
    def embedders(self) -> Embedders:
        """Which embedder each collection is searched with."""

    def adapter_key(self, adapter: Adapter) -> str:
        """Return the generator's key of an adapter."""

    def reranker(self, kind: Rerank | None = None) -> Reranker | None:
        """Return the reranker of that kind, of the configured one for None; None where it is off."""


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


@dataclass(frozen=True, slots=True)
class Route:
    """A router and its two arms as they are now."""

    router: Router
    first: Arm
    second: Arm


AnswerEvent = PassagesFound | Token | Answer
"""What ``Answerer.stream`` yields: PassagesFound once, Token any number of times, Answer once."""


class Answerer:
    """Answers questions through the arm each one asks for. Thread-safe."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self.calibrations = Calibrations(parts)

    def answer(self, ask: AskRequest, hangup: Hangup | None = None) -> Answer:
        """Answer to the end, or until the client leaves.

        Raises:
            ClientLeft: ``hangup`` was told that nobody waits any more.
            QuestionInvalid: empty or too long.
            UnknownMode, UnknownAdapter, UnknownCollection, NoLiveAdapter: what was named does not exist.
            NothingIndexed: the arm uses passages and the collection has none.
            CalibrationMissing, CalibrationStale, CalibrationTooSmall: ``max_false_answer_rate`` cannot be kept.
            StaleAdapter: its adapter is stale, and such adapters are refused.
            EngineError: as ``Generator.generate`` raises.
        """
        route = self._route(ask)
        if route is not None:
            return self._routed(ask, route, hangup)
        turn = self._begin(ask)
        while True:
            try:
                result = self._generate(turn, hangup)
            except ContextOverflow as error:
                turn.drop_passage(error)
            else:
                return self._finish(turn, result)

    def stream(self, ask: AskRequest, hangup: Hangup | None = None) -> Events[AnswerEvent, None, None]:
        """Yield the passages, the text as it comes, and the answer. Closing it stops the generation.

        Raises:
            Everything ``answer`` raises, before the first event where the engine is not involved. It raises a full
            queue before it, too.
        """
        route = self._route(ask)
        if route is not None:
            answer = self._routed(ask, route, hangup)
            yield PassagesFound(answer.passages)
            yield Token(answer.text)
            yield answer
            return
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

    def _generate(self, turn: Turn, hangup: Hangup | None) -> GenerationResult:
        request = turn.request(self._parts.settings.engine_timeout_s)
        if hangup is not None:  # as a stream, because only a stream can be cancelled
            with generation(self._parts.generator, request, hangup) as deltas:
                read_ahead(passage.chunk.text for passage in turn.passages)
                return next(delta.result for delta in deltas if delta.result is not None)
        with generation_span(self._parts.generator, request, streamed=False) as span:
            result = span.result = self._parts.generator.generate(request)
        charge_usage(result)
        return result

    def _told(self, turn: Turn, deltas: Iterator[Delta]) -> Iterator[AnswerEvent]:
        shown = Renumbering(passage_labels(turn.passages))
        marks = CheckedMarks(turn.passages, turn.ask.question)
        for delta in deltas:
            if turn.floor is not None or turn.unsupported == "remove":
                # What of it is an answer is known at its end.
                if delta.result is not None:
                    answer = self._finish(turn, delta.result)
                    yield Token(answer.text)
                    yield answer
                continue
            text = shown.feed(delta.text) + (shown.finish() if delta.result is not None else "")
            text = text if turn.unsupported == "keep" else marks.feed(text)
            if text or delta.tokens:
                yield Token(text, delta.tokens)
            if delta.result is not None:
                yield self._finish(turn, delta.result)

    def _begin(self, ask: AskRequest) -> Turn:
        started = time.perf_counter()
        parts = self._parts
        named = (ask.adapter, ask.adapter_scale)
        with parts.store.reading():
            self._check(ask)
            arm = ask.arm or resolve_sum(
                ask.mode, named, ask.adapters, parts.store, parts.model, collection=ask.collection
            )
            instructions = instructions_of(parts.store, ask)
            used = [find_adapter(parts.store, label) for label in arm.adapters]
            if parts.settings.refuse_stale_adapters:
                for each in used:
                    check_fresh(parts.store, each, instructions)
            stale = any(is_stale(parts.store, each, instructions) for each in used)
            calibration, floor = self._calibration(ask, arm)
        passages: list[Passage] = []
        index: int | None = None
        searched = time.perf_counter()
        if arm.passages:
            with retrieval_span(ask.question, ask.collection, ask.top_k, ask.method) as span:
                found = span.found = parts.retriever.retrieve(
                    ask.question,
                    ask.collection,
                    ask.top_k,
                    ask.method,
                    ask.hidden,
                    context=question_before(ask.history),
                    filter=ask.filter,
                    reranker=parts.reranker(ask.rerank),
                )
            passages, index = list(found.passages), found.generation
            if not passages and not parts.store.documents.count(ask.collection):
                raise nothing_indexed(ask.collection)
        retrieve_ms = (time.perf_counter() - searched) * 1000
        keys = tuple((parts.adapter_key(each), n) for each, n in zip(used, arm.adapters.values(), strict=True))
        turn = Turn(ask, arm, keys, instructions, passages, index, started, retrieve_ms, stale)
        turn.calibration, turn.floor = calibration, floor
        turn.unsupported = policy_of(ask, arm, parts.settings)
        return turn

    def _route(self, ask: AskRequest) -> Route | None:
        """Return how ``auto`` chooses between two arms, None where one arm answers.

        A router counts for what was evaluated: the adapter that is live, and calibrations that still hold. Where a
        share of false answers is to be kept one arm answers, because that is what was calibrated.
        """
        chosen = ask.arm is not None or ask.adapter is not None or ask.adapters or ask.max_false_answer_rate is not None
        if ask.mode != "auto" or chosen or ask.unusual:
            return None
        parts = self._parts
        router = recommended_router(parts.store, parts.model, ask.collection)
        if router is None:
            return None
        modes = (router.first, router.second)
        first, second = (resolve_mode(mode, None, parts.store, parts.model, ask.collection) for mode in modes)
        held = [self._calibration(ask, arm)[0] for arm in (first, second)]
        holds = [each and each.id for each in held] == [router.calibrations.get(mode) for mode in modes]
        return Route(router, first, second) if holds else None

    def _routed(self, ask: AskRequest, route: Route, hangup: Hangup | None) -> Answer:
        """Ask the first arm, and the second where the first is not sure enough; the answer given is kept."""
        answer = self.answer(replace(ask, arm=route.first, keep=False), hangup)
        if (answer.confidence or 0.0) < route.router.switch:
            other = self.answer(replace(ask, arm=route.second, keep=False), hangup)
            total = answer.timings["total"] + other.timings["total"]
            taken = other if route.router.takes_second(answer.confidence, other.confidence) else answer
            answer = replace(taken, timings={**taken.timings, "total": total})
        if ask.keep:
            keep(self._parts.store, answer, ask)
        return answer

    def _calibration(self, ask: AskRequest, arm: Arm) -> tuple[Calibration | None, float | None]:
        """Return what computes the confidence, and what the confidence must exceed; None each where there is none."""
        kept = self.calibrations

        def wanted() -> FittedFor:
            return kept.fitting(arm, ask.collection, ask.top_k, ask.method, ask.rerank)

        rate, unusual = ask.max_false_answer_rate, ask.unusual
        if rate is None:
            return None if unusual else kept.find(arm, ask.collection, wanted), None
        check_rate(rate)
        if unusual:
            raise InvalidRequest(
                "A share of false answers can be kept for single questions that are answered greedily",
                got=unusual,
                wanted="temperature 0, and no history, system message, grammar or other sampling",
                hint="Leave them out, or leave max_false_answer_rate out.",
            )
        held = kept.require(arm, wanted())
        return held, held.threshold(rate)

    def _check(self, ask: AskRequest) -> None:
        check_question(ask.question, self._parts.settings.max_question_chars)
        check_collection(self._parts.store, ask.collection)
        if ask.top_k < 1 or ask.max_tokens < 1:
            raise InvalidRequest("top_k and max_tokens are at least 1", got=min(ask.top_k, ask.max_tokens))

    def _finish(self, turn: Turn, result: GenerationResult) -> Answer:
        judged = judge(turn, result, self._parts.embedders)
        answer = Answer(
            id=uuid.uuid4().hex,
            text=judged.text,
            abstained=judged.abstained_by is not None,
            confidence=judged.confidence,
            citations=judged.citations,
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
            abstained_by=judged.abstained_by,
            sentences=judged.sentences,
            signals=judged.signals,
        )
        if turn.ask.keep:
            keep(self._parts.store, answer, turn.ask)
        return answer


def recommended_router(store: Store, model: Model, collection: str) -> Router | None:
    """Return the router of the latest evaluation, None where it is off or measured another adapter than is live."""
    latest, measured, live = live_and_latest(store, store.adapters.live(model.sha256, collection), collection)
    return router_of(latest) if measured == live else None


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
