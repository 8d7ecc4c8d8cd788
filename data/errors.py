"""Every error ragtune raises on purpose, drawn as one tree.

RagtuneError
├── InvalidRequest                  422  a value the caller can correct
│   ├── QuestionInvalid  UnknownMode  RecipeInvalid  PolicyInvalid  TrainingDiverged
│   └── BodyTooLarge  RequestTooSlow    413, 408
├── NotFound                        404
│   ├── UnknownCollection  UnknownDocument  UnknownAdapter  UnknownModel  UnknownRetriever
│   └── UnknownJob  UnknownPair  UnknownReview  UnknownEvaluation  UnknownTrial  UnknownAnswer
├── Unauthorized  Forbidden  RateLimited    401, 403, 429
├── Conflict                        409  the state does not allow it (now)
│   ├── NothingIndexed  NoAcceptedPairs  NoQuestions  NoLiveAdapter  CalibrationMissing  CalibrationStale
│   ├── CalibrationTooSmall  BaseModelMismatch  IndexMismatch  IndexRefused  SplitLeak  NotExported
│   └── ParityFailed  AdapterInert  ForgettingExceeded  GainUnproven  StaleAdapter  PromotionRefused  IllegalTransition
├── UnreadableDocument              422  one file cannot become a document
│   ├── EncryptedDocument  EmptyDocument  DamagedDocument  ParseTimeout
│   ├── ScannedDocument  DecompressionBomb  FileChanged
│   └── DocumentTooLarge  UnsupportedMedia  413, 415
├── InvalidModel                    422
│   └── UnsupportedArchitecture  StarterMissing
├── EngineError                     503
│   └── EngineBusy  EngineUnavailable  EngineTimeout  ContextOverflow  429, 503, 504, 422
├── ClientLeft  HubError  JobCancelled  499, 502, 409
└── StateError                      503
    ├── StateLocked  StateNotWritable  StorageCorrupt  InsufficientMemory  PortTaken
    └── DatabaseUnavailable  ClusterUnavailable  InsufficientStorage (507)

An error names what was wrong (``detail``), the offending value (``got``), what would have been
accepted (``wanted``) and the next step (``hint``). Foreign exceptions are mapped to these in the one
module that imports the foreign library; HTTP statuses are mapped from ``status`` in one place.
"""

from __future__ import annotations

import re
from typing import ClassVar


class RagtuneError(Exception):
    """Base of the tree: a failure that ragtune explains instead of leaking a traceback."""

    status: ClassVar[int] = 500

    def __init__(self, detail: str, *, got: object = None, wanted: str = "", hint: str = "") -> None:
        super().__init__(detail)
        self.detail = detail
        self.got = got
        self.wanted = wanted
        self.hint = hint

    @property
    def type(self) -> str:
        """Return the stable machine name, the class name in kebab-case."""
        return re.sub(r"(?<!^)(?=[A-Z])", "-", self.__class__.__name__).lower()

    def __str__(self) -> str:
        parts = [self.detail]
        if self.got is not None:
            parts.append(f"Got: {self.got}.")
        if self.wanted:
            parts.append(f"Wanted: {self.wanted}.")
        if self.hint:
            parts.append(self.hint)
        return " ".join(parts)


class InvalidRequest(RagtuneError):
    """A value that the caller can correct."""

    status = 422


class QuestionInvalid(InvalidRequest):
    """A question that is empty or too long."""


class UnknownMode(InvalidRequest):
    """A mode that is none of base, rag, tuned, combined, auto."""


class RecipeInvalid(InvalidRequest):
    """A training recipe with an unknown key or an impossible value."""


class PolicyInvalid(InvalidRequest):
    """A promotion policy with an unknown key or an impossible value."""


class TrainingDiverged(InvalidRequest):
    """A training whose loss became infinite or no number, by its recipe or its pairs."""


class BodyTooLarge(InvalidRequest):
    """A request whose body is over the size limit."""

    status = 413


class RequestTooSlow(InvalidRequest):
    """A request whose body comes too slowly."""

    status = 408


class NotFound(RagtuneError):
    """Something named by the caller does not exist."""

    status = 404


class UnknownCollection(NotFound):
    """No such collection."""


class UnknownDocument(NotFound):
    """No such document."""


class UnknownAdapter(NotFound):
    """No such adapter, or no such version of it."""


class UnknownRetriever(NotFound):
    """No such tuned embedder, or no such version of it."""


class UnknownModel(NotFound):
    """No such model."""


class UnknownJob(NotFound):
    """No such job."""


class UnknownPair(NotFound):
    """No such question-answer pair."""


class UnknownReview(NotFound):
    """No such review of pairs, or none that can still be undone."""


class UnknownEvaluation(NotFound):
    """No such evaluation."""


class UnknownTrial(NotFound):
    """No such blind comparison."""


class UnknownAnswer(NotFound):
    """No such answer."""


class Unauthorized(RagtuneError):
    """No API key, or one that is wrong or revoked."""

    status = 401


