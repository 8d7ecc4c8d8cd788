"""Transformations of English statements of what something does, or does not: each a small function of one sentence.

As in ``retrieval.stated.definitions``. A statement that something is so is not asked about with "does": the answer
would repeat the question. One that it is not so is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from retrieval.stated.clauses import (
    BE,
    LONGEST_ANSWER,
    LONGEST_REST,
    Said,
    Transformation,
    X,
    complete,
    ended,
    fits_number,
    is_loose,
    negated,
)
from retrieval.stated.phrases import Names, named_subject, understood, words_of
from retrieval.stated.usage import ACTIONS, IN_ANSWER, POINTING, is_deed, is_specific

LONGEST_CONDITION = 14
"""Words of a condition that is asked about."""

_VERB = re.compile(
    r"\b(?:is|are|will|won't|has|have|does|doesn't|don't|can|can't|cannot|must|may|would|becomes?|needs?|fails?|exists?|"
    r"sends?|contains?|requires?|returns?|receives?|occurs?|happens?|uses?|tries|relies|reconnects?|starts?|stops?|"
    r"runs?|makes?|goes|gets?)\b"
)
_YOU = re.compile(r"\b(?:you|your|let's)\b", re.I)
_NOT_DONE = re.compile(
    rf"{X}(?:also )?(?:doesn't|does not) "
    r"(?P<v>(?!yet|always|even|actually|just|really|(?:have|need) to|\w+ly\b)[a-z]+) (?P<y>[^:;]+)$"
)
_NOT_ABLE = re.compile(rf"{X}(?:cannot|can't|can not) (?P<y>[a-z]+ [^:;]+)$")
_ADDED = re.compile(r",? (?:it|so|which|and|but|as|because|instead|nor|unless|if) ")


def whether(sentence: str, names: Names) -> Said:
    """X doesn't support Y. → Does X support Y?; X cannot Y. → Can X Y?"""
    said = ended(sentence)
    found = _NOT_DONE.match(said) or _NOT_ABLE.match(said)
    if found is None or POINTING.search(sentence) or _YOU.search(sentence):
        return
    subject, rest = named_subject(found["x"], names), _ADDED.split(found["y"])[0].rstrip(",")
    if not understood(rest, ("that", "its")) or is_loose(rest) or negated(rest) or re.search(r"\b(?:any|yet)", rest):
        return
    if subject and 2 <= len(words_of(rest)) <= LONGEST_CONDITION and understood(found["y"], IN_ANSWER, definite=False):
        verb = found.groupdict().get("v")
        yield f"Does {subject} {verb} {rest}?" if verb else f"Can {subject} {rest}?", sentence


_CONDITION = re.compile(r"(?P<w>If|When) (?P<a>[^,;:]+?)(?:, then|,| then) (?P<b>[^;:]+)$")
_NO_OUTCOME = re.compile(
    rf"(?:{ACTIONS}|and|or|but|just|only|by|it (?:is|was|would be) \w+|in|for|at|from|see|refer|please|perform|do)\b"
)


def what_happens(sentence: str, _names: Names) -> Said:
    """If A, B. → What happens if A?"""
    found = _CONDITION.match(ended(sentence))
    if found is None or POINTING.search(sentence) or _YOU.search(sentence):
        return
    condition, outcome = found["a"], found["b"]
    if not re.match(r"(?:an?|the|no|`|[A-Z])", condition) or _NO_OUTCOME.match(outcome) or is_loose(condition):
        return
    if not _VERB.search(condition) or not _VERB.search(outcome) or re.search(r"\b(?:was|were|had|did)\b", sentence):
        return
    told = (
        is_specific("if " + condition)
        and understood(condition, ("that",))
        and understood(outcome, IN_ANSWER, definite=False)
    )
    if told and 4 <= len(words_of(condition)) <= LONGEST_CONDITION and len(words_of(outcome)) <= LONGEST_ANSWER:
        yield f"What happens {found['w'].lower()} {condition}?", outcome


