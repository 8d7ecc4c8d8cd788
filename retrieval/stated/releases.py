"""Transformations of English statements of versions: since when there is something, which version brought it.

As in ``retrieval.stated.definitions``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from retrieval.stated.clauses import LONGEST_REST, Said, Transformation, X, fits_number, is_loose, negated
from retrieval.stated.phrases import Names, named_subject, term_subject, understood, words_of
from retrieval.stated.usage import ACTIONS, is_task, mine

_NUMBER = r"`?v?(?!\d\d?\.(?:\d\d?\.)?(?:19|20)\d\d\b)\d+(?:\.\d+)+(?:\.x)?`?"
"""A version, which no date is (10.05.2019)."""
_NAME = r"[A-Z][\w+-]*(?: [A-Z][\w+-]*)?"
_VERSION = (
    rf"(?P<said>version )?(?:(?P<of>{_NAME}) )?(?P<told>version )?"
    rf"(?P<y>{_NUMBER}(?P<on> (?:and|or) (?:above|later|newer|higher))?)"
)
_END = r"(?=\.$|[,;] )"
_CHANGED = {
    "introduced": "introduce",
    "added": "add",
    "dropped": "drop",
    "removed": "remove",
    "deprecated": "deprecate",
    "stopped": "stop",
}
_PAST = "|".join(_CHANGED)
_NO_PRODUCT_WORDS = """
Section Sections Article Articles Chapter Chapters Table Tables Figure Figures Clause Clauses Rule Rules Amendment
Amendments Paragraph Part Page Appendix Act Title Step Equation Example Version Line Room Channel Route Grade Level
January February March April May June July August September October November December
Monday Tuesday Wednesday Thursday Friday Saturday Sunday
"""
_NO_PRODUCTS = frozenset(_NO_PRODUCT_WORDS.split())
"""What has numbers that are no versions."""
_REST = r"(?P<rest>(?:`[^`]*`|[^`,;:()])+"


def _is_product(name: str, names: Names) -> bool:
    """Tell whether a name in front of a number is known, and nothing whose parts are numbered."""
    return all(word not in _NO_PRODUCTS and names.is_known(word) for word in words_of(name))


def _is_named(found: re.Match[str], names: Names) -> bool:
    """Tell whether a version's product is named: without it a question asks for a version of nothing."""
    return bool(found["of"]) and _is_product(found["of"], names)


def _is_version(found: re.Match[str], names: Names) -> bool:
    """Tell whether a number is a version: it stands behind a product's name, or the word, or is written as one."""
    said = found["said"] or found["told"] or found["y"].startswith(("v", "`"))
    return _is_product(found["of"], names) if found["of"] else bool(said)


_AVAILABLE = re.compile(
    rf"{X}(?P<be>is|are) (?:only )?(?P<v>available|supported|deprecated) "
    rf"(?P<p>in|since|from|as of|starting (?:from|with|in)) {_VERSION}{_END}"
)


def available_since(sentence: str, names: Names) -> Said:
    """X is available since N V. → Since which version of N is X available?"""
    found = _AVAILABLE.match(sentence)
    if found is None or not _is_named(found, names) or negated(found["x"]) or (found["p"] == "in" and not found["on"]):
        return
    subject = term_subject(found["x"], names)
    if subject and fits_number(found["be"], subject):
        asked = "In which versions" if found["on"] else "Since which version"
        yield f"{asked} of {found['of']} {found['be']} {subject} {found['v']}?", found["y"]


_WAS = re.compile(rf"{X}(?P<be>was|were) (?:first )?(?P<v>{_PAST}|released) in {_VERSION}{_END}")


def version_of(sentence: str, names: Names) -> Said:
    """X was added in N V. → In which version of N was X added?"""
    found = _WAS.match(sentence)
    if found is None or not _is_named(found, names) or negated(found["x"]) or found["on"]:
        return
    if (subject := named_subject(found["x"], names)) and fits_number(found["be"], subject):
        yield f"In which version of {found['of']} {found['be']} {subject} {found['v']}?", found["y"]


_BROUGHT = re.compile(rf"(?P<x>{_NAME}) (?:version )?(?P<y>{_NUMBER}) (?:also )?(?P<v>{_PAST}) {_REST})")


def which_version(sentence: str, names: Names) -> Said:
    """N V dropped support for X. → Which version of N dropped support for X?"""
    found = _BROUGHT.match(sentence)
    rest = _changed(found, sentence) if found else ""
    if found and rest and _is_product(found["x"], names):
        yield f"Which version of {found['x']} {found['v']} {rest}?", found["y"]


_IN_ONE = re.compile(rf"In {_VERSION}, (?P<x>{_NAME}) (?P<v>{_PAST}) {_REST})")
_ONE_IN = re.compile(rf"(?P<x>{_NAME}) (?P<v>{_PAST}) {_REST}?)(?: \([^()]*\))? in {_VERSION}{_END}")


def version_that(sentence: str, names: Names) -> Said:
    """In version V, N added X; N added X in version V. → In which version did N add X?"""
    found = _IN_ONE.match(sentence) or _ONE_IN.match(sentence)
    rest = _changed(found, sentence) if found else ""
    if not found or not rest or not _is_version(found, names) or not _is_product(found["x"], names):
        return
    if not found["on"] and found["of"] in {None, found["x"]}:
        yield f"In which version did {found['x']} {_CHANGED[found['v']]} {rest}?", found["y"]


_NARROWED = re.compile(r"\s*(?:\((?!as |e\.g\. |see )|:)")
"""What follows says more closely what was changed."""


def _changed(found: re.Match[str], sentence: str) -> str:
    """Return what a version changed as a question says it, "" where it leans on something, or is told more closely."""
    said = re.sub(r"\s+(?:as well|too)$", "", found["rest"].strip().removesuffix("."))
    if _NARROWED.match(sentence, found.end()):
        return ""
    whole = not (negated(said) or is_loose(said)) and understood(said) and 2 <= len(words_of(said)) <= LONGEST_REST
    return said if whole and re.search(r"[A-Z`]", said) else ""


_SINCE = re.compile(
    rf"(?:Since|As of|Starting (?:from|with|in)) {_VERSION}, you can (?:also )?(?P<a>(?:{ACTIONS}) [^,;:]+)\.$"
)


def possible_since(sentence: str, names: Names) -> Said:
    """Since N V, you can A. → Since which version of N can I A?"""
    found = _SINCE.match(sentence)
    if found and _is_named(found, names) and is_task(found["a"]) and re.search(r"[A-Z`]", found["a"]):
        yield f"Since which version of {found['of']} can I {mine(found['a'])}?", found["y"]


RELEASES: Mapping[str, Transformation] = {
    run.__name__: run for run in (available_since, version_of, which_version, version_that, possible_since)
}
