"""What a generator is asked for, for each kind of pair: the messages, the form of its reply, and its length.

The packaged pair writer knows one prompt, ``data.prompt.pair_messages``, and spans only. What follows instructions
may be told more: the type of the question, who asks, which terms the house prefers. Knows nothing of generators.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from data.errors import InvalidRequest
from data.prompt import language, pair_messages, passage_part
from data.records import Message, PairKind, Passage
from retrieval.glossary import NO_GLOSSARY, Glossary, Term
from retrieval.grammar import PAIR_SCHEMA, QUESTION_GRAMMAR, QUESTION_SCHEMA, SPAN_SCHEMA, pair_grammar
from retrieval.question_types import OPENINGS

ASKED_KINDS: tuple[PairKind, ...] = ("span", "free", "multi", "unanswerable")
"""The kinds that are generated; examples of a style are written by people."""
STATED = "stated"
"""What is asked for beside these kinds, and written by nobody: statements turned into questions."""
DEFAULT_KINDS: tuple[PairKind, ...] = ("span", "unanswerable")
FREE_WORDS: frozenset[PairKind] = frozenset({"free", "multi"})
"""Kinds whose answers are no stretch of a passage."""
MAX_SPAN_TOKENS = 128
MAX_FREE_TOKENS = 320
LONGEST_PERSONA = 300

_TASK: dict[PairKind, dict[str, str]] = {
    "span": {
        "en": "Choose an answer in the passage that people would ask for, copied from the passage, then write the "
        "question it answers.",
        "zh": "先从资料中选出一个人们会问到的答案，原样抄下，再写出它所回答的问题。",
    },
    "free": {
        "en": "Write a question that the passage answers, then an answer in one to three full sentences of your own. "
        "State only what the passage says.",
        "zh": "根据资料写一个资料能回答的问题，再用一到三句完整的话回答。只说资料里有的内容。",
    },
    "multi": {
        "en": "Write one question that can be answered only with facts of both passages, then its answer in two or "
        "three full sentences: at least one with a fact of the first passage and one with a fact of the second. "
        "State only what the passages say.",
        "zh": "写一个必须同时用到两段资料才能回答的问题，再用两三句完整的话回答：至少一句用第一段的事实，"
        "一句用第二段的事实。只说资料里有的内容。",
    },
    "unanswerable": {
        "en": "Write a question on the topic of the passage that the passage does not answer.",
        "zh": "写一个与资料主题有关、但资料没有回答的问题。",
    },
}
_FORM = {
    "en": "The question names what it is about, so that it is understood by someone who does not see any passage; "
    "it does not mention a passage or text. Reply with JSON: {fields}.",
    "zh": "问题要写明所问的对象，使没看到资料的人也能理解；不要提到资料或文章。用 JSON 回复：{fields}。",
}
_TYPE = {"en": "Ask a “{word}” question.", "zh": "问题用“{word}”来问。"}
_PERSONA = {"en": "Word the question as this person would: {persona}", "zh": "用这个人的口吻提问：{persona}"}
_TERM = {"en": "Write “{preferred}”, never {others}.", "zh": "写“{preferred}”，不要写{others}。"}
_FIELDS: dict[PairKind, str] = {
    "span": '{"answer": …, "question": …}',
    "unanswerable": '{"question": …}',
}
_FREE_FIELDS = '{"question": …, "answer": …}'


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a set of pairs should be like beyond its size.

    Attributes:
        kinds: of ``ASKED_KINDS``; proposals are shared out among those with an answer.
        glossary: terms with their preferred forms, told where they stand in the passage, and checked.
        personas: who asks: each proposal is worded as one of them would, in turn.
        plan_types: tell the type of each question, so that a document is asked in different ways.
    """

    kinds: tuple[PairKind, ...] = DEFAULT_KINDS
    glossary: Glossary = NO_GLOSSARY
    personas: tuple[str, ...] = ()
    plan_types: bool = False

    def __post_init__(self) -> None:
        """Raise ``InvalidRequest`` for kinds that are not generated, none, or a blank or long persona."""
        unknown = [kind for kind in self.kinds if kind not in ASKED_KINDS]
        if unknown or not self.kinds:
            raise InvalidRequest(
                "These kinds of pairs are not generated",
                got=", ".join(unknown) or "none",
                wanted=", ".join((*ASKED_KINDS, STATED)),
            )
        for persona in self.personas:
            if not persona.strip() or len(persona) > LONGEST_PERSONA:
                raise InvalidRequest(
                    "Invalid persona", got=persona[:100], wanted=f"a description of 1 to {LONGEST_PERSONA} characters"
                )

    @property
    def instructed(self) -> bool:
        """Whether the generator has to follow instructions, which the packaged pair writer does not."""
        free = any(kind in FREE_WORDS for kind in self.kinds)
        return free or bool(self.glossary.terms or self.personas) or self.plan_types

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells runs with these wishes from others; nothing for the default ones."""
        if self == Wishes():
            return {}
        return {
            "kinds": list(self.kinds),
            "glossary": self.glossary.to_mapping(),
            "personas": list(self.personas),
            "plan_types": self.plan_types,
        }


@dataclass(frozen=True, slots=True)
class Wording:
    """How one question should be worded: its type, who asks, the terms at hand; "" and () ask for nothing."""

    type: str = ""
    persona: str = ""
    terms: tuple[Term, ...] = ()


def proposal_messages(kind: PairKind, passages: Sequence[Passage], wording: Wording) -> tuple[Message, ...]:
    """Return the messages that ask for a pair about one passage, or about two for the kind "multi"."""
    if kind not in FREE_WORDS and wording == Wording():
        return pair_messages(passages[0], answerable=kind != "unanswerable")
    lang = language(passages[0].chunk.text)
    said = [_TASK[kind][lang]]
    if wording.type:
        said.append(_TYPE[lang].format(word=OPENINGS[lang][wording.type]))  # type: ignore[index]  # "" is left out
    if wording.persona:
        said.append(_PERSONA[lang].format(persona=wording.persona.strip()))
    said += [_term(term, lang) for term in wording.terms if term.others]
    said.append(_FORM[lang].replace("{fields}", _FIELDS.get(kind, _FREE_FIELDS)))
    shown = "\n\n---\n\n".join(passage_part(passage).rstrip() for passage in passages)
    return (Message("system", (" ".join(said),)), Message("user", (shown,)))


def _term(term: Term, lang: str) -> str:
    return _TERM[lang].format(preferred=term.preferred, others=", ".join(f"“{form}”" for form in term.others))


def proposal_form(kind: PairKind, passage: Passage, *, takes_grammars: bool) -> tuple[str | None, str | None]:
    """Return the grammar of a proposal, or its JSON schema where words are free or the server takes no grammars."""
    if kind in FREE_WORDS:
        return None, PAIR_SCHEMA
    if takes_grammars:
        return (QUESTION_GRAMMAR if kind == "unanswerable" else pair_grammar(passage.chunk.text)), None
    return None, QUESTION_SCHEMA if kind == "unanswerable" else SPAN_SCHEMA


def longest_proposal(kind: PairKind) -> int:
    """Return the most tokens of a proposal."""
    return MAX_FREE_TOKENS if kind in FREE_WORDS else MAX_SPAN_TOKENS
