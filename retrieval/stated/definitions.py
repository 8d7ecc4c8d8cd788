"""Transformations of English statements of what something is: each a small function of one sentence.

A transformation yields a question and its answer, a stretch of the sentence. What is in doubt it does not yield. Knows
nothing of documents beyond how they write names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from retrieval.stated.clauses import (
    BE,
    LONGEST_ANSWER,
    Said,
    Transformation,
    X,
    complete,
    ended,
    fits_number,
    is_loose,
    negated,
)
from retrieval.stated.phrases import Names, is_plain_code, named_subject, term_subject, understood, words_of
from retrieval.stated.words import EVALUATIONS, OCCUPATIONS, VAGUE_HEADS

LONGEST_RANK = 16
"""Words of a rank that is asked about."""
LONGEST_NAME = 10
"""Words of a name that is an answer."""

_DEFINED = re.compile(
    rf"{X}(?:\([^()]*\)\s+|itself\s+)?{BE}(?:actually |basically |simply |just )?(?P<y>(?:an?|the|one of the)\s+.+)$"
)
_HEAD_ENDS = re.compile(r"\b(?:of|for|that|which|who|in|to|with|from|on|by|where|used|based|and|at|as)\b|[,;(]")
_SECOND = re.compile(
    r", (?:is|was|are|were|but|and also|and is|while|although|it|this|they|so)\b|\bas (?:it|they)\b|"
    r"\band (?:is|are|was)\b|, and \w+ed (?!by\b)|\bthe [a-z]+['’]s\b|"
    r"\bthat (?:on|in|for|to|as|with|by|from|at)\b"
)
_ORDINAL = re.compile(r"the (?:.* )?(?:\w+est|only|first|last|second|third)\b")
_LINKED = "that which who whose its their his her one it itself each everyone your you"
_IN_ANSWER = tuple(_LINKED.split())
_COMPANY = re.compile(
    r"\b(?:Corp|Inc|Ltd|LLC|Co|Company|Corporation|GmbH|AG|SE|SpA|Group|Records?|Studios?|Pictures|Media|University|College)\b"
)
_PROGRAMMED = re.compile(
    r"\b(?:class|sub-?class|exception|function|module|object|type|decorator|model|package|library|method|dependency)\b"
)


def definition(sentence: str, names: Names) -> Said:
    """X is a Y … → What is X? (of a person: Who is X?)."""
    found = _DEFINED.match(ended(sentence))
    if found is None or negated(found["x"]):
        return
    be, subject, predicate = found["be"], term_subject(found["x"], names), found["y"]
    if subject is None or be == "were" or not _defines(predicate) or subject.startswith("the name "):
        return
    if not understood(subject.removeprefix("the ")) or (predicate[:4] == "the " and not re.search(r"[A-Z`]", subject)):
        return  # "a major event is the …" names one of many
    if is_plain_code(subject) and not _PROGRAMMED.search(predicate):
        return  # `Stopped` is one of many values
    who = _head(predicate)[-1].lower() in OCCUPATIONS and subject[0].isupper() and not _COMPANY.search(subject)
    if not who and names.is_ambiguous(subject):
        return
    if who and not named_subject(found["x"], names):
        return  # a surname alone
    if be != "was" or who:  # what something was, it was among other things
        yield f"{'Who' if who else 'What'} {be} {subject}?", predicate


def _head(predicate: str) -> list[str]:
    """Return the words of a predicate up to what is said more closely about it."""
    return words_of(_HEAD_ENDS.split(predicate)[0])


def _defines(predicate: str) -> bool:
    """Tell whether a predicate says what something is, by itself: no opinion, no rank, no second clause."""
    head = [word.lower() for word in _head(predicate)]
    if not 4 <= len(words_of(predicate)) <= LONGEST_ANSWER or len(head) < 2 or head[-1] in VAGUE_HEADS:
        return False
    if (
        _SECOND.search(predicate)
        or re.search(r"[\"“”]", _HEAD_ENDS.split(predicate)[0])
        or _ORDINAL.match(" ".join(head))
        or any(word in EVALUATIONS for word in head)
    ):
        return False
    return understood(predicate.replace("other than", "than"), _IN_ANSWER, definite=False)


_ABBREVIATED = re.compile(r"\(([A-Z]{3,7})\)")
_INITIALS = re.compile(r"[A-Z][\w’']*|(?<=-)[A-Z][\w’']*")


def expansion(sentence: str, _names: Names) -> Said:
    """Some Long Name (SLN) → What does SLN stand for?, where the initials agree."""
    for found in _ABBREVIATED.finditer(sentence):
        before = sentence[: found.start()].rstrip()
        starts = [word.start() for word in _INITIALS.finditer(before)][-len(found[1]) :]
        if "".join(before[start] for start in starts) != found[1]:
            continue
        name = before[starts[0] :]
        small = {word for word in re.split(r"[\s-]+", name) if not word[0].isupper()}
        if small <= _MINOR and not re.search(r"['’]s?$", name) and before.endswith(name):
            yield f"What does {found[1]} stand for?", name


_MINOR = frozenset({"of", "for", "and", "the", "on", "in", "to"})
_SPELT = re.compile(r"(?<![\w’'-])(?:[A-Za-z][a-zA-Z]+[ -]){2,6}[A-Za-z][a-zA-Z]+ \(([A-Z]{3,7})\)")


def small_expansion(sentence: str, _names: Names) -> Said:
    """Long name of it (LNI) → What does SLN stand for?, where each of the words gives its initial."""
    for found in _SPELT.finditer(sentence) if _ABBREVIATED.search(sentence) else ():
        words = list(re.finditer(r"[A-Za-z]+", found[0][: -len(found[1]) - 3]))[-len(found[1]) :]
        name = found[0][words[0].start() : words[-1].end()]
        small = {word[0] for word in words}
        spelt = "".join(word[0][0] for word in words).upper() == found[1] and not small & (_MINOR | {"a", "an"})
        if spelt and not name.istitle() and any(word[0].islower() for word in small):
            yield f"What does {found[1]} stand for?", name


_LONG_FORM = re.compile(r"\b([A-Z]{3,7}) \(([A-Z][\w’'-]*(?:[ -][\w’'-]+){1,7})\)")


def long_form(sentence: str, _names: Names) -> Said:
    """SLN (Some Long Name) → What does SLN stand for?, where the initials agree."""
    for short, name in _LONG_FORM.findall(sentence):
        initials = [word[0].upper() for word in re.split(r"[\s-]+", name) if word not in _MINOR]
        if "".join(initials) == short:
            yield f"What does {short} stand for?", name


_STANDS = re.compile(rf"{X}(?:stands|stood)\s+for\s+(?P<y>.+?)(?:, which .+)?$")


def stands_for(sentence: str, names: Names) -> Said:
    """X stands for Y. → What does X stand for?"""
    found = _STANDS.match(ended(sentence))
    if found is None or not understood(found["y"]) or len(words_of(found["y"])) > LONGEST_NAME:
        return
    if subject := named_subject(found["x"], names):
        yield f"What does {subject} stand for?", found["y"]


_STRANDED = (
    "based on|built on top of|built on|named after|divided into|derived from|composed of|made of|responsible for|"
    "written in|inspired by|organized into|classified as|classified into|equivalent to|dedicated to|compatible with|"
    "powered by|licensed under|subdivided into|grouped into|defined as|modeled on|bordered by|bounded by|surrounded by"
)
_WHAT_OF = re.compile(
    rf"{X}{BE}(?:mainly |directly |usually |entirely |fully |also |originally )?(?P<v>{_STRANDED})\s+(?P<y>[^;:]+)$"
)


def what_of(sentence: str, names: Names) -> Said:
    """X is based on Y. → What is X based on?"""
    found = _WHAT_OF.match(ended(sentence))
    if found is None:
        return
    subject, answer = named_subject(found["x"], names), found["y"]
    if subject and complete(answer) and fits_number(found["be"], subject):
        yield f"What {found['be']} {subject} {found['v']}?", answer


_KNOWN = re.compile(
    rf"{X}{BE}(?P<v>(?:also|sometimes|commonly|often|formerly|originally|popularly|generally) "
    r"(?:known as|called|named|referred to as))\s+"
    r"(?P<y>[^,;:]+?)(?=,\s+(?:and|which|because|a|the)\b|\s+(?:because|since|in|until)\b|\.$)"
)


def also_known(sentence: str, names: Names) -> Said:
    """X is also known as Y. → What is X also known as?"""
    found = _KNOWN.match(sentence)
    if found is None or not understood(found["y"]) or len(words_of(found["y"])) > LONGEST_NAME:
        return
    if subject := named_subject(found["x"], names):
        yield f"What {found['be']} {subject} {found['v']}?", found["y"]


_USED = re.compile(rf"{X}(?P<be>is|are)\s+(?:mainly |usually |often |normally )?used\s+(?P<y>to\s+[a-z]+\s+[^;:]+)$")
_USABLE = re.compile(rf"{X}can (?:also )?be used (?P<y>(?:to [a-z]+|for) [^;:]+)$")


def used_for(sentence: str, names: Names) -> Said:
    """X is used to Y. → What is X used for?; X can be used to Y. → What can X be used for?"""
    said = ended(sentence)
    found = _USED.match(said) or _USABLE.match(said)
    if found and (subject := term_subject(found["x"], names)) and complete(found["y"]):
        be = found.groupdict().get("be")
        question = f"What {be} {subject} used for?" if be else f"What can {subject} be used for?"
        yield question, found["y"].removeprefix("for ")


_OBJECT_OF = {
    "requires": "require",
    "expects": "expect",
    "inherits from": "inherit from",
    "depends on": "depend on",
    "comes with": "come with",
    "consists of": "consist of",
    "comprises": "comprise",
    "runs on": "run on",
    "belongs to": "belong to",
}
_OBJECT = re.compile(rf"{X}(?P<v>{'|'.join(_OBJECT_OF)}) (?P<y>(?!that )[^;:]+)$")


def object_of(sentence: str, names: Names) -> Said:
    """X requires Y. → What does X require?"""
    found = _OBJECT.match(ended(sentence))
    if found and (subject := named_subject(found["x"], names)) and complete(found["y"]):
        yield f"What does {subject} {_OBJECT_OF[found['v']]}?", found["y"]


_SAYS = re.compile(r"[\"“](?P<x>[^\"“”]{3,40})[\"”] means (?P<y>(?!that\b)[^:]+)$")


def quoted_term(sentence: str, _names: Names) -> Said:
    """“X” means Y. → What does “X” mean?"""
    found = _SAYS.match(ended(sentence))
    if found is None or negated(found["y"]) or not 3 <= len(words_of(found["y"])) <= LONGEST_ANSWER:
        return
    if understood(found["y"], _IN_ANSWER, definite=False):
        yield f"What does “{found['x']}” mean?", found["y"]


_ATTRIBUTES = (
    "population|area|length|height|width|depth|elevation|diameter|mass|density|capacity|capital|currency|motto|"
    "official language|climate|boiling point|melting point|atomic number|symbol|headquarters|maximum|minimum|name"
)
_ATTRIBUTE = re.compile(
    rf"The (?P<n>(?:total |average |official |full )?(?:{_ATTRIBUTES}) of )(?P<x>[^,;:]+?) {BE}(?P<y>[^;:]+)$"
)


def attribute(sentence: str, names: Names) -> Said:
    """The population of X is Y. → What is the population of X?"""
    found = _ATTRIBUTE.match(ended(sentence))
    if found is None or not complete(found["y"]) or found["be"] not in {"is", "was"}:
        return
    if len(words_of(found["y"])) <= LONGEST_NAME and (subject := named_subject(found["x"], names)):
        yield f"What {found['be']} the {found['n']}{subject}?", found["y"]


_QUANTITIES = "population|area|length|height|width|depth|elevation|capacity|diameter|mass"
_UNIT = r"(?: [a-z]+[23²³]?(?: (?:miles|kilometers|kilometres|feet|meters|metres|inches))?)?"
_AND_MORE = r"(?:\w+ )?\d(?![\d.,]*\s?(?:%|per ?cent))"
"""A second number of the same measure, which a share is not."""
_MEASURE = re.compile(
    rf"{X}(?P<v>has|had) an? (?P<n>(?:total |estimated |average )?(?:{_QUANTITIES})) of "
    r"(?P<y>(?:(?:about|around|approximately|over|nearly|some|roughly) )?\d[\d,.]*(?: (?:million|billion|thousand))?"
    rf"{_UNIT})(?: in (?P<t>\d{{4}}))?(?=\.$|, (?:and|which|making) (?!{_AND_MORE})| and (?!an? |{_AND_MORE})| \()"
)


def measured(sentence: str, names: Names) -> Said:
    """X has a population of Y (in Z). → What is the population of X (in Z)?"""
    found = _MEASURE.match(sentence)
    if found and (found["v"] == "has" or found["t"]) and (subject := named_subject(found["x"], names)):
        when = f" in {found['t']}" if found["t"] else ""
        yield f"What {'is' if found['v'] == 'has' else 'was'} the {found['n']} of {subject}{when}?", found["y"]


_RANKED = re.compile(
    rf"{X}(?P<be>is|was) (?P<y>the (?:(?:[a-z-]+ ){{0,2}}(?:\w{{2,}}est|most \w+|first|only)|"
    r"capital|founder|author|creator|inventor|designer|architect|composer|official language|currency) [^,;:]+)$"
)


_CARRIED_ON = re.compile(r"\b(?:his|her|its|their)\b| and [a-z]+s\b")
_SOMEBODY = re.compile(r"(?:ian|can|man|men|woman|women|person|people|ist|er|or)$")


def ranked(sentence: str, names: Names) -> Said:
    """X is the largest Y of Z. → What is the largest Y of Z? (of a person: Who …?)."""
    found = _RANKED.match(ended(sentence)) if " the " in sentence else None
    if found is None or negated(found["y"].replace(" only ", " ")) or is_loose(found["y"]) or "one of" in found["y"]:
        return
    subject, rank = named_subject(found["x"], names), found["y"]
    if subject is None or not understood(rank, ("that", "which")) or not re.search(r" [A-Z]| in | of ", rank):
        return
    who = any(word.lower() in OCCUPATIONS for word in _head(rank))
    if not who and _SOMEBODY.search(_head(rank)[-1]):
        return
    if 4 <= len(words_of(rank)) <= LONGEST_RANK and not _CARRIED_ON.search(rank):
        yield f"{'Who' if who else 'What'} {found['be']} {rank}?", found["x"]


_DEFAULT = re.compile(r"The default (?P<x>(?:\S+\s+){1,5}?)(?P<be>is|are)\s+(?P<y>.+)$")


def default_of(sentence: str, _names: Names) -> Said:
    """The default A of B is C. → What is the default A of B?"""
    found = _DEFAULT.match(ended(sentence))
    if found and understood(f"the {found['x']}") and complete(found["y"]) and len(words_of(found["y"])) <= LONGEST_NAME:
        yield f"What {found['be']} the default {found['x'].strip()}?", found["y"]


_ALIAS = re.compile(
    r"(?P<x>[^,;:()]+?) \((?P<v>also|previously|formerly|sometimes|originally) (?P<w>known as|called|named) "
    r"(?P<y>[^();:]+)\)"
)


def alias(sentence: str, names: Names) -> Said:
    """X (also known as Y) … → What is another name for X?"""
    found = _ALIAS.match(sentence)
    if found is None or sentence[found.end() :][:2].strip()[:1].isupper():
        return  # John (also known as Jack) Smith
    if len(words_of(found["y"])) > LONGEST_NAME or " or " in found["y"]:
        return
    if subject := term_subject(found["x"], names):
        former = found["v"] in {"previously", "formerly", "originally"}
        question = (
            f"What was {subject} {found['v']} {found['w']}?" if former else f"What is another name for {subject}?"
        )
        yield question, found["y"]


DEFINITIONS: Mapping[str, Transformation] = {
    run.__name__: run
    for run in (
        definition,
        expansion,
        small_expansion,
        long_form,
        quoted_term,
        measured,
        attribute,
        ranked,
        stands_for,
        what_of,
        also_known,
        used_for,
        object_of,
        default_of,
        alias,
    )
}