class Forbidden(RagtuneError):
    """A valid API key that may not do this."""

    status = 403


class RateLimited(RagtuneError):
    """A key that has used up its requests or tokens. ``retry_after_s`` is when to try again, in seconds."""

    status = 429
    retry_after_s: float = 1.0


class Conflict(RagtuneError):
    """The present state does not allow the request."""

    status = 409


class NothingIndexed(Conflict):
    """A search before any document was indexed."""


class NoAcceptedPairs(Conflict):
    """Training without accepted pairs."""


class NoQuestions(Conflict):
    """An evaluation without questions."""


class NoLiveAdapter(Conflict):
    """A tuned arm was asked for, and no adapter is live."""


class CalibrationMissing(Conflict):
    """A share of false answers to keep to, and abstention was never calibrated for this way to answer."""


class CalibrationStale(Conflict):
    """Abstention was calibrated for another model, adapter, embedder, prompt or number of passages."""


class CalibrationTooSmall(Conflict):
    """Too few questions to calibrate abstention, or to keep the share of false answers that low."""


class BaseModelMismatch(Conflict):
    """An adapter trained for another base model."""


class IndexMismatch(Conflict):
    """An index built with another embedder or chunking than the one configured."""


class IndexRefused(Conflict):
    """A new index generation does not find what it was built from; the one before stays."""


class SplitLeak(Conflict):
    """A train row and an evaluation row are (nearly) the same."""


class NotExported(Conflict):
    """The pairs as they are now were not exported yet."""


class ParityFailed(Conflict):
    """The GGUF adapter does not answer like the adapter that was trained."""


class AdapterInert(Conflict):
    """A loaded adapter does not change the logits."""


class ForgettingExceeded(Conflict):
    """An adapter under which the base model may have lost more of what it knew than is allowed."""


class StaleAdapter(Conflict):
    """An adapter whose documents were edited or deleted, where such adapters are refused."""


class GainUnproven(Conflict):
    """A tuned embedder was not measured to find more than the one in use."""


class PromotionRefused(Conflict):
    """What was measured of an adapter does not satisfy the promotion policy."""


class IllegalTransition(Conflict):
    """An adapter cannot go from its present stage to the one that was asked for."""


class UnreadableDocument(RagtuneError):
    """A file that cannot become a document."""

    status = 422


class EncryptedDocument(UnreadableDocument):
    """A file that needs a password."""


class EmptyDocument(UnreadableDocument):
    """A file without bytes, or without any text."""


class DamagedDocument(UnreadableDocument):
    """A file whose format is broken."""


class ParseTimeout(UnreadableDocument):
    """A file whose loader ran out of time or memory."""


class ScannedDocument(UnreadableDocument):
    """A file whose pages are images without text, and OCR is off, absent or found none."""


class DecompressionBomb(UnreadableDocument):
    """A file that unpacks or expands into far more than its size."""


class FileChanged(UnreadableDocument):
    """A file that was written while it was read."""


class DocumentTooLarge(UnreadableDocument):
    """A file over the size limit."""

    status = 413


class UnsupportedMedia(UnreadableDocument):
    """A file of a type that no loader reads."""

    status = 415


class InvalidModel(RagtuneError):
    """A model file that is truncated, damaged or not a model."""

    status = 422


class UnsupportedArchitecture(InvalidModel):
    """A model whose architecture cannot be served or converted."""


class StarterMissing(InvalidModel):
    """The packaged starter models are not installed."""


class EngineError(RagtuneError):
    """The inference engine failed. ``retry_after_s`` is when to try again, in seconds, where it was told."""

    status = 503
    retry_after_s: float | None = None


class EngineBusy(EngineError):
    """The engine's queue is full."""

    status = 429


class EngineUnavailable(EngineError):
    """The engine process is down or starting."""


class EngineTimeout(EngineError):
    """The engine did not answer in time."""

    status = 504


class ContextOverflow(EngineError):
    """A prompt longer than the context window."""

    status = 422


class ClientLeft(RagtuneError):
    """The client closed the connection before its answer was complete."""

    status = 499  # as nginx logs it; no client sees it


class HubError(RagtuneError):
    """The model hub refused, failed, or is switched off."""

    status = 502


class JobCancelled(RagtuneError):
    """The job was asked to stop."""

    status = 409


class StateError(RagtuneError):
    """The state directory or the machine refuses."""

    status = 503


class StateLocked(StateError):
    """Another process uses the state directory."""


class DatabaseUnavailable(StateError):
    """The database server, or the index server, is down, starting, or does not let ragtune in."""


class ClusterUnavailable(StateError):
    """The Ray cluster that works for jobs is down, refuses, or has no processor left."""


class StateNotWritable(StateError):
    """The state directory cannot be written."""


class StorageCorrupt(StateError):
    """The database or an index file is damaged."""


class InsufficientStorage(StateError):
    """The disk is full."""

    status = 507


class InsufficientMemory(StateError):
    """A model, or its training, that does not fit into memory."""


class PortTaken(StateError):
    """The port to serve on is in use."""
