"""The JSON that HTTP clients send, checked. Unknown fields are refused, so that a typo is noticed.

What is sent back is built in ``views``. Limits that depend on settings are checked where they apply.
"""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from data.access import SCOPES, Scope, check_scopes
from data.records import Filter, Message, Method, PairKind, PairStatus
from data.state import check_name
from data.store import MAX_INSTRUCTIONS, KeyGrant, PairFilter
from service.answerer import AskRequest
from service.arms import MOST_SCALE
from service.settings import Rerank
from service.verification import Unsupported

MOST_ADAPTERS = 8
Scale = Annotated[float, Field(ge=-MOST_SCALE, le=MOST_SCALE)]


class Unicode(BaseModel):
    """A request body whose text can be written as UTF-8: JSON can spell half a surrogate pair."""

    @model_validator(mode="before")
    @classmethod
    def _whole_characters(cls, value: Any) -> Any:
        try:
            json.dumps(value, ensure_ascii=False, default=str).encode()
        except UnicodeEncodeError as error:
            raise ValueError("a text holds half a character (a lone surrogate)") from error
        return value


class Body(Unicode):
    """A request body without unknown fields."""

    model_config = ConfigDict(extra="forbid")


class Turn(Body):
    """One earlier turn of a conversation."""

    role: Literal["user", "assistant", "system"]
    content: str

    def message(self) -> Message:
        """Return it as a prompt message."""
        return Message(self.role, (self.content,))


class FilterBody(Body):
    """Which documents to search: all conditions hold; dates are ISO 8601 (UTC unless they say) or Unix seconds."""

    sources: list[str] = Field(default_factory=list, max_length=1000)
    media_types: list[str] = Field(default_factory=list, max_length=100)
    tags: list[str] = Field(default_factory=list, max_length=100)
    since: datetime | None = None
    until: datetime | None = None

    def record(self) -> Filter:
        """Return it as the store's filter."""
        return Filter(
            tuple(self.sources), tuple(self.media_types), tuple(self.tags), _seconds(self.since), _seconds(self.until)
        )


def _seconds(moment: datetime | None) -> float | None:
    if moment is None:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


class ScaledAdapter(Body):
    """An adapter, ``name`` or ``name@version``, and the factor on its effect."""

    name: str
    scale: Scale = 1.0


class Sampling(Body):
    """How an answer is retrieved and generated."""

    collection: str = "default"
    top_k: int = Field(4, ge=1, le=50)
    max_tokens: int = Field(256, ge=1, le=8192)
    temperature: float = Field(0.0, ge=0, le=2)
    seed: int | None = None
    history: list[Turn] = Field(default_factory=list, max_length=200)
    max_false_answer_rate: float | None = Field(None, gt=0, le=1)
    method: Method = "hybrid"
    filter: FilterBody | None = None
    rerank: Rerank | None = None
    instructions: str | None = Field(
        None, max_length=MAX_INSTRUCTIONS, description='Instead of the collection\'s own, to try them; "" for none.'
    )
    unsupported: Unsupported | None = Field(None, description="Sentences no passage bears out: keep, mark, remove.")

    def _ask(self, **values: Any) -> AskRequest:
        shared = self.model_dump(include=set(Sampling.model_fields) - {"history", "filter"})
        return AskRequest(
            **shared,
            **values,
            history=tuple(turn.message() for turn in self.history),
            filter=None if self.filter is None else self.filter.record(),
        )


class AnswerBody(Sampling):
    """``POST /v1/answers``: ``adapters`` are summed onto ``adapter`` (one of them, where that is left out)."""

    question: str
    mode: str = "auto"
    adapter: str | None = None
    adapter_scale: Scale = 1.0
    adapters: list[ScaledAdapter] = Field(default_factory=list, max_length=MOST_ADAPTERS)
    stream: bool = False

    @model_validator(mode="after")
    def _few_adapters(self) -> AnswerBody:
        if self.adapter is not None and len(self.adapters) >= MOST_ADAPTERS:
            raise ValueError(f"adapter and adapters are at most {MOST_ADAPTERS} together")
        return self

    def ask(self) -> AskRequest:
        """Return it as the answerer's request."""
        return self._ask(
            question=self.question,
            mode=self.mode,
            adapter=self.adapter,
            adapter_scale=self.adapter_scale,
            adapters=tuple((adapter.name, adapter.scale) for adapter in self.adapters),
        )


class KeyBody(Body):
    """``POST /v1/keys``: what the key may do. No ``collections``: all; no limit or end where they are null."""

    name: str = Field(min_length=1, max_length=200)
    scopes: list[Scope] = Field(["query"], min_length=1, max_length=len(SCOPES))
    collections: list[str] = Field(default_factory=list, max_length=1000)
    requests_per_minute: int | None = Field(None, ge=1)
    tokens_per_minute: int | None = Field(None, ge=1)
    expires_at: datetime | None = None

    @field_validator("expires_at")
    @classmethod
    def _later(cls, value: datetime | None) -> datetime | None:
        if value is not None and (_seconds(value) or 0) <= time.time():
            raise ValueError("the key would have ended already")
        return value

    def grant(self) -> KeyGrant:
        """Return it as the store's grant."""
        return KeyGrant(
            check_scopes(list(self.scopes)),
            tuple(check_name(name, "collection name") for name in self.collections),
            self.requests_per_minute,
            self.tokens_per_minute,
            _seconds(self.expires_at),
        )


class CompareBody(Sampling):
    """``POST /v1/compare``: ``arms`` are modes, adapter names or the base model's name."""

    question: str
    arms: list[str] | None = Field(None, min_length=1, max_length=16)
    adapters: list[str] = Field(default_factory=list, max_length=16)

    def ask(self) -> AskRequest:
        """Return it as the answerer's request, without an arm."""
        return self._ask(question=self.question)


