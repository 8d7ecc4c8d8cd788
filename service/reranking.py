"""The rerankers: the engine that answers also says which passage a query fits, or a cross-encoder does.

Knows nothing of retrieval beyond the function that a ``LikelihoodReranker`` takes.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import numpy as np

from data.errors import InvalidRequest
from data.prompt import language
from data.protocols import TokenScores
from data.records import Message
from retrieval.rerank import LikelihoodReranker, Reranker

_INSTRUCTION = {
    "en": "Write the question that this text answers.",
    "zh": "写出这段文字所回答的问题。",
}


@runtime_checkable
class Scorer(Protocol):
    """A generator that shows its logits (the local engine does; a remote server does not)."""

    def score(self, messages: tuple[Message, ...], completion: str, adapter: str | None = None) -> TokenScores:
        """Return the logits of ``completion`` after ``messages``."""


def likelihood_reranker(generator: object) -> LikelihoodReranker:
    """Return a reranker by the likelihood of the query.

    Raises:
        InvalidRequest: the generator shows no logits.
    """
    if not isinstance(generator, Scorer):
        raise InvalidRequest(
            "This generator shows no logits, so it cannot rerank.",
            got=type(generator).__name__,
            hint="Take RAGTUNE_ENGINE_URL away to use the local engine, or rerank with a cross-encoder.",
        )
    scorer = generator
    return LikelihoodReranker(lambda query, text: _mean_logprob(scorer, query, text))


def cross_encoder(name: str | None) -> Reranker:
    """Return the configured cross-encoder, a folder or a hub id.

    Raises:
        InvalidRequest: there is none.
    """
    if not name:
        raise InvalidRequest(
            "No cross-encoder is configured.", hint="Set RAGTUNE_CROSS_ENCODER to a folder or a hub id."
        )
    from retrieval.embed import CrossEncoderReranker

    return CrossEncoderReranker(name)


def _mean_logprob(scorer: Scorer, query: str, text: str) -> float:
    """Return the mean log-probability of the query's tokens; the end-of-turn token is left out."""
    messages = (Message("user", (text.strip() + "\n\n", _INSTRUCTION[language(query)])),)
    scored = scorer.score(messages, query)
    logits = scored.logits[:-1].astype(np.float64)
    if not len(logits):
        return 0.0
    top = logits.max(axis=1)
    totals = top + np.log(np.exp(logits - top[:, None]).sum(axis=1))
    chosen = logits[np.arange(len(logits)), list(scored.completion_ids[:-1])]
    return float((chosen - totals).mean())
