"""Where each arm wins: the questions of a comparison by kind, origin, language and document, with intervals.

Knows nothing of how the answers came about.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from statistics import fmean
from typing import Any

from data.records import Question
from service.compare.outcomes import Outcome
from service.compare.statistics import bootstrap_interval

MOST_VALUES = 12
"""Values of one property that are shown, the most frequent ones; the rest is one more, ``OTHERS``."""
OTHERS = "all others"
_CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
_PHRASE = re.compile(r"[a-z]{2,} [a-z]{2,}")
"""Two words in small letters: three of 7,050 questions of eight public sets have such answers to Chinese questions."""
_KINDS: tuple[tuple[str, str], ...] = (
    # The first that fits; each question word of English and its counterparts in Chinese.
    (
        "how many, how much",
        r"\bhow (?:many|much|long|far|old|often|tall|big)\b|\bwhat (?:percent|number)|多少|几[个次人年天]|多[大长远高]",
    ),
    (
        "when",
        r"\bwhen\b|\b(?:what|which|in what) (?:year|day|month|date|decade|century)\b|何时|什么时候|哪[一]?年|哪[一]?天",
    ),
    ("who", r"\bwho(?:m|se)?\b|谁|哪位|何人"),
    ("where", r"\bwhere\b|\b(?:what|which) (?:city|country|state|place)\b|哪里|哪儿|何处|何地|什么地方"),
    ("why", r"\bwhy\b|为什么|为何"),
    ("how", r"\bhow\b|怎么|怎样|如何"),
    ("which", r"\bwhich\b|哪[个些种]"),
    ("what", r"\bwhat\b|什么|何"),
)
_PATTERNS = [(name, re.compile(pattern, re.IGNORECASE)) for name, pattern in _KINDS]


def kind_of(question: Question) -> str:
    """Return what a question asks for, by its question word; "no answer in the documents" where it has none."""
    if not question.answerable:
        return "no answer in the documents"
    return next((name for name, pattern in _PATTERNS if pattern.search(question.question)), "other")


def language_of(question: Question) -> str:
    """Return "Chinese" for a question with a Chinese character, else "other languages"."""
    return "Chinese" if _CHINESE.search(question.question) else "other languages"


def answered_in_another_language(questions: Sequence[Question]) -> list[str]:
    """Return the ids of questions whose accepted answers no answer in the question's own language can match.

    That is a question without any Chinese whose accepted answers all have some, or a Chinese one whose accepted answers
    are all phrases without any. A name in Latin letters is none, since it is written so everywhere.
    """
    return [question.id for question in questions if question.answers and _elsewhere(question)]


def generated_note(origins: Mapping[str, int]) -> str:
    """Say that figures over questions of generated pairs flatter, and how many there are; "" for none."""
    asked = origins.get("pairs", 0)
    if not asked:
        return ""
    return (
        f"{asked} of the questions {'is' if asked == 1 else 'are'} of generated pairs, kept because the search found"
        " their passage and a reader, where it was asked, their answer: people's questions are harder."
    )


def _elsewhere(question: Question) -> bool:
    if _CHINESE.search(question.question):
        return all(_PHRASE.search(answer) and not _CHINESE.search(answer) for answer in question.answers)
    return all(_CHINESE.search(answer) for answer in question.answers)


_PROPERTIES: Mapping[str, Callable[[Question], str | None]] = {
    "kind": kind_of,
    "origin": lambda question: question.origin,
    "language": language_of,
    "document": lambda question: question.document,
}


def strata(questions: Sequence[Question], outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, Any]:
    """Return each arm's F1 by property of the questions; a property that all questions share is left out.

    Returns:
        ``{property: {value: {"n": questions, "arms": {arm: {"f1", "ci"}}}}}``, the most frequent values first.
    """
    found: dict[str, Any] = {}
    for name, property_of in _PROPERTIES.items():
        values = [property_of(question) for question in questions]
        if len(set(values)) > 1 and None not in values:
            found[name] = _by_value([str(value) for value in values], outcomes)
    return found


def _by_value(values: Sequence[str], outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, Any]:
    counted = Counter(values).most_common()
    shown = [value for value, _ in counted[: MOST_VALUES if len(counted) > MOST_VALUES + 1 else None]]
    kept = [value if value in shown else OTHERS for value in values]
    order = shown + ([OTHERS] if OTHERS in kept else [])
    return {value: _stratum([i for i, each in enumerate(kept) if each == value], outcomes) for value in order}


def _stratum(places: Sequence[int], outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, Any]:
    arms = {}
    for arm, rows in outcomes.items():
        scores = [rows[place].f1 for place in places]
        arms[arm] = {"f1": fmean(scores), "ci": list(bootstrap_interval(scores))}
    return {"n": len(places), "arms": arms}
