"""One question on its way to its answer, and what its text is worth once it is written.

Knows nothing of retrieval, and starts no generation.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from data.errors import ContextOverflow, InsufficientStorage, InvalidRequest
from data.prompt import ABSTENTION, abstains, answer_messages, language, passage_labels, renumber
from data.protocols import GenerationRequest, GenerationResult
from data.records import AbstainedBy, Answer, Citation, Passage, Sentence
from service.arms import Arm
from service.asking import AskRequest
from service.calibration.signals import LIKELIEST, likelihood, quotation, signals
from service.citations import cite_passages
from service.settings import Settings
from service.verification import Unsupported, check_marks, verify

if TYPE_CHECKING:
    from data.store import Store
    from retrieval.embedders import Embedders
    from service.calibration.calibration import Calibration


_log = logging.getLogger(__name__)


def keep(store: Store, answer: Answer, ask: AskRequest) -> None:
    """Keep an answer for feedback and lineage; where the disk is full it is given all the same, and is not kept."""
    try:
        store.answers.add(answer, ask.question, ask.collection)
    except InsufficientStorage as error:
        _log.warning("The answer %s is not kept, feedback on it will be refused: %s", answer.id, error.detail)


@dataclass(slots=True)
class Turn:
    """One question on its way to its answer."""

    ask: AskRequest
    arm: Arm
    keys: tuple[tuple[str, float], ...]
    instructions: str
    passages: list[Passage]
    generation: int | None
    started: float
    retrieve_ms: float = 0.0
    stale: bool = False
    dropped: int = 0
    calibration: Calibration | None = None
    floor: float | None = None
    """The confidence that an answer must exceed to be given, None if any answer is."""
    unsupported: Unsupported = "keep"

    def request(self, timeout_s: float) -> GenerationRequest:
        """Return the generation request over the passages that are left."""
        ask = self.ask
        like = ask.like or GenerationRequest(
            (), max_tokens=ask.max_tokens, temperature=ask.temperature, seed=ask.seed, timeout_s=timeout_s
        )
        if ask.measured or self.calibration is not None:
            like = replace(like, top_logprobs=LIKELIEST)
        messages = answer_messages(ask.question, self.passages, ask.history, ask.system, self.instructions)
        if not self.keys:
            return replace(like, messages=messages)
        (key, scale), *added = self.keys
        return replace(like, messages=messages, adapter=key, adapter_scale=scale, added_adapters=tuple(added))

    @property
    def max_tokens(self) -> int:
        """At how many tokens the answer is cut."""
        return self.ask.like.max_tokens if self.ask.like is not None else self.ask.max_tokens

    def drop_passage(self, error: ContextOverflow) -> None:
        """Leave out the lowest passage, or give up where none is left."""
        if not self.passages:
            raise error
        self.passages.pop()
        self.dropped += 1


def policy_of(ask: AskRequest, arm: Arm, settings: Settings) -> Unsupported:
    """Return what becomes of sentences that no passage bears out.

    Text of a grammar stays as it is: it may be JSON, in which a bracket is no citation mark.

    Raises:
        InvalidRequest: they are to be removed, and the arm reads no passages.
    """
    if ask.unsupported == "remove" and not arm.passages:
        raise InvalidRequest(
            "This mode reads no passages, so none of its sentences could be kept",
            got=arm.mode,
            wanted="mode rag or combined, with unsupported=remove",
        )
    shaped = ask.like is not None and (ask.like.grammar is not None or ask.like.json_schema is not None)
    return "keep" if shaped or not arm.passages else ask.unsupported or settings.unsupported


@dataclass(frozen=True, slots=True)
class Judged:
    """What is given out for a text: as in ``Answer``."""

    text: str
    abstained_by: AbstainedBy | None = None
    confidence: float | None = None
    citations: tuple[Citation, ...] = ()
    sentences: tuple[Sentence, ...] = ()
    signals: Mapping[str, float] = field(default_factory=dict)


def judge(turn: Turn, result: GenerationResult, embedders: Embedders) -> Judged:
    """Return what is given out for what was generated: verified, with its confidence, or withheld."""
    text = renumber(result.text, passage_labels(turn.passages)).strip()
    if abstains(text):
        return Judged(text, "model")
    held = turn.calibration
    measured = held is not None or turn.ask.measured
    # The confidence is of what the model wrote, its own marks included.
    cited = cite_passages(text, turn.passages) if measured or turn.unsupported == "keep" else ()
    found = _signals(turn, text, cited, result, embedders) if measured else None
    known = held is not None and held.saw(result, turn.max_tokens)
    confidence = held.confidence(found) if held is not None and known and found else None
    judged = Judged(text, None, confidence, cited, signals=found or {})
    if turn.floor is not None and (confidence is None or confidence <= turn.floor):
        return _withheld(turn, judged, "confidence")
    question = turn.ask.question
    if turn.unsupported != "keep":
        text = check_marks(text, turn.passages, question)
    verified = verify(text, turn.passages, turn.unsupported, question)
    if turn.unsupported == "keep":
        return replace(judged, sentences=verified.sentences)
    if not verified.sentences:
        return _withheld(turn, judged, "support")
    return replace(judged, text=verified.text, citations=verified.citations, sentences=verified.sentences)


def _withheld(turn: Turn, judged: Judged, by: AbstainedBy) -> Judged:
    return replace(judged, text=ABSTENTION[language(turn.ask.question)], abstained_by=by, citations=())


def _signals(
    turn: Turn, text: str, citations: tuple[Citation, ...], result: GenerationResult, embedders: Embedders
) -> dict[str, float] | None:
    """Return what the confidence is computed from; None where the generator does not tell."""
    sure = likelihood(result)
    if sure is None:
        return None
    quoted, similarity = quotation(citations), 0.0
    if quoted:
        embedder = embedders.of(turn.ask.collection)
        pair = embedder.embed_queries([turn.ask.question]) @ embedder.embed_documents([quoted]).T
        similarity = float(pair[0, 0])
    return sure | signals(turn.ask.question, text, turn.passages, citations, similarity)
