"""Types of questions: which a passage can be asked by what it holds, which a question is, and a varied plan of them.

A type is the question's word. Told by wording alone, in English and Chinese: names, dates, numbers, places, reasons,
steps and definitions leave marks. Knows nothing of generators.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, get_args

from data.prompt import language

QuestionType = Literal["who", "what", "when", "where", "why", "how", "which", "how many"]
QUESTION_TYPES: tuple[QuestionType, ...] = get_args(QuestionType)
OTHER = "other"
"""What a question without a question word is counted as ("Is …?")."""

OPENINGS: dict[str, dict[QuestionType, str]] = {
    "en": {one: one.capitalize() for one in QUESTION_TYPES},
    "zh": {
        "who": "谁",
        "what": "什么",
        "when": "何时",
        "where": "哪里",
        "why": "为什么",
        "how": "怎么",
        "which": "哪",
        "how many": "多少",
    },
}
"""The word of each type, by language."""

_HOW_MANY = re.compile(r"\bhow\s+(?:many|much|long|often|old|far|large|big|high|tall|deep|fast)\b", re.IGNORECASE)
_ASKS = re.compile(r"\b(who|whom|whose|what|when|where|why|how|which)\b", re.IGNORECASE)
_ASKS_ZH: tuple[tuple[QuestionType, re.Pattern[str]], ...] = (
    ("why", re.compile(r"为什么|为何|何以")),
    ("when", re.compile(r"何时|什么时候|什么时间|哪[一]?[年月天日]|几[月号日点]|多久以前")),
    ("where", re.compile(r"哪里|哪儿|何处|何地|什么地方")),
    ("how", re.compile(r"怎么|如何|怎样")),
    ("how many", re.compile(r"多少|多[大长高远久快]|几")),
    ("who", re.compile(r"谁|何人")),
    ("which", re.compile(r"哪")),
    ("what", re.compile(r"什么|何|啥")),
)

# A name is a capitalized word inside a sentence; two in a row are taken for a person or an organization.
_NAME = r"[A-Z][\w’'-]+"
_MONTH = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_HOLDS: dict[str, dict[QuestionType, re.Pattern[str]]] = {
    "en": {
        "who": re.compile(rf"(?<=[a-z,;] ){_NAME} {_NAME}|\bby {_NAME}|\b(?:he|she|who)\b"),
        "when": re.compile(rf"\b(?:1\d{{3}}|20\d\d)\b|\b{_MONTH} \d|\b\d{{1,2}} {_MONTH}|\bcentury\b"),
        "where": re.compile(rf"\b(?:in|at|near|from|to) (?:the )?(?!{_MONTH}){_NAME}|\b(?:directory|folder|located)\b"),
        "why": re.compile(r"\b(?:because|since|therefore|due to|in order to|so that|the reason|as a result)\b", re.I),
        "how": re.compile(
            r"^\s*(?:\d+[.)]|[-*+]) |```|\byou (?:can|have to|need to)\b|\bto do (?:this|that|so)\b|\bby \w+ing\b",
            re.MULTILINE | re.IGNORECASE,
        ),
        "which": re.compile(rf"(?<=[a-z,;] ){_NAME}|`[^`\n]+`"),
        "how many": re.compile(
            r"\b(?!1\d{3}\b|20\d\d\b)\d[\d,.]*\s*(?:%|[a-z]{3,})|\b(?:two|three|four|five|six|seven|eight|nine|ten)\b"
        ),
    },
    "zh": {
        "who": re.compile(r"[\u4e00-\u9fff]{2,4}(?:说|提出|创立|发明|出生|担任|认为|撰写)|由[\u4e00-\u9fff]{2,8}"),
        "when": re.compile(r"\d{3,4}\s*年|\d{1,2}\s*月|世纪|公元"),
        "where": re.compile(r"位于|坐落|[省市县区州国](?=[，。、的])|目录|文件夹"),
        "why": re.compile(r"因为|由于|因此|所以|以便|从而|原因"),
        "how": re.compile(r"^\s*(?:\d+[.)、]|[-*+]) |```|可以通过|需要先|首先|然后|步骤", re.MULTILINE),
        "which": re.compile(r"《[^》]+》|`[^`\n]+`|[、][\u4e00-\u9fff]+[、和及]"),
        "how many": re.compile(
            r"\d[\d,.]*\s*(?:%|[万亿]?[\u4e00-\u9fff])(?<!年)(?<!月)|[两三四五六七八九十百千]+[个名座种次人]"
        ),
    },
}


def question_type(question: str) -> str:
    """Return the type that a question is, ``OTHER`` for one without a question word."""
    if language(question) == "zh":
        return next((one for one, pattern in _ASKS_ZH if pattern.search(question)), OTHER)
    if _HOW_MANY.search(question):
        return "how many"
    found = _ASKS.search(question)
    if found is None:
        return OTHER
    word = found.group().lower()
    return "who" if word in {"whom", "whose"} else word


def askable(text: str) -> tuple[QuestionType, ...]:
    """Return the types that a passage holds an answer to, in the order of ``QUESTION_TYPES``; "what" always is one."""
    holds = _HOLDS[language(text)]
    return tuple(one for one in QUESTION_TYPES if one == "what" or holds[one].search(text))


def plan_types(
    chunks: Sequence[tuple[int, int]], offered: Mapping[int, Sequence[QuestionType]], source_of: Mapping[int, str]
) -> list[QuestionType]:
    """Return a type for each proposal: of those that its chunk offers, the one that its document has been asked least.

    Args:
        chunks: the store's key of the chunk of each proposal, and the proposal's number within that chunk.
        offered: the types of each chunk (``askable``).
        source_of: the document of each chunk.
    """
    asked: dict[str, Counter[str]] = {}
    planned: list[QuestionType] = []
    for key, _sample in chunks:
        counts = asked.setdefault(source_of[key], Counter())
        # Ties go to the rarer marks first: every passage offers "what".
        chosen = min(offered[key], key=lambda one: (counts[one], one == "what", QUESTION_TYPES.index(one)))
        counts[chosen] += 1
        planned.append(chosen)
    return planned


def count_types(questions: Iterable[str]) -> dict[str, int]:
    """Return how many questions are of each type, in the order of ``QUESTION_TYPES``, without those that none is of."""
    counts = Counter(question_type(question) for question in questions)
    return {one: counts[one] for one in (*QUESTION_TYPES, OTHER) if counts[one]}
