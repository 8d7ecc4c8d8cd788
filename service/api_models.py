"""The JSON that the service sends back, typed: what openapi.json says of it, and what the Python client returns.

A client that is older than its server ignores the fields that it does not know. Knows nothing of routes or records;
tests compare it with both.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict


class Reply(BaseModel):
    """A part of a reply; frozen, and without the fields that it does not know."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class Usage(Reply):
    """Token counts; ``cached_tokens`` of the prompt were not computed again."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class Citation(Reply):
    """Passage number ``n`` as the answer cites it; ``quote`` stands at ``start:end`` of the document's text."""

    n: int
    document_id: str
    source: str
    title: str
    heading: str
    page: int | None
    start: int
    end: int
    quote: str
    score: float
    supported: bool


class Sentence(Reply):
    """A sentence of the answer, ``answer[start:end]``, and the span of a document that bears it out, if one does."""

    start: int
    end: int
    supported: bool
    n: int | None
    document_id: str | None
    quote_start: int | None
    quote_end: int | None
    quote: str


class Passage(Reply):
    """A passage that was found; ``text`` stands at ``start:end`` of its document, ``rank`` counts from 1."""

    chunk_id: str
    document_id: str
    source: str
    title: str
    heading: str
    page: int | None
    start: int
    end: int
    text: str
    score: float
    rank: int
    origin: str
    duplicates: int


class AppliedAdapter(Reply):
    """An adapter, ``name@version``, and the factor on its effect."""

    name: str
    scale: float


class Answer(Reply):
    """An answer with what it rests on. ``confidence`` is null unless calibrated; timings are milliseconds."""

    id: str
    answer: str
    abstained: bool
    abstained_by: Literal["model", "confidence", "support"] | None
    confidence: float | None
    mode: str
    model: str
    adapter: str | None
    adapters: list[AppliedAdapter]
    adapter_stale: bool
    citations: list[Citation]
    sentences: list[Sentence]
    passages: list[Passage]
    passages_dropped: int
    usage: Usage
    timings_ms: dict[str, float]
    index_generation: int | None


class SearchResult(Reply):
    """What was found, and the index generation it was found in (null before the first)."""

    passages: list[Passage]
    index_generation: int | None


class Document(Reply):
    """A document without its text; times are Unix seconds, ``size`` counts the file's bytes."""

    id: str
    source: str
    title: str
    media_type: str
    sha256: str
    size: int
    chunks: int
    created_at: float
    settings_fingerprint: str
    collection: str
    tags: list[str]
    modified_at: float


class DocumentPage(Reply):
    """A page of documents; ``next_cursor`` is null at the end."""

    documents: list[Document]
    next_cursor: str | None


class DocumentText(Reply):
    """A document's text."""

    id: str
    source: str
    text: str


class Progress(Reply):
    """How far a job is: ``done`` of ``total`` ``unit``; ``eta_s`` is null where unknown."""

    done: int
    total: int
    unit: str
    eta_s: float | None
    stage: str
    metrics: dict[str, Any]


class Accepted(Reply):
    """A job that was taken: it goes on after the reply."""

    job_id: str
    kind: str
    status: str


class Job(Reply):
    """Long work; ``error`` is a problem object where it failed, times are Unix seconds."""

    id: str
    job_id: str
    kind: str
    status: Literal["queued", "running", "succeeded", "failed", "cancelled", "interrupted"]
    progress: Progress
    error: dict[str, Any] | None
    inputs: dict[str, Any]
    outputs: dict[str, Any]
    created_at: float
    started_at: float | None
    finished_at: float | None


class JobList(Reply):
    """Jobs, the newest first."""

    jobs: list[Job]


class Span(Reply):
    """A stretch of a text, in characters."""

    start: int
    end: int


class PairPassage(Reply):
    """A passage that a pair rests on; ``span`` is where its answer stands in ``text``, null where it does not."""

    chunk_id: str
    document_id: str
    source: str
    title: str
    heading: str
    page: int | None
    start: int
    end: int
    text: str
    span: Span | None


class Pair(Reply):
    """A question-answer pair with the passages it rests on."""

    id: str
    question: str
    answer: str
    chunk_ids: list[str]
    kind: str
    generated_by: str
    status: Literal["candidate", "accepted", "rejected"]
    reason: str
    checks: dict[str, Any]
    stale: bool
    passages: list[PairPassage]


class PairPage(Reply):
    """A page of pairs; ``next_cursor`` is null at the end."""

    pairs: list[Pair]
    next_cursor: str | None


class Adapter(Reply):
    """A trained adapter; ``stale_because`` names what changed since: ``documents``, ``prompt``."""

    name: str
    version: int
    stage: Literal["candidate", "shadow", "live", "retired"]
    base_model: str
    base_sha256: str
    recipe: dict[str, Any]
    attention: str
    parity: dict[str, Any] | None
    metrics: dict[str, Any]
    rows_sha256: str
    lineage: dict[str, Any]
    files: dict[str, str]
    stale: bool
    stale_because: list[str]


class AdapterList(Reply):
    """Every version of every adapter."""

    adapters: list[Adapter]


class StoredEvaluation(Reply):
    """A finished evaluation; ``result`` is what ``ragtune compare --json`` prints."""

    id: str
    collection: str
    created_at: float
    result: dict[str, Any]


class EvaluationList(Reply):
    """Evaluations, the newest first."""

    evaluations: list[StoredEvaluation]


class House(Reply):
    """One version of a collection's settings; version 0 is before anything was set."""

    collection: str
    version: int
    instructions: str
    sampling: dict[str, float]
    actor: str
    created_at: float
    prompt_version: str


class Collection(House):
    """A collection, with its settings in use."""

    name: str
    documents: int
    index_generation: int | None
    live_adapter: str | None
    suggested_adapter: str | None = None


class CollectionDetails(Collection):
    """A collection with every version of its settings, the newest first."""

    versions: list[House]


class CollectionList(Reply):
    """Every collection that the key may know."""

    collections: list[Collection]


class Feedback(Reply):
    """What became of feedback: ``pair_id`` is the candidate pair that it proposed, null if none."""

    id: str
    answer_id: str
    pair_id: str | None
