"""Whether a question, its answer and its passage fit one another, told by wording alone, in English and Chinese.

Three faults that small writers make: an answer of the wrong sort for its question word, a span cut in the middle of a
phrase, and a question about something that its passage does not speak of. Knows nothing of models.
"""

from __future__ import annotations

import re

from data.prompt import language
from retrieval.claims import content_words
from retrieval.question_types import question_type
from retrieval.wording import terms

LEAST_SPOKEN_OF = 0.3
"""Share of a question's words that its passage must have; thresholds are measured in bench/RESULTS.md."""

_NUMBER_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety hundred thousand million billion dozen "
    "half third quarter once twice double triple none no several many few most all majority minority percent"
)
_AMOUNT = re.compile(
    rf"\d|\b(?:{'|'.join(_NUMBER_WORDS.split())})s?\b|\b\w+(?:ly|ths?)\b|[一二两三四五六七八九十百千万亿半几]", re.I
)
_TIME_WORDS = (
    "january february march april may june july august september october november december monday tuesday wednesday "
    "thursday friday saturday sunday spring summer autumn fall winter century decade year month week day hour minute "
    "second morning noon evening night midnight today yesterday ago before after during while when until since by "
    "whenever early late later end beginning start always never first every time ancient medieval era period age war"
)
_TIME = re.compile(
    rf"\d|\b(?:{'|'.join(_TIME_WORDS.split())})s?\b|[年月日号时点天周]|世纪|时候|之[前后]|期间|期$", re.I
)
_HAN = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")
_ASKING_ZH = re.compile(
    r"什么(?:时候|时间|地方)?|为什么|哪一?[个些里儿年月天日种位家座所]?|谁|何[时处地人年]|多少|几[个年月]?|如何|怎么样?|怎样|请问|"
    r"是否|[是在的了有和与为于被由从对将把及或以吗呢]"
)
_LETTERS = re.compile(r"[^\W\d_]")
_BAD_END = re.compile(
    r"\b(?:a|an|the|of|in|on|at|by|for|to|with|and|or|but|that|which|who|is|are|was|were|be|as|from|into|than|if|its|"
    r"their|your|this|these)$",
    re.IGNORECASE,
)
_BAD_START = re.compile(r"^(?:and|or|but|of|that|which|who|whose|is|are|was|were|be|than)\b(?!\s*$)", re.IGNORECASE)
_PAIRED = (("(", ")"), ("[", "]"), ("{", "}"), ("“", "”"), ("《", "》"), ("「", "」"))
_EVEN = ("`", '"', "**")


def misfit(question: str, answer: str) -> str:
    """Return why an answer is of the wrong sort for its question's word, "" if it may be of the right one."""
    asked = question_type(question)
    if asked == "how many" and not _AMOUNT.search(answer):
        return "asks for an amount, and the answer has none"
    if asked == "when" and not _TIME.search(answer):
        return "asks for a time, and the answer has none"
    if asked in {"who", "where"} and not _LETTERS.search(answer):
        return f'asks "{asked}", and the answer is a number'
    if asked in {"why", "how"} and len(terms(answer)) < 2:
        return f'asks "{asked}", and the answer is one word'
    return ""


def cut_off(answer: str) -> str:
    """Return by what a span is seen to begin or end in the middle of a phrase, "" if nothing shows."""
    bare = answer.strip()
    if language(bare) != "zh" and (found := _BAD_END.search(bare)) and found.start() > 0:
        return f'ends in "{found.group()}"'
    if language(bare) != "zh" and (found := _BAD_START.search(bare)):
        return f'begins with "{found.group()}"'
    for opening, closing in _PAIRED:
        if bare.count(opening) != bare.count(closing):
            return f"has one {opening} or {closing} alone"
    odd = next((mark for mark in _EVEN if bare.count(mark) % 2), "")
    return f"has one {odd} alone" if odd else ""


def asked_about(question: str) -> set[str]:
    """Return what a question is about: its words; of Chinese its characters, without those that only ask."""
    if language(question) != "zh":
        return set(content_words(question))
    bare = _ASKING_ZH.sub(" ", question)
    return {word for word in terms(bare) if len(word) > 1 or not word.isascii()}


def unspoken(question: str, text: str) -> list[str]:
    """Return the words of a question that ``text`` has not, if they are too many; [] if it speaks of the question."""
    asked = asked_about(question)
    missing = sorted(asked - (set(_HAN.findall(text)) | content_words(text)))
    return missing if len(missing) > (1 - LEAST_SPOKEN_OF) * len(asked) else []
