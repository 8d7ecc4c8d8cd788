"""What a document states, as questions with their answers: every transformation over every sentence and entry.

Deterministic. Knows nothing of stores, checks or chunks.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from data.prompt import language
from retrieval.stated.chinese import CHINESE
from retrieval.stated.clauses import Transformation
from retrieval.stated.definitions import DEFINITIONS
from retrieval.stated.entries import Stated, glossed, listed
from retrieval.stated.events import EVENTS
from retrieval.stated.features import FEATURES
from retrieval.stated.phrases import Names
from retrieval.stated.releases import RELEASES
from retrieval.stated.sentences import Sentence, sentences
from retrieval.stated.shown import shown
from retrieval.stated.usage import USAGE, is_specific
from retrieval.wording import content_stems, normalised

_Source = TypeVar("_Source")
ENGLISH: Mapping[str, Transformation] = {**DEFINITIONS, **EVENTS, **FEATURES, **RELEASES, **USAGE}
_DEFINING = frozenset({"definition", "meaning", "gloss", "listed_term"})
"""Transformations whose question may be answered in several ways that are all right: the fullest is kept."""

_TASKS = frozenset(
    {
        "how_to",
        "how_can",
        "what_to_use",
        "what_to_do",
        "recommended",
        "what_if",
        "what_happens",
        "command",
    }
)
"""Transformations of what holds in some circumstances."""

_FORMATS = re.compile(r"\b(?:JSON|HTML|XML|YAML|CSV|PDF|HTTPS?|APIs?|URLs?|URIs?|UIs?|IDs?|SQL|CLI)\b")
"""Names that tell nothing of where they are spoken of."""

_NO_STATEMENT = re.compile(
    r"(?:[?？]|[吗呢][。？?！!]?)[”\"’」』）)]?$|\bat (?:your|one['’]s|their) (?:own )?(?:risk|peril)\b"
)
"""What asks, and what warns."""


def statements(title: str, text: str) -> list[Stated]:
    """Return the questions that a document's statements answer, in the order of the document."""
    names = Names(title, text)
    said = sentences(text)
    found = [stated for sentence in said for stated in _of(sentence, names)]
    found += [*listed(text, names), *glossed(text)]
    found += [
        stated
        for stated, under in shown(text, said)
        if stated.made_by not in _TASKS or _on_topic(stated.question, f"{title} {under}")
    ]
    return sorted(found, key=lambda one: (one.start, one.end))


def _of(said: Sentence, names: Names) -> Iterator[Stated]:
    """Yield what one sentence answers."""
    if _NO_STATEMENT.search(said.text):
        return
    transformations = CHINESE if language(said.text) == "zh" else ENGLISH
    for name, transform in transformations.items():
        for question, answer in transform(said.text, names):
            if name in _TASKS and not _on_topic(question, f"{names.title} {said.under}"):
                continue
            yield Stated(" ".join(question.split()), answer.strip(), name, said.start, said.end)


def _on_topic(question: str, topic: str) -> bool:
    """Tell whether a question names something, or asks about what the headings above its answer name.

    What can be done, or happens, in one place of a manual holds there; a question that does not say where is about
    everything.
    """
    return is_specific(_FORMATS.sub("", question)) or bool(content_stems(question) & content_stems(topic))


def agreed(found: Iterable[tuple[_Source, Stated]]) -> list[tuple[_Source, Stated]]:
    """Return each question once, with its source; none that documents answer in different ways.

    Of the answers to "what is …" the longest is kept, of equal answers the first.
    """
    by_question: defaultdict[str, list[tuple[_Source, Stated]]] = defaultdict(list)
    for source, one in found:
        by_question[normalised(one.question)].append((source, one))
    kept = []
    for same in by_question.values():
        answers = {normalised(one.answer) for _, one in same}
        if len(answers) == 1:
            kept.append(same[0])
        elif all(one.made_by in _DEFINING for _, one in same):
            kept.append(max(same, key=lambda pair: len(pair[1].answer)))
    return kept
