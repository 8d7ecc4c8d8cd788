"""The records that flow through ragtune: frozen, slotted, without behaviour beyond their ids.

Knows nothing of how any of them is made, stored or served.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

PairKind = Literal["span", "free", "multi", "unanswerable", "style"]
PairStatus = Literal["candidate", "accepted", "rejected"]
AdapterStage = Literal["candidate", "shadow", "live", "retired"]
JobStatus = Literal["queued", "running", "succeeded", "failed", "cancelled", "interrupted"]
Mode = Literal["base", "rag", "tuned", "combined", "auto"]
Method = Literal["hybrid", "dense", "lexical"]

AbstainedBy = Literal["model", "confidence", "support"]

MODES: tuple[Mode, ...] = ("base", "rag", "tuned", "combined", "auto")
METHODS: tuple[Method, ...] = ("hybrid", "dense", "lexical")


def content_id(*parts: str | bytes) -> str:
    """Return the first 32 hex digits of the SHA-256 over the parts, each preceded by its length."""
    digest = hashlib.sha256()
    for part in parts:
        raw = part.encode() if isinstance(part, str) else part
        digest.update(len(raw).to_bytes(8, "big"))
        digest.update(raw)
    return digest.hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class Document:
    """One loaded source. ``id`` is the content id of (source, text)."""

    id: str
    source: str
    title: str
    text: str
    media_type: str
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of a document: ``document.text[start:end] == text``, always.

    ``heading`` is the heading path joined by " > ", the document's title first; ``page`` counts from
    1 and is None where the source has no pages.
    """

    id: str
    document_id: str
    text: str
    start: int
    end: int
    heading: str = ""
    page: int | None = None


@dataclass(frozen=True, slots=True)
class Filter:
    """Which documents to search; what is left empty does not narrow.

    A document passes if its source equals or matches one of ``sources`` (``*`` and ``?`` stand for
    any characters, ``/`` included), its media type is one of ``media_types``, it has all of ``tags``,
    and its date lies from ``since`` to ``until`` (Unix seconds, both included).
    """

    sources: tuple[str, ...] = ()
    media_types: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()
    since: float | None = None
    until: float | None = None


@dataclass(frozen=True, slots=True)
class Passage:
    """A retrieved chunk. ``rank`` counts from 1; ``origin`` names the search that found it.

    ``duplicates`` counts the near-copies that were found near it and left out.
    """

    chunk: Chunk
    score: float
    rank: int
    origin: str
    source: str = ""
    title: str = ""
    duplicates: int = 0


@dataclass(frozen=True, slots=True)
class Message:
    """One chat message whose content is the concatenation of ``parts``.

    Parts are the units of tokenization: each is tokenized on its own, in training and in serving,
    so a passage has the same tokens wherever it stands (which lets its KV state be reused).
    """

    role: Literal["system", "user", "assistant"]
    parts: tuple[str, ...]

    @property
    def content(self) -> str:
        """Return the text a chat API would receive."""
        return "".join(self.parts)


@dataclass(frozen=True, slots=True)
class Segment:
    """A rendered piece of a prompt. Only ``markup`` may become special tokens; text never does.

    A ``passage`` is a part of the last message with more of the message after it: under blockwise
    attention it sees only itself.
    """

    text: str
    markup: bool
    passage: bool = False


@dataclass(frozen=True, slots=True)
class QAPair:
    """A question and its answer, with the chunks that hold it and the checks it went through.

    ``answer`` is "" for ``kind == "unanswerable"``; ``reason`` says why a pair was rejected;
    ``stale`` tells that a chunk it rests on is gone (its document was edited or deleted).
    """

    id: str
    question: str
    answer: str
    chunk_ids: tuple[str, ...]
    kind: PairKind
    generated_by: str
    status: PairStatus = "candidate"
    reason: str = ""
    checks: Mapping[str, Any] = field(default_factory=dict)
    stale: bool = False


