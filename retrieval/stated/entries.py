"""Transformations of what a document lists or glosses: a term with what it is, an abbreviation with its long form.

Terms of a list are asked for together with the class or function that the heading above them names: alone they say
nothing. Knows nothing of sentences.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from retrieval.heading import FENCE, HEADING
from retrieval.stated.phrases import Names, is_code_name, understood, words_of
from retrieval.stated.sentences import plain
from retrieval.stated.words import OCCUPATIONS

LONGEST_GLOSS = 40
"""Words of what is said about a term."""
SHORTEST_DEED = 4
"""Words of what an option does."""

_ITEM = re.compile(
    r"\s*[-*+]\s+(?P<term>[*_]*\[[^\[\]]+\]\([^()\s]+\)[*_]*|\S[^:：]{0,200}?)(?P<mark>\s+[-–—]\s+|\s?[:：]\s*)(?P<said>\S.*)$"
)
_CODE = re.compile(r"`([A-Za-z_][\w.]*)(?:\([^`]*\))?`")
_TERM = re.compile(r"`([A-Za-z_]\w*)(?:\(([^`]*)\))?`")
_PATH = re.compile(r"`\.?[A-Za-z]\w*(?:\.[\w/-]+){2,}`")
_OPTION = re.compile(r"`--[a-z][\w-]+`")
_FIRST = re.compile(r"(.+?\.)(?:\s+[A-Z`]|$)")
_DEFAULT = re.compile(
    r"(?:^|[.;)] |, )(?:[Dd]efaults to|[Tt]he default value is|[Bb]y default, it is|Default:|Default value:) "
    r"(`[^`]+`)(?=[.;)]|$)|\((`[^`]+`) by default\)"
)
_DEFAULT_ZH = re.compile(
    r"(?:^|[。；，（]\s*)(?:该参数的)?(?:默认值?|缺省值?)(?:为|是|：|:)\s*(`[^`]+`)(?=[。；，）]|$)"
)
_CIRCUMSTANCE = re.compile(r"\b(?:which|if|when|unless|whose|otherwise|in case)\b|如果|若|当|除非|否则|其", re.I)
"""In a sentence whose default holds in some circumstances, or is another's."""
_SENTENCE_END = re.compile(r"(?<=\.) +|(?<=。)")
_SPECIFIES = re.compile(r"[Ss]pecifies (?P<y>\S.*)")
_INTRODUCED = re.compile(
    r"\b(?:parameters|arguments|attributes|methods|options|fields|properties|settings|members)\b.*:$"
)
_DENIED = re.compile(
    r"(?:\b(?:not|never|no|cannot|without|removed|deprecated|dropped|except|unlike|instead|other than)\b|n['’]t\b).*:$",
    re.I,
)
"""A line whose list names what something has not, or has no longer."""
_BULLET = re.compile(r"(?:[-*+]|\d+[.)])\s")
_NAME = re.compile(r"[A-Z][\w.+-]*(?: [A-Z][\w.+-]*){0,3}")
_VERB = re.compile(r"(?!Is |Has |Was |This |As |Its )[A-Z][a-z]+(?:s|es) (?!of\b|are\b|is\b|for\b)")
_NOUN = re.compile(r"(?:[Aa]n?|[Tt]he|Any) ")
_PHRASE = re.compile(r"(?:[Aa]n?|[Tt]he|[Ww]hether) ")
_NO_DEED = re.compile(r"(?:[Aa]n?|[Tt]he|[Ww]hether|[Ii]f|[Ff]or|[Ii]n|[Ww]hen|[Dd]efaults?|[Rr]equired|[Oo]ptional)\b")
_CODE_SPAN = re.compile(r"`[^`]*`")
_FINITE = re.compile(r"\b(?:is|are|has|have|was|were|will|can|uses)\b")
_BROKEN = re.compile(r"^the supported\b|[<>{}\[\]|:]|\be\.g$|\bi\.e$")
_LINKED = re.compile(r"[*_]*\[[^\[\]]+\]\(https?://[^()\s]+\)[*_]*")
"""A term that a link to another site introduces; a link within a site is one of a list of its pages."""
_PAGE = re.compile(
    r"(?:Tutorials?|Guides?|Getting Started|Quick ?[Ss]tart|Installation|Install|References?|Changelog|Release Notes|"
    r"Documentation|Docs|Overview|Introduction|Home|About|Contact|Support|FAQ|Examples?|Blog|Community|Contributing|"
    r"License|Roadmap|Source|Download|Website|Manual)$"
)
"""A page of any site's list of its pages."""
_PEOPLE = OCCUPATIONS | {"person", "maintainer", "contributor", "developer", "creator", "lead"}
_ABBR = re.compile(r'<abbr title="([^"<>:]+)(?:: [^"<>]+)?">([A-Z][A-Za-z]*[A-Z])s?</abbr>')
_DFN = re.compile(r'<dfn title="([^"<>]+)">([^<>]+)</dfn>')
_MINOR = frozenset(["of", "the", "and", "for", "in", "on", "a", "an", "to"])


_OF_MEMBERS = frozenset({"member", "member_default"})


@dataclass(frozen=True, slots=True)
class Stated:
    """A question, its answer, the transformation that made them, and where the document states it (``start:end``)."""

    question: str
    answer: str
    made_by: str
    start: int
    end: int


