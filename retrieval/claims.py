"""The claims of an answer, and whether a passage bears each one out, told by words alone.

A claim is a sentence or an independent clause. A passage bears it out if it has enough of the claim's words, and every
number and name of it. What words cannot tell stays untold: a claim that turns its passage's meaning round ("not",
who did what to whom) passes. Knows nothing of generators or stores.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from data.prompt import language
from retrieval.wording import FUNCTION_WORDS, han_bigrams, terms

LEAST_SHARE = 0.6
"""Share of a claim's words that one passage must have, measured on long answers of people (bench/RESULTS.md)."""
SHORTEST_CLAIM = 2
"""Words (Chinese: characters) below which a clause is no claim of its own but part of the one before."""

_SENTENCES = re.compile(r"(?<=[.!?])\s+(?=[\"“'(]?[A-Z0-9`])|(?<=[。！？；])|\n+|;\s+")
_CLAUSES = re.compile(r",?(?<!\s)\s+(?:while|whereas|but)\s+|,\s+(?:and|so|which|who)\s+|，(?:而|但|并且?|因此|所以)?")
_NUMBER = re.compile(r"\d+(?:[.,:]\d+)*")
_NAMES = re.compile(r"(?<=[^.!?\s] )[A-Z][\w’'-]*\w")
_ENDINGS = re.compile(r"(?:ing|ies|ied|ed|es|s|ly|e|y)$")


def claims(answer: str) -> list[str]:
    """Return the sentences and clauses of an answer; a clause without words of its own goes with the one before."""
    found: list[str] = []
    for sentence in _SENTENCES.split(answer):
        for place, clause in enumerate(_CLAUSES.split(sentence or "")):
            said = clause.strip(" \t,，;；")
            if place and len(content_words(said)) < SHORTEST_CLAIM and found:
                found[-1] += f" {said}"
            elif said:
                found.append(said)
    return [claim for claim in found if terms(claim)]


def bears_out(claim: str, text: str) -> bool:
    """Tell whether ``text`` has enough of a claim's words, and each of its numbers and names."""
    numbers = set(_NUMBER.findall(claim))
    if not numbers <= set(_NUMBER.findall(text)):
        return False
    held = content_words(text)
    names = {part for name in _NAMES.findall(claim) for part in content_words(name)}
    said = content_words(claim)
    return names <= held and (not said or len(said & held) >= LEAST_SHARE * len(said))


def unsupported(answer: str, texts: Sequence[str]) -> list[str]:
    """Return the claims of an answer that none of ``texts`` bears out: each claim needs one text that does alone."""
    return [claim for claim in claims(answer) if not any(bears_out(claim, text) for text in texts)]


def superfluous(answer: str, texts: Sequence[str]) -> int | None:
    """Return the place of a text without which the others still bear out every claim, None if all are needed."""
    for place in range(len(texts)):
        others = [text for number, text in enumerate(texts) if number != place]
        if not unsupported(answer, others):
            return place
    return None


def content_words(text: str) -> frozenset[str]:
    """Return the words that carry meaning, without common endings; of Chinese, every two characters together."""
    words = (word for word in terms(text) if word not in FUNCTION_WORDS and (len(word) > 1 or word.isdigit()))
    stems = {_ENDINGS.sub("", word) if len(word) > 4 else word for word in words if language(word) != "zh"}
    return frozenset(stems | han_bigrams(text))