_USES = re.compile(rf"{X}(?P<v>uses|use|will use) (?P<y>[^,;:]+?) (?P<aim>(?:to (?!the|a|an)[a-z]+|for) [^;:]+)$")


def uses_for(sentence: str, names: Names) -> Said:
    """X uses A to B. → What does X use to B?"""
    found = _USES.match(ended(sentence))
    if found is None or POINTING.search(sentence) or _YOU.search(sentence):
        return
    subject, tool, aim = named_subject(found["x"], names), found["y"], found["aim"]
    if not understood(tool) or not is_specific("a " + tool) or not understood(aim, ("that", "its", "their")):
        return
    if subject and len(words_of(aim)) <= LONGEST_REST + 6:
        yield f"What {'do' if found['v'] == 'use' else 'does'} {subject} use {aim}?", tool


_ALLOWS = re.compile(rf"{X}(?P<v>allows you to|lets you|helps you) (?P<y>(?:{ACTIONS})\s+[^:;]+)$")
_ALLOWED = {"allows you to": "allow me to", "lets you": "let me", "helps you": "help me"}


def allows(sentence: str, names: Names) -> Said:
    """X allows you to A. → What does X allow me to do?"""
    found = _ALLOWS.match(ended(sentence))
    if found is None or not is_deed(found["y"]) or not understood(found["y"], ("your", "that")):
        return
    if subject := named_subject(found["x"], names):
        yield f"What does {subject} {_ALLOWED[found['v']]} do?", found["y"]


_DOES = {
    "returns": "return",
    "uses": "use",
    "applies": "apply",
    "outputs": "output",
    "listens on": "listen on",
    "runs on": "run on",
    "sends": "send",
    "expects": "expect",
    "reads": "read",
    "creates": "create",
    "stores": "store",
}
_V = rf"(?:(?P<s>{'|'.join(_DOES)})|will (?P<v>{'|'.join(_DOES.values())}))"
_BY_DEFAULT = re.compile(rf"By default,? {X}{_V} (?P<y>[^,;:]+)$")
_AS_DEFAULT = re.compile(rf"{X}{_V} (?P<y>[^,;:]+) by default$")


def _default(sentence: str, *patterns: re.Pattern[str]) -> re.Match[str] | None:
    """Return what is so by default, if the sentence stands by itself and is not about its reader."""
    said = ended(sentence)
    found = next(filter(None, (pattern.match(said) for pattern in patterns)), None)
    return None if POINTING.search(said) or _YOU.search(said) else found


def by_default(sentence: str, names: Names) -> Said:
    """By default, X returns Y. → What does X return by default?"""
    found = _default(sentence, _BY_DEFAULT, _AS_DEFAULT)
    if found is None or not complete(found["y"]):
        return
    if (subject := named_subject(found["x"], names)) and is_specific("a " + found["y"]):
        yield f"What does {subject} {found['v'] or _DOES[found['s']]} by default?", found["y"]


_PLACED = "served|stored|located|saved|written|exposed|available|mounted|installed|listed"
_PLACE = r"(?P<y>(?:at|in|under|on|to|from) [^,;:]+?)"
_BY_DEFAULT_AT = re.compile(rf"By default,? {X}{BE}(?P<v>{_PLACED}) {_PLACE}$")
_AT_BY_DEFAULT = re.compile(rf"{X}{BE}(?P<v>{_PLACED}) {_PLACE} by default$")


def where_by_default(sentence: str, names: Names) -> Said:
    """By default, X is served at Y. → Where is X served by default?"""
    found = _default(sentence, _BY_DEFAULT_AT, _AT_BY_DEFAULT)
    if found is None or not is_specific(found["y"]):
        return
    if (subject := named_subject(found["x"], names)) and complete(found["y"]) and fits_number(found["be"], subject):
        yield f"Where {found['be']} {subject} {found['v']} by default?", found["y"]


FEATURES: Mapping[str, Transformation] = {
    run.__name__: run for run in (whether, what_happens, uses_for, allows, by_default, where_by_default)
}