class SearchBody(Body):
    """``POST /v1/search``."""

    query: str
    collection: str = "default"
    top_k: int = Field(4, ge=1, le=100)
    method: Method = "hybrid"
    filter: FilterBody | None = None
    rerank: Rerank | None = None
    history: list[Turn] = Field(default_factory=list, max_length=200)


class CollectionBody(Body):
    """A request about one collection."""

    collection: str = "default"


class VerifyBody(CollectionBody):
    """Which index to check, and whether to repair it."""

    repair: bool = False


class GeneratePairsBody(Body):
    """``POST /v1/pairs/generate``: ``limit`` proposals are asked for."""

    collection: str = "default"
    limit: int = Field(200, ge=1, le=100_000)
    seed: int = 0
    adapter: str | None = None
    exclude_documents: list[str] = Field(default_factory=list)
    exclude_questions: list[str] = Field(default_factory=list, max_length=100_000)
    per_source_cap: float = Field(0.25, gt=0, le=1)
    kinds: list[Literal["stated", "span", "free", "multi", "unanswerable"]] | None = Field(
        None,
        min_length=1,
        description="Statements of the documents turned into questions (stated; the default where only the packaged "
        "model could write), and what a writer writes (span and unanswerable by default; free and multi need one that "
        "follows instructions).",
    )
    glossary: dict[str, list[str]] = Field(
        default_factory=dict, max_length=2000, description="Preferred forms of terms, with the forms to avoid."
    )
    personas: list[Annotated[str, Field(min_length=1, max_length=300)]] = Field(default_factory=list, max_length=100)
    plan_types: bool | None = Field(None, description="Vary the question words of each document.")
    faq: bool = Field(True, description="Take the questions that documents ask and answer themselves, too.")


class PairPatch(Body):
    """``PATCH /v1/pairs/{id}``: review of one pair; what is left out stays."""

    question: str | None = Field(None, min_length=1, max_length=20_000)
    answer: str | None = Field(None, max_length=20_000)
    status: Literal["candidate", "accepted", "rejected"] | None = None
    reason: str | None = None

    @field_validator("question")
    @classmethod
    def _not_blank(cls, value: str | None) -> str | None:
        if value is not None and not value.strip():
            raise ValueError("the question is blank")
        return value


class PairFilterBody(Body):
    """Which pairs: all conditions hold, and what is left out does not narrow (``data.store.PairFilter``)."""

    status: PairStatus | None = None
    kind: PairKind | None = None
    stale: bool | None = None
    source: str | None = Field(None, description="A document's source, or a pattern with * and ?.")
    document_id: str | None = None
    text: str | None = Field(None, description="Stands in the question or the answer.")
    failed_check: str | None = Field(None, description="A check that the pair failed.")
    generated_by: str | None = None

    def record(self) -> PairFilter:
        """Return it as the store's filter."""
        return PairFilter(**self.model_dump())


class BulkReviewBody(Body):
    """``POST /v1/pairs/bulk``: one decision about many pairs, named or chosen by a filter.

    A filter without conditions chooses every pair of the collection; neither ids nor filter is refused.
    """

    collection: str = "default"
    ids: list[str] | None = Field(None, min_length=1, max_length=10_000)
    filter: PairFilterBody | None = None
    status: PairStatus
    reason: str = Field("", max_length=1000)
    dry_run: bool = False

    @model_validator(mode="after")
    def _either(self) -> BulkReviewBody:
        if (self.ids is None) == (self.filter is None):
            raise ValueError("give either ids or a filter")
        return self


class ImportPairsBody(Body):
    """``POST /v1/pairs/import`` as JSON: rows in any of the three formats, or plain pairs.

    ``style``: the answers are examples of a house style.
    """

    collection: str = "default"
    style: bool = False
    rows: list[dict[str, Any]] = Field(min_length=1, max_length=100_000)


class ExportPairsBody(Body):
    """``POST /v1/pairs/export``: the accepted pairs as row files."""

    collection: str = "default"
    eval_share: Annotated[float, Field(ge=0, le=1)] = 0.1
    seed: int = 0


class TrainBody(Body):
    """``POST /v1/adapters``: train an adapter on the accepted pairs; ``recipe`` is a packaged one's name, or fields."""

    name: str = Field("adapter", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    collection: str = "default"
    recipe: dict[str, Any] | str = Field(default_factory=dict)
    promote: bool = False


class TuneRetrieverBody(Body):
    """``POST /v1/retrievers``: tune the embedder on the accepted pairs."""

    name: str = Field("retriever", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    collection: str = "default"
    epochs: int | None = Field(None, ge=1, le=100)
    seed: int = 0


class PromoteRetrieverBody(Body):
    """``POST /v1/retrievers/{name}/promote``: for the collection it was tuned on unless one is named."""

    collection: str | None = None
    force: bool = False
    reason: str = Field("", max_length=1000)


class PromoteBody(Body):
    """``POST /v1/adapters/{name}/promote``: the newest version unless one is named; ``force`` overrides the policy.

    ``reason`` is for the log.
    """

    version: int | None = Field(None, ge=1)
    force: bool = False
    reason: str = Field("", max_length=1000)


class StageBody(Body):
    """``POST /v1/adapters/{name}/shadow``, ``…/retire`` and ``/v1/adapters/rollback``: why, for the log."""

    reason: str = Field("", max_length=1000)


class FeedbackBody(Body):
    """``POST /v1/feedback``: a rating, a correction, or both."""

    answer_id: str
    rating: int | None = Field(None, ge=-1, le=1)
    correction: str | None = Field(None, min_length=1, max_length=20_000)
    comment: str | None = Field(None, max_length=20_000)
