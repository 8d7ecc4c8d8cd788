"""What the English transformations share: what a statement is, and what a phrase may not hold.

Knows nothing of questions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from retrieval.stated.phrases import Names, understood, words_of

Said = Iterator[tuple[str, str]]
"""Questions with their answers."""
Transformation = Callable[[str, Names], Said]

LONGEST_ANSWER = 40
"""Words of an answer."""
LONGEST_REST = 10
"""Words that a question takes over from behind the verb."""
LONGEST_OBJECT = 25
"""Words of an answer that is the object of its question."""

X = r"(?P<x>[^,;:]+?)\s+"
"""Pattern of a subject: up to the verb, without a comma."""
BE = r"(?P<be>is|are|was|were)\s+"
_NOT = re.compile(
    r"\b(?:not|never|no|only|hardly|probably|perhaps|possibly|maybe|allegedly|supposedly|reportedly|although|though|"
    r"however|but|may|might|could|would|if|unless)\b|n't\b",
    re.I,
)
_LOOSE_END = re.compile(
    r"\b(?:and|or|but|of|the|a|an|to|with|by|that|which|who|as|from|for|than|is|was|in|on|at|beginning|starting|ending|"
    r"combined|together|compatible|even)$",
    re.I,
)
_SECOND_CLAUSE = re.compile(
    r", (?:and|but|so) (?:also |then )?[a-z]+s\b|, (?:and|so|or|which) .*\b(?:is|are|was|were|has|have|had|can|will)\b"
)


def ended(sentence: str) -> str:
    """Return a statement without its full stop, "" for what is none."""
    return sentence[:-1] if sentence.endswith(".") and not sentence.endswith("..") else ""


def negated(phrase: str) -> bool:
    """Tell whether a phrase denies, doubts or limits something."""
    return _NOT.search(phrase) is not None


def is_loose(phrase: str) -> bool:
    """Tell whether a phrase breaks off."""
    return _LOOSE_END.search(phrase) is not None


def fits_number(be: str, subject: str) -> bool:
    """Tell whether a form of be may follow a subject; "are" needs a plural."""
    return be in {"is", "was"} or " and " in subject or words_of(subject)[-1].lower().endswith("s")


def complete(answer: str) -> bool:
    """Tell whether an answer is whole: no second clause, nothing denied, nothing that stands for something else."""
    if answer.startswith("(") or _SECOND_CLAUSE.search(answer) or negated(answer):
        return False
    return 1 <= len(words_of(answer)) <= LONGEST_OBJECT and understood(answer, ("that", "which", "its", "their", "who"))
