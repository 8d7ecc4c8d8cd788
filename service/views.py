"""Records as the JSON that HTTP clients and ``--json`` get. Field names are stable.

Knows nothing of HTTP.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from data.records import Adapter, Answer, Citation, Job, Model, Passage, QAPair


def passage_view(passage: Passage) -> dict[str, Any]:
    """Return a passage with its place in its document."""
    chunk = passage.chunk
    return {
        "chunk_id": chunk.id,
        "document_id": chunk.document_id,
        "source": passage.source,
        "title": passage.title,
        "heading": chunk.heading,
        "page": chunk.page,
        "start": chunk.start,
        "end": chunk.end,
        "text": chunk.text,
        "score": passage.score,
        "rank": passage.rank,
        "origin": passage.origin,
        "duplicates": passage.duplicates,
    }


def citation_view(citation: Citation) -> dict[str, Any]:
    """Return a citation; its quote stands at start:end of the document's text."""
    return asdict(citation)


def answer_view(answer: Answer) -> dict[str, Any]:
    """Return an answer in the shape of ``POST /v1/answers``."""
    return {
        "id": answer.id,
        "answer": answer.text,
        "abstained": answer.abstained,
        "abstained_by": answer.abstained_by,
        "confidence": answer.confidence,
        "mode": answer.mode,
        "model": answer.model,
        "adapter": answer.adapter,
        "adapters": adapters_view(answer),
        "adapter_stale": answer.adapter_stale,
        "citations": [citation_view(citation) for citation in answer.citations],
        "sentences": [asdict(sentence) for sentence in answer.sentences],
        "passages": [passage_view(passage) for passage in answer.passages],
        "passages_dropped": answer.passages_dropped,
        "usage": asdict(answer.usage),
        "timings_ms": timings_view(answer),
        "index_generation": answer.index_generation,
    }


def adapters_view(answer: Answer) -> list[dict[str, Any]]:
    """Return the adapters of an answer: each ``name@version`` and its scale."""
    return [{"name": name, "scale": scale} for name, scale in answer.adapters.items()]


def timings_view(answer: Answer) -> dict[str, float]:
    """Return what an answer took, in milliseconds."""
    return {name: round(ms, 3) for name, ms in answer.timings.items()}


def pair_view(pair: QAPair) -> dict[str, Any]:
    """Return a pair with its review state."""
    return {**asdict(pair), "chunk_ids": list(pair.chunk_ids), "checks": dict(pair.checks)}


def adapter_view(adapter: Adapter, *, stale: Sequence[str] = ()) -> dict[str, Any]:
    """Return an adapter in the shape of ``adapters show --json``; ``stale`` as ``lineage.stale_because`` tells."""
    metrics = dict(adapter.metrics)
    parity = metrics.pop("parity", None)
    return {
        "name": adapter.name,
        "version": adapter.version,
        "stage": adapter.stage,
        "base_model": adapter.base_model,
        "base_sha256": adapter.base_sha256,
        "recipe": dict(adapter.recipe),
        "attention": adapter.attention,
        "parity": parity,
        "metrics": metrics,
        "rows_sha256": adapter.rows_sha256,
        "lineage": dict(adapter.lineage),
        "files": dict(adapter.files),
        "stale": bool(stale),
        "stale_because": list(stale),
    }


def job_view(job: Job) -> dict[str, Any]:
    """Return a job; ``job_id`` repeats ``id`` for clients that created it."""
    return {**asdict(job), "job_id": job.id}


def model_view(model: Model) -> dict[str, Any]:
    """Return a base model without its paths on this machine."""
    return {
        "name": model.name,
        "source": model.source,
        "sha256": model.sha256,
        "architecture": model.architecture,
    }