def listed(document: str, names: Names) -> Iterator[Stated]:
    """Yield what the items of lists say of their terms."""
    fenced, position, above, holder, named = False, 0, "", "", -1
    for line in document.splitlines(keepends=True):
        start, position = position, position + len(line)
        if FENCE.match(line):
            fenced = not fenced
        elif fenced:
            continue
        elif heading := HEADING.match(line):
            codes = set(_CODE.findall(heading[2]))
            holder, named = codes.pop() if len(codes) == 1 else "", -1
            above = holder
        elif item := _ITEM.match(line.rstrip()):
            end = start + len(line.rstrip())
            linked = _LINKED.fullmatch(item["term"]) is not None
            term, told = plain(item["term"]), plain(item["said"])
            for question, answer, made_by in (*_asked(term, told, holder, linked, names), *_defaults(term, told)):
                # A passage that a heading does not stand above must hold the line that names the holder.
                first = named if named >= 0 and made_by in _OF_MEMBERS else start + len(line) - len(line.lstrip())
                yield Stated(question, answer, made_by, first, end)
        elif line.strip() and not line[0].isspace() and not _BULLET.match(line):
            introduced = _introduced(line.strip())
            holder, named = (introduced, start) if introduced and introduced != above else (above, -1)
            if _DENIED.search(line.rstrip()):
                holder = ""


def _introduced(line: str) -> str:
    """Return the class or function whose parts a line says that a list behind it names, "" if it says none."""
    codes = set(_CODE.findall(line))
    code = codes.pop() if len(codes) == 1 else ""
    if not code or not _INTRODUCED.search(line):
        return ""
    if f"`{code}()`" in line:
        return f"{code}()"
    return code if is_code_name(f"`{code}`") else ""


def _asked(term: str, said: str, holder: str, linked: bool, names: Names) -> Iterator[tuple[str, str, str]]:
    """Yield questions, answers and transformations of one item."""
    gloss = _gloss(said)
    if _TERM.fullmatch(term):
        if holder and holder != term.strip("`"):
            yield from _of_member(term, gloss, said, holder)
    elif not gloss or _FINITE.search(re.split(r" (?:that|which|whether) ", f" {gloss}")[0]):
        return
    elif _PATH.fullmatch(term) and _PHRASE.match(gloss):
        yield (f"What does {term} specify?" if gloss[0] in "wW" else f"What is {term}?"), gloss, "setting"
    elif _PATH.fullmatch(term) and (specified := _SPECIFIES.fullmatch(gloss)):
        yield f"What does {term} specify?", specified["y"], "setting"
    elif _OPTION.fullmatch(term) and not _NO_DEED.match(gloss) and len(words_of(gloss)) >= SHORTEST_DEED:
        yield f"What does the {term} option do?", gloss, "setting"
    elif (
        _NAME.fullmatch(term)
        and "(`" not in gloss
        and not term.isupper()
        and (linked or names.is_known(words_of(term)[0]))
        and not _PAGE.search(term)
        and _NOUN.match(gloss)
        and not _is_somebody(term, gloss)
    ):
        yield f"What is {term}?", gloss, "listed_term"


def _is_somebody(term: str, gloss: str) -> bool:
    """Tell whether a term of several words is a person, by what the person does."""
    head = re.split(r" (?:of|for|at|by|in|on|to|who|behind) ", gloss)[0].lower()
    return " " in term and not _PEOPLE.isdisjoint(words_of(head))


def _defaults(term: str, said: str) -> Iterator[tuple[str, str, str]]:
    """Yield what a setting or an option is unless it is set."""
    if not (_PATH.fullmatch(term) or _OPTION.fullmatch(term)):
        return
    if default := _default(_DEFAULT, said):
        yield f"What does {term} default to?", default, "setting_default"
    elif default := _default(_DEFAULT_ZH, said):
        yield f"{term} 的默认值是什么？", default, "setting_default"


def _default(pattern: re.Pattern[str], said: str) -> str:
    """Return the one value that something has unless it is set, "" where there is none, or it depends."""
    stated = [(found, one) for one in _SENTENCE_END.split(said) for found in pattern.finditer(one)]
    if len(stated) != 1 or _CIRCUMSTANCE.search(_CODE_SPAN.sub("", stated[0][1])):
        return ""
    return next(value for value in stated[0][0].groups() if value)


def _of_member(term: str, gloss: str, said: str, holder: str) -> Iterator[tuple[str, str, str]]:
    """Yield what is said of a class's or function's member."""
    if _VERB.match(gloss):
        yield f"What does {term} do in `{holder}`?", gloss, "member"
    elif _NOUN.match(gloss):
        yield f"What is {term} in `{holder}`?", gloss, "member"
    if default := _default(_DEFAULT, said):
        yield f"What does {term} default to in `{holder}`?", default, "member_default"


def _gloss(said: str) -> str:
    """Return the first sentence of what is said about a term, "" where it is not whole or leans on something."""
    first = _FIRST.match(said if said.endswith(".") else said + ".")
    gloss = first[1].removesuffix(".") if first else ""
    if not 3 <= len(words_of(gloss)) <= LONGEST_GLOSS or _BROKEN.search(_CODE_SPAN.sub("", gloss)):
        return ""
    return gloss if understood(gloss, ("that", "which", "it", "its", "their", "whose"), definite=False) else ""


def glossed(document: str) -> Iterator[Stated]:
    """Yield what HTML's ``abbr`` and ``dfn`` say of their terms."""
    for found in _ABBR.finditer(document):
        if _initials(found[1]) == found[2].upper():
            yield Stated(f"What does {found[2]} stand for?", found[1], "abbreviation", *found.span())
    for found in _DFN.finditer(document):
        said, term = found[1].strip().removesuffix("."), found[2].strip()
        told = _NOUN.match(said) and understood(said, ("that", "which", "its"), definite=False)
        if told and 4 <= len(words_of(said)) <= LONGEST_GLOSS and re.fullmatch(r"[\w -]{3,40}", term):
            yield Stated(f"What is meant by “{term}”?", said, "gloss", *found.span())


def _initials(name: str) -> str:
    return "".join(word[0] for word in re.split(r"[\s-]+", name) if word and word not in _MINOR).upper()
