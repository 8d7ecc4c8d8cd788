"""Transformations of English statements of when, where, by whom, how many and why: each a function of one sentence.

As in ``retrieval.stated.definitions``: the auxiliary is moved in front of the subject; what follows the verb is kept
where it can be understood.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from retrieval.stated.clauses import BE, LONGEST_REST, Said, Transformation, X, ended, fits_number, is_loose, negated
from retrieval.stated.phrases import Names, named_subject, understood, words_of
from retrieval.stated.words import (
    BASE_OF,
    INTRANSITIVE,
    NO_EVENTS,
    NO_NOUNS,
    NO_PARTICIPLES,
    PARTICIPLES,
    PAST_OF_PARTICIPLE,
)

_MONTH = r"(?:January|February|March|April|May|June|July|August|September|October|November|December)"
_YEAR = r"(?:1\d{3}|20\d\d)"
_TIME = (
    rf"(?P<t>(?:the\s+)?(?:(?:early|mid|late)[ -])?(?:{_MONTH}\s+\d{{1,2}},?\s+{_YEAR}|\d{{1,2}}\s+{_MONTH}\s+{_YEAR}|"
    rf"{_MONTH}(?:\s+of)?,?\s+{_YEAR}|(?:spring|summer|autumn|fall|winter)\s+of\s+{_YEAR}|{_YEAR}s?))"
)
_ON = rf"(?:in|on)\s+{_TIME}"
_OTHER_TIME = re.compile(rf"\b{_YEAR}\b|\b{_MONTH}\b|\b(?:until|since|before|after|when|while|during|later|again)\b")
_AND_AGAIN = re.compile(
    r"(?:,|,?\s+(?:and|or|to|until|through))\s+(?:(?:or|again|then|later)\s+)*(?:(?<!, and )(?:in|on)\s+)?(?:the\s+)?"
    rf"(?:(?:early|mid|late)[ -])?(?:{_YEAR}|(?:{_MONTH}|(?:spring|summer|autumn|fall|winter)\s+of)\s)|"
    r",?\s+(?:or\s+(?:earlier|later|before|after)|at\s+the\s+(?:earliest|latest))\b"
)
"""What follows a time that is not the only one, or not certain."""
_REST = r"(?P<rest>(?:\s+[^,;:]*?)?)"
_PAST = rf"(?P<v>{'|'.join(BASE_OF)})"
_DONE = re.compile(
    rf"{X}{BE}(?P<v>(?:(?:first|originally|officially|formally|finally|initially)\s+)?\w+){_REST}\s+{_ON}"
    r"(?=[,;.]|\s+(?:and|by|at|as|with|to|under|after)\b)"
)
_DATED_DONE = re.compile(rf"(?:In|On)\s+{_TIME},?\s+{X}{BE}(?P<v>\w+){_REST}$")
_DID = re.compile(rf"{X}{_PAST}{_REST}\s+{_ON}(?=[,;.]|\s+(?:and|at|with|to|under)\b)")
_DATED_DID = re.compile(rf"(?:In|On)\s+{_TIME},?\s+{X}{_PAST}{_REST}$")


def when_done(sentence: str, names: Names) -> Said:
    """X was founded … in 1842 …; In 1842, X was founded …. → When was X founded …?"""
    found = _DONE.match(sentence) or _DATED_DONE.match(ended(sentence))
    if found is None or _AND_AGAIN.match(sentence, found.end()):
        return
    subject, be, verb = named_subject(found["x"], names), found["be"], found["v"].split()[-1]
    if (
        subject
        and _is_participle(verb)
        and verb not in NO_EVENTS
        and _carried(found["rest"])
        and fits_number(be, subject)
    ):
        yield f"When {be} {subject} {found['v']}{found['rest']}?", found["t"]


def when_did(sentence: str, names: Names) -> Said:
    """X founded Y in 1842 …; In 1842, X founded Y. → When did X found Y?"""
    found = _DID.match(sentence) or _DATED_DID.match(ended(sentence))
    if found is None or _AND_AGAIN.match(sentence, found.end()):
        return
    if not _carried(found["rest"]) or not _is_whole(BASE_OF[found["v"]], found["rest"]):
        return
    if subject := named_subject(found["x"], names):
        yield f"When did {subject} {BASE_OF[found['v']]}{found['rest']}?", found["t"]


def _is_whole(verb: str, rest: str) -> bool:
    """Tell whether a verb has what it needs: an object, unless it takes none; what one became, by its name."""
    if verb == "become":
        return re.search(r"[A-Z0-9]", rest) is not None
    return bool(rest.strip()) or verb in INTRANSITIVE


def _carried(rest: str) -> bool:
    """Tell whether what stood behind the verb may stand in the question: short, of no other time, and understood."""
    words = words_of(rest)
    if len(words) > LONGEST_REST or negated(rest) or _OTHER_TIME.search(rest) or is_loose(rest):
        return False
    if " and " in rest and any(_is_participle(word) or word in BASE_OF for word in words):
        return False
    if any(word.lower() in NO_NOUNS for word in words):
        return False
    return understood(rest, ("his", "her", "its", "their")) and not re.search(r"[()\"“”—–]", rest)


def _is_participle(word: str) -> bool:
    small = word.lower()
    return small in PARTICIPLES or (small.endswith("ed") and len(small) > 4 and small not in NO_PARTICIPLES)


_DONE_BY = re.compile(
    rf"{X}(?:was|were)\s+(?:first |originally )?(?P<v>{'|'.join(PAST_OF_PARTICIPLE)})\s+by\s+"
    rf"(?P<y>(?:the\s+)?[A-Z][^,;:()]*?)(?=[,;]\s+(?:who|which|a|an|the)\b|\s+(?:in|on)\s+(?:{_MONTH}|{_YEAR})|\.$)"
)
_MADE = re.compile(
    rf"(?P<x>[A-Z][^,;:]+?)\s+(?P<v>{'|'.join(sorted(set(PAST_OF_PARTICIPLE.values())))})\s+(?P<y>[^,;:()]+?)(?:\s+{_ON})?$"
)


def who_did(sentence: str, names: Names) -> Said:
    """X was founded by Y …; Y founded X (in 1842). → Who founded X?"""
    if found := _DONE_BY.match(sentence):
        subject = named_subject(found["x"], names)
        if subject and _names_somebody(found["y"]) and not negated(found["x"]):
            yield f"Who {PAST_OF_PARTICIPLE[found['v']]} {subject}?", found["y"]
    elif found := _MADE.match(ended(sentence)):
        agent, thing = named_subject(found["x"], names), found["y"]
        if agent and agent[0].isupper() and _names_thing(thing) and _carried(" " + thing):
            yield f"Who {found['v']} {thing}?", agent


def _names_somebody(agent: str) -> bool:
    words = words_of(agent)
    closer = re.search(r"\b(?:that|which|who|as|when|Charter|Act|Decree|Law|Order|Treaty|Statute)\b", agent)
    return len(words) <= 8 and understood(agent) and words[-1][0].isupper() and not closer


def _names_thing(thing: str) -> bool:
    words = words_of(thing)
    owned = {
        "his",
        "her",
        "its",
        "their",
        "a",
        "an",
        "that",
        "in",
        "by",
        "into",
        "from",
        "to",
        "with",
        "as",
        "for",
        "on",
    }
    return len(words) <= 7 and any(word[0].isupper() for word in words) and words[0].lower() not in owned


_WHERE = re.compile(
    rf"{X}{BE}(?P<v>located|situated|headquartered|based|born|buried)(?:\s+{_ON})?\s+"
    r"(?P<y>(?:in|on|at|near|between|along)\s+[^;:()]*?)"
    r"(?=,\s+(?:and|which|where|with|a|an|the)\b|\s+(?:and|to|as|where|which)\b|\.$)"
)


def where_is(sentence: str, names: Names) -> Said:
    """X is located in Y … → Where is X located?"""
    found = _WHERE.match(sentence)
    if found is None or "between" in found["y"] or (found["v"] == "based" and not found["y"].startswith("in ")):
        return
    subject, place = named_subject(found["x"], names), found["y"]
    placed = understood(place) and any(word[0].isupper() for word in words_of(place)) and not re.search(r"\d{4}", place)
    if subject and placed and fits_number(found["be"], subject):
        yield f"Where {found['be']} {subject} {found['v']}?", place


_HAS = re.compile(
    rf"{X}(?P<v>has|have|contains?|comprises?)\s+"
    r"(?P<n>(?:(?:about|around|over|approximately|nearly|at least|more than|some)\s+)?"
    r"(?:\d[\d,.]*(?:\s+(?:thousand|million|billion))?|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve))\s+"
    r"(?P<y>[a-z][a-z-]+(?:\s+[a-z][a-z-]+){0,2}s)(?=\.$|, )"
)
_MEASURED = re.compile(r"\b(?:percent|years|times|days|months|hours|types|kinds|ways|things|points|more|less)\b")


def how_many(sentence: str, names: Names) -> Said:
    """X has 129 members. → How many members does X have?"""
    found = _HAS.match(sentence)
    if found is None or _MEASURED.search(found["y"]) or not understood(found["y"]):
        return
    if subject := named_subject(found["x"], names):
        verb = "have" if found["v"] == "has" else found["v"].removesuffix("s")
        yield f"How many {found['y']} {'does' if found['v'].endswith('s') else 'do'} {subject} {verb}?", found["n"]


_EVERY = re.compile(
    rf"{X}{BE}(?P<v>\w+) (?P<y>every (?:\d[\d,]*|other|two|three|four|five|six|seven|eight|nine|ten|twelve) "
    r"(?:seconds?|minutes?|hours?|days?|weeks?|months?|years?))(?P<d> by default)?(?=[.,;])"
)


def how_often(sentence: str, names: Names) -> Said:
    """X is elected every four years. → How often is X elected?"""
    found = _EVERY.match(sentence)
    if found is None or not _is_participle(found["v"]) or found["v"] in NO_EVENTS:
        return
    if (subject := named_subject(found["x"], names)) and fits_number(found["be"], subject):
        yield f"How often {found['be']} {subject} {found['v']}{found['d'] or ''}?", found["y"]


_BECAUSE = re.compile(
    rf"{X}(?P<aux>is|are|was|were|can|must|should|has been|have been)\s+(?P<rest>[^,;:]+?),?\s+"
    r"(?P<y>(?:because|due to)\s+[^;:]+)$"
)
_LINKED = "its their it they he she his her that which who there"
_IN_REASON = tuple(_LINKED.split())


def reason(sentence: str, names: Names) -> Said:
    """X is Y because Z. → Why is X Y?"""
    found = _BECAUSE.match(ended(sentence))
    if found is None:
        return
    subject, rest = named_subject(found["x"], names), found["rest"]
    if not understood(rest) or not understood(found["y"], _IN_REASON) or negated(rest) or " that " in rest:
        return
    auxiliary, _, more = found["aux"].partition(" ")
    fits = subject and (auxiliary in {"can", "must", "should", "have"} or fits_number(auxiliary, subject))
    if fits and len(words_of(rest)) <= LONGEST_REST:
        yield f"Why {auxiliary} {subject} {more + ' ' if more else ''}{rest}?", found["y"]


EVENTS: Mapping[str, Transformation] = {
    run.__name__: run for run in (when_done, when_did, who_did, where_is, how_many, how_often, reason)
}
