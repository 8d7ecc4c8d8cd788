"""What can be told of an answer while it is served, as numbers that its confidence is computed from.

Cheap: the log-probabilities of the pass that wrote it, the scores of the search that found its passages, and words
compared with words. Nothing here knows the right answer, and nothing is fitted here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from data.prompt import ABSTENTION, cited_numbers, language, strip_citations
from data.protocols import GenerationResult, TokenChoice
from data.records import Citation, Passage
from retrieval.wording import FUNCTION_WORDS, han_bigrams, span_of, terms

VERSION = 1
"""Counts up when a signal changes its meaning: a calibration fitted on others no longer fits."""
LIKELIEST = 6
"""Alternatives to look for the beginning of "I don't know" among, at the first place."""
_FLOOR = -15.0
"""Log-probability of what is not among the likeliest, and of what cannot be known."""

NAMES = (
    "logprob_mean", "logprob_min", "logprob_first", "logprob_citation", "logprob_abstention", "length",
    "score_best", "score_margin", "score_cited", "legs_cited",
    "verbatim", "holders", "question_in_quote", "question_in_passage", "question_missing", "names_missing",
    "answer_in_question",
)  # fmt: skip
"""Every signal, in the order in which they are reported. Without passages those about passages are 0."""


def signals(
    question: str,
    text: str,
    passages: Sequence[Passage],
    citations: Sequence[Citation],
    result: GenerationResult,
) -> dict[str, float] | None:
    """Return the signals of an answer by name; None where the generator told no log-probabilities.

    Args:
        question: as it was asked.
        text: the answer, with ranks in its citation marks.
        passages: those the prompt held, best first.
        citations: of the answer.
        result: of the generation that wrote it, with ``top_logprobs``.
    """
    if not result.logprobs or not result.top_logprobs:
        return None
    found = _likelihood(question, result) | _search(text, passages) | _wording(question, text, passages, citations)
    return {name: float(found[name]) for name in NAMES}


def _likelihood(question: str, result: GenerationResult) -> dict[str, float]:
    """Return how sure the model was of what it wrote, and how near it was to saying that it does not know."""
    own = [max(value, _FLOOR) for value in result.logprobs]
    written = "".join(places[0].text if places else "" for places in result.top_logprobs)
    mark = written.rfind("[")
    answer: list[float] = []
    cited: list[float] = []
    seen = 0
    for logprob, places in zip(own, result.top_logprobs, strict=False):
        seen += len(places[0].text) if places else 0
        (cited if 0 <= mark < seen else answer).append(logprob)
    answer = answer or own
    return {
        "logprob_mean": sum(answer) / len(answer),
        "logprob_min": min(answer),
        "logprob_first": own[0],
        "logprob_citation": sum(cited),
        "logprob_abstention": _abstention(result.top_logprobs[0], language(question)),
        "length": math.log(len(answer)),
    }


def _abstention(places: Sequence[TokenChoice], lang: str) -> float:
    """Return how likely the answer was to begin as an abstention does; at most as likely as what was not reported."""
    said = [place.logprob for place in places if place.text.strip() and _begins(place.text, lang)]
    if said:
        return max(_FLOOR, math.log(sum(map(math.exp, said))))
    return max(_FLOOR, min((place.logprob for place in places), default=_FLOOR))


def _begins(piece: str, lang: str) -> bool:
    return ABSTENTION[lang].startswith(piece.strip())


def _search(text: str, passages: Sequence[Passage]) -> dict[str, float]:
    """Return what the search thought of the passages, and of the one that is cited."""
    scores = [passage.score for passage in passages] or [0.0]
    best, second = scores[0], scores[1] if len(scores) > 1 else 0.0
    cited = _cited(text, passages)
    return {
        "score_best": best,
        "score_margin": (best - second) / best if best > 0 else 0.0,
        "score_cited": cited.score / best if cited is not None and best > 0 else 0.0,
        "legs_cited": float(cited is not None and "+" in cited.origin),
    }


def _cited(text: str, passages: Sequence[Passage]) -> Passage | None:
    return next((passages[n - 1] for n in cited_numbers(text) if 1 <= n <= len(passages)), None)


def _wording(question: str, text: str, passages: Sequence[Passage], citations: Sequence[Citation]) -> dict[str, float]:
    """Return how answer, question and passages agree in their words."""
    answer = strip_citations(text)
    asked = _content(question)
    cited = _cited(text, passages)
    read = [f"{passage.chunk.heading or passage.title}\n{passage.chunk.text}" for passage in passages]
    everywhere = frozenset().union(*map(_content, read))
    quoted = frozenset().union(*(_content(citation.quote) for citation in citations))
    named = asked & _names(question)
    holders = [span_of(answer, passage.chunk.text) is not None for passage in passages]
    beside = _content(f"{cited.chunk.heading or cited.title}\n{cited.chunk.text}") if cited else frozenset()
    return {
        "verbatim": float(cited is not None and span_of(answer, cited.chunk.text) is not None),
        "holders": sum(holders) / len(holders) if holders else 0.0,
        "question_in_quote": _share(asked & quoted, asked),
        "question_in_passage": _share(asked & beside, asked),
        "question_missing": _share(asked - everywhere, asked),
        "names_missing": _share(named - beside, named),
        "answer_in_question": _share(_content(answer) & asked, _content(answer)),
    }


def _share(part: frozenset[str], whole: frozenset[str]) -> float:
    return len(part) / len(whole) if whole else 0.0


def _content(text: str) -> frozenset[str]:
    """Return the stems of words that carry meaning; of Chinese, every two characters that stand together."""
    words = (word for word in terms(text) if word not in FUNCTION_WORDS and (len(word) > 1 or word.isdigit()))
    return frozenset({_stem(word) for word in words} | han_bigrams(text))


def _stem(word: str) -> str:
    """Return a word without the commonest English endings: "ended" and "ends" are to meet "end"."""
    for ending in ("ing", "ies", "ed", "es", "'s", "s", "e"):
        if word.isascii() and word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def _names(question: str) -> frozenset[str]:
    """Return the stems of what is named in a question: words with a capital or a digit, but for the first."""
    words = question.split()[1:]
    return _content(" ".join(word for word in words if word[:1].isupper() or any(map(str.isdigit, word))))