@dataclass(frozen=True, slots=True)
class Question:
    """A question to evaluate on, with every accepted answer (none if it is not answerable).

    ``origin`` says where it comes from: "file", "pairs" (generated, not trained on), "feedback", or any other name.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    answerable: bool = True
    document: str | None = None
    origin: str = "file"


@dataclass(frozen=True, slots=True)
class Model:
    """A base model: ``gguf`` is served; ``weights`` is what training loads.

    ``weights`` is a Hugging Face folder, or a GGUF file that transformers dequantizes. ``sha256`` is
    over the source weights: an adapter fits the model whose ``sha256`` it names.
    """

    name: str
    source: str
    gguf: str
    weights: str
    sha256: str
    architecture: str
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Adapter:
    """A trained LoRA and everything it was made from."""

    name: str
    version: int
    base_model: str
    base_sha256: str
    recipe: Mapping[str, Any]
    rows_sha256: str
    attention: Literal["full", "blockwise"]
    files: Mapping[str, str]
    metrics: Mapping[str, Any]
    stage: AdapterStage
    lineage: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class House:
    """What a collection adds to every prompt, and how it is answered where a request does not say.

    ``instructions`` stand behind the prompt's own; ``sampling`` holds some of ``temperature``, ``max_tokens`` and
    ``top_k``. ``version`` counts from 1; 0 is a collection for which nothing was ever set.
    """

    collection: str
    version: int = 0
    instructions: str = ""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    actor: str = ""
    created_at: float = 0.0


@dataclass(frozen=True, slots=True)
class StageNote:
    """Who changes a stage, why, and the decision of the policy behind it ({} where none was asked for)."""

    actor: str = ""
    reason: str = ""
    decision: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Citation:
    """Passage number ``n`` as cited by an answer; ``quote`` stands at ``start:end`` of the document."""

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


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence of an answer, ``text[start:end]`` with its marks, and the span of a document that bears it out.

    ``n`` is the passage's rank; ``quote`` stands at ``quote_start:quote_end`` of the document. Without support they
    are None and "".
    """

    start: int
    end: int
    supported: bool
    n: int | None = None
    document_id: str | None = None
    quote_start: int | None = None
    quote_end: int | None = None
    quote: str = ""


@dataclass(frozen=True, slots=True)
class Usage:
    """Token counts of one generation; ``cached_tokens`` of the prompt were not computed again."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Answer:
    """What a question got. ``text`` keeps its citation marks; timings are milliseconds.

    ``passages`` are those the prompt held; ``passages_dropped`` did not fit into the context window.
    ``adapters`` are all that were used, by ``name@version``, with their scales; ``adapter`` is the first of them.
    ``adapter_stale`` tells that a document one of them was trained on had been edited or deleted.
    ``confidence`` is the calibrated probability that what the model answered is right, None where none was calibrated
    for such answers or the model itself abstained. ``abstained_by`` tells who decided that there is no answer: the
    model, a confidence too low for the share of false answers that was asked for, or passages that bear nothing of it
    out (its text is withheld then). ``sentences`` are what was verified; empty where there were no passages.
    ``signals`` are what the confidence was computed from; empty where nothing asked for it.
    """

    id: str
    text: str
    abstained: bool
    confidence: float | None
    citations: tuple[Citation, ...]
    mode: Mode
    model: str
    adapter: str | None
    usage: Usage
    timings: Mapping[str, float]
    index_generation: int | None
    passages: tuple[Passage, ...] = ()
    passages_dropped: int = 0
    adapters: Mapping[str, float] = field(default_factory=dict)
    adapter_stale: bool = False
    abstained_by: AbstainedBy | None = None
    sentences: tuple[Sentence, ...] = ()
    signals: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a job is: ``done`` of ``total`` ``unit``; ``eta_s`` seconds to go, None if unknown."""

    done: int = 0
    total: int = 0
    unit: str = ""
    eta_s: float | None = None
    stage: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Job:
    """A unit of long work. Times are Unix seconds; ``error`` is a problem object or None."""

    id: str
    kind: str
    status: JobStatus
    progress: Progress
    error: Mapping[str, Any] | None
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    created_at: float = 0.0
    started_at: float | None = None
    finished_at: float | None = None
