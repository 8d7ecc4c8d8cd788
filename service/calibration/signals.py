"""What can be told of an answer while it is served, as numbers that its confidence is computed from.

Cheap: the log-probabilities of the pass that wrote it, the scores of the search that found its passages, words
compared with words, and one vector. Nothing here knows the right answer, and nothing is fitted here.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from data.prompt import strip_citations
from data.protocols import GenerationResult
from data.records import Citation, Passage
from retrieval.wording import content_stems, span_of

VERSION = 1
"""Counts up when a signal changes its meaning: a calibration fitted on others no longer fits."""
LIKELIEST = 1
"""Alternatives that a generation has to report, so that the tokens of the citation mark can be told from the rest."""
_FLOOR = -15.0
"""Least log-probability that is told apart from others."""

NAMES = (
    "logprob_mean", "logprob_min", "logprob_citation", "score_margin", "verbatim", "similarity", "question_in_quote",
    "question_missing",
)  # fmt: skip
"""Every signal; chosen among 24 on half of the articles of a set, see bench/RESULTS.md. Without passages those about
passages are 0."""


def signals(
    question: str, text: str, passages: Sequence[Passage], citations: Sequence[Citation], similarity: float
) -> dict[str, float]:
    """Return what search and wording tell of an answer, by name: those of ``NAMES``, and the best passage's score.

    Args:
        question: as it was asked.
        text: the answer, with ranks in its citation marks.
        passages: those the prompt held, best first.
        citations: of the answer.
        similarity: cosine of the question's vector and that of what is quoted, 0 without a quotation.
    """
    asked = content_stems(question)
    read = (f"{passage.chunk.heading or passage.title}\n{passage.chunk.text}" for passage in passages)
    everywhere = frozenset[str]().union(*map(content_stems, read))
    quoted = frozenset[str]().union(*(content_stems(citation.quote) for citation in citations))
    cited = (passages[citation.n - 1].chunk.text for citation in citations)
    scores = [passage.score for passage in passages[:2]]
    return {
        "score_best": scores[0] if scores else 0.0,
        "score_margin": (scores[0] - scores[-1]) / scores[0] if scores and scores[0] > 0 else 0.0,
        "verbatim": float(any(span_of(strip_citations(text), passage) is not None for passage in cited)),
        "similarity": similarity,
        "question_in_quote": _share(asked & quoted, asked),
        "question_missing": _share(asked - everywhere, asked),
    }


def quotation(citations: Sequence[Citation]) -> str:
    """Return what an answer quotes, "" if it cites nothing."""
    return " ".join(citation.quote for citation in citations)


def likelihood(result: GenerationResult) -> dict[str, float] | None:
    """Return how sure the model was of its words and of its citation mark; None where it told no log-probabilities."""
    if not result.logprobs or not result.top_logprobs:
        return None
    own = [max(value, _FLOOR) for value in result.logprobs]
    pieces = [places[0].text if places else "" for places in result.top_logprobs]
    mark = "".join(pieces).rfind("[")
    ends = accumulate(map(len, pieces))
    cited = [0 <= mark < end for end in ends]
    answer = [value for value, part in zip(own, cited, strict=False) if not part] or own
    return {
        "logprob_mean": sum(answer) / len(answer),
        "logprob_min": min(answer),
        "logprob_citation": sum(value for value, part in zip(own, cited, strict=False) if part),
    }


def _share(part: frozenset[str], whole: frozenset[str]) -> float:
    return len(part) / len(whole) if whole else 0.0
