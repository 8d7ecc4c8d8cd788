"""Questions that look as if their passages answered them: one number, name or word of a real question is another.

Crowd workers wrote many of SQuAD 2.0's unanswerable questions in these ways (Rajpurkar et al., 2018, arXiv:1806.03822,
table 1: entity swap, antonym). A reader that is asked them beside the real ones, over the same passages, has to look
at the whole question. Knows nothing of tokens or training.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from random import Random

NAME = re.compile(r"(?<![.!?] )(?<!^)\b[A-Z][\w’'-]*\w(?: [A-Z][\w’'-]*\w)*")
"""Capitalized words that do not open a sentence."""
_NUMBER = re.compile(r"(?<![\w.,])\d{1,4}(?![\w.,]?\d)")
_OPPOSITES = (
    ("first", "last"),
    ("largest", "smallest"),
    ("biggest", "smallest"),
    ("highest", "lowest"),
    ("longest", "shortest"),
    ("oldest", "youngest"),
    ("earliest", "latest"),
    ("most", "least"),
    ("more", "fewer"),
    ("before", "after"),
    ("above", "below"),
    ("began", "ended"),
    ("begin", "end"),
    ("start", "end"),
    ("started", "ended"),
    ("increase", "decrease"),
    ("increased", "decreased"),
    ("north", "south"),
    ("northern", "southern"),
    ("east", "west"),
    ("eastern", "western"),
    ("male", "female"),
    ("maximum", "minimum"),
    ("won", "lost"),
    ("won", "refused"),
    ("accepted", "rejected"),
    ("success", "failure"),
    ("最大", "最小"),
    ("最多", "最少"),
    ("最高", "最低"),
    ("最早", "最晚"),
    ("最长", "最短"),
    ("之前", "之后"),
    ("以上", "以下"),
    ("增加", "减少"),
    ("开始", "结束"),
    ("北部", "南部"),
    ("东部", "西部"),
)
_MONTHS = frozenset(
    [
        "January",
        "February",
        "March",
        "April",
        "May",
        "June",
        "July",
        "August",
        "September",
        "October",
        "November",
        "December",
    ]
)
TRIES = 8
"""Draws of a number or a name before a way is given up."""


def altered_question(question: str, passages: Sequence[str], names: Sequence[str], random: Random) -> str | None:
    """Return the question with one detail changed to what no passage holds, or None where there is no such detail.

    A number becomes another of as many digits, a name one of ``names``, a word its opposite. Only a detail that a
    passage holds too is a detail (but an opposite), and what is put in stands in none of the passages.

    Args:
        question: one that a passage answers.
        passages: the texts that it is asked over.
        names: what may take the place of a name: those of other questions about the same document look likeliest.
        random: decides which way, and what is put in.
    """
    text = "\n".join(passages)
    ways = [_other_number, _other_name, _opposite]
    random.shuffle(ways)
    for way in ways:
        changed = way(question, text, names, random)
        if changed is not None:
            return changed
    return None


def _other_number(question: str, text: str, _names: Sequence[str], random: Random) -> str | None:
    for found in _NUMBER.finditer(question):
        said = found.group()
        for _ in range(TRIES):
            # A year stays in its century, so that its looks do not give it away.
            other = said[:2] + f"{random.randrange(100):02}" if len(said) == len("1999") else str(_like(said, random))
            if said in text and other not in text:
                return question[: found.start()] + other + question[found.end() :]
    return None


def _like(number: str, random: Random) -> int:
    return random.randrange(10 ** (len(number) - 1), 10 ** len(number))


def _other_name(question: str, text: str, names: Sequence[str], random: Random) -> str | None:
    own = [found for found in NAME.finditer(question) if found.group() in text]
    if not own or not names:
        return None
    found = random.choice(own)
    alike = sorted(_MONTHS) if found.group() in _MONTHS else [name for name in names if _alike(name, found.group())]
    for _ in range(TRIES if alike else 0):
        other = random.choice(alike)
        if other not in text and other not in question:
            return question[: found.start()] + other + question[found.end() :]
    return None


def _alike(name: str, other: str) -> bool:
    """Return whether one name could stand where the other does, by its looks: as many words, and no month."""
    return len(name.split()) == len(other.split()) and name not in _MONTHS


def _opposite(question: str, text: str, _names: Sequence[str], _random: Random) -> str | None:
    for pair in _OPPOSITES:
        for word, other in (pair, pair[::-1]):
            edge = r"\b" if word.isascii() else ""
            changed, count = re.subn(edge + word + edge, other, question, count=1)
            if count and not re.search(edge + other + edge, text):
                return changed
    return None
