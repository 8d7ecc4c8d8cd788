"""Transformations of English statements of what something does, or does not: each a small function of one sentence.

As in ``retrieval.stated.definitions``. A statement that something is so is not asked about with "does": the answer
would repeat the question. One that it is not so is.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from retrieval.stated.clauses import (
    LONGEST_ANSWER,
    LONGEST_REST,
    Said,
    Transformation,
    X,
    ended,
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


FEATURES: Mapping[str, Transformation] = {run.__name__: run for run in (whether, what_happens, uses_for, allows)}
