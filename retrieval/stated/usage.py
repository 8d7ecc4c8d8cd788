"""Transformations of what English manuals say to their readers: "you can", "if you want to", "import … from".

As in ``retrieval.stated.definitions``; "you" becomes "I" in a question, where it cannot be taken for an object.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from retrieval.stated.clauses import LONGEST_ANSWER, Said, Transformation, ended, is_loose, negated
from retrieval.stated.phrases import Names, understood, words_of

LONGEST_TASK = 16
"""Words of what is to be done."""
ACTIONS = (
    "use|install|import|declare|create|define|add|set|run|pass|call|configure|return|enable|"
    "disable|write|specify|include|override|extend|build|deploy|start|stop|update|remove|delete|"
    "access|read|test|make|get|send|receive|handle|change|check|convert|generate|document|mount|"
    "inherit|customize|upgrade|restart|restore|back up|scale|migrate|monitor|view|connect|validate|"
    "serve|raise|upload|download|activate|exclude|hide|select|query|export|store|execute|modify|"
    "stream|mark|combine|mix|omit|secure|support|mock|reuse|debug|publish|pin|yield|provide|render|"
    "register|serialize|filter|break|host|ensure|prevent|avoid|allow|require|reduce|increase|improve|"
    "share|save|load|log|print|format|parse|sort|search|open|close|copy|move|rename|replace|split|"
    "merge|join|link|attach|bind|expose|inject|wrap|extract|apply|assign|encrypt|decrypt|hash|sign|"
    "verify|authenticate|authorize|manage|organize|schedule|trigger|submit|process|compute|evaluate|"
    "compare|measure|train|work with|interact with|implement|integrate|develop|simulate|embed|reset|"
    "clear|clone|commit|push|pull|tag|launch|cache|compress|rotate|shut down|switch|reload|fetch|"
    "drop|grant|revoke|limit|lock|unlock"
)
"""Verbs of what a reader can do."""
IN_ANSWER = frozenset({"you", "your", "that", "which", "it", "its", "them", "they", "one", "everything"})
"""Words that an answer may hold, since its question tells what they stand for."""
POINTING = re.compile(
    r"\b(?:saw|above|below|read more|learn more|chapter|next|earlier|later|here|example|tutorial|section|page|guide|"
    r"docs?|this|of course|explained|described|specified|corresponding|following|respective|probably|normally|exactly|"
    r"we|our|us|I|me|my)\b",
    re.I,
)
"""Words by which a statement points at its surroundings."""

_BREAKS_OFF = re.compile(
    r"\b(?:like|with|as|by|following|are|is|to|this|example|e\.g|and|or|via|using|in|for|follows)$"
)
_ADDRESSED = r"(?:(?:And|But|So) you|You)"
_DEED = (
    r"(?P<b>(?:you (?:can|could|should|have to|need to|must|just) |you |just |simply )?(?:(?:also|just|then) )?"
    rf"(?:{ACTIONS})\s+[^:]+)$"
)


def told(sentence: str) -> str:
    """Return what a sentence says, without the full stop, or the colon before an example; "" where it breaks off."""
    said = sentence[:-1].rstrip() if sentence.endswith((".", ":")) else ""
    return "" if _BREAKS_OFF.search(said) else said


_TO = re.compile(rf"(?:To|In order to)\s+(?P<a>(?:{ACTIONS})\s+[^,;:]+),\s+{_DEED}")
_WANTED = re.compile(
    rf"(?:If|When) you (?:want|need|have|would like|prefer) to (?P<a>(?:{ACTIONS})\s+[^;:]+?), (?:then )?{_DEED}"
)
_CAN_BY = re.compile(
    rf"{_ADDRESSED} can (?:also |easily )?(?P<a>(?:{ACTIONS})\s+[^,;:]+?),?\s+"
    r"(?P<b>(?:by\s+\w+ing|using|with the|via|through)\s+[^:]+)$"
)
_SET = re.compile(rf"(?P<b>(?:Set|Pass|Enable) [^,;:]+?) to (?P<a>(?:{ACTIONS})\s+[^:]+)$")

_BEFORE_THAT = re.compile(r"\b(?:first|install)\b")
"""In what has to be done before a task, which does not say how the task itself is done."""


def how_to(sentence: str, _names: Names) -> Said:
    """To A, you can B. → How do I A?"""
    found = _TO.match(told(sentence))
    if found and is_task(found["a"]) and is_deed(found["b"]) and not _BEFORE_THAT.search(found["b"]):
        yield f"How do I {mine(found['a'])}?", found["b"]


def how_can(sentence: str, _names: Names) -> Said:
    """If you want to A, you can B.; You can A by B-ing.; Set B to A. → How can I A?"""
    said = told(sentence)
    found = _WANTED.match(said) or _CAN_BY.match(said) or _SET.match(said)
    if found and is_task(found["a"]) and is_deed(found["b"]) and not _BEFORE_THAT.search(found["b"]):
        yield f"How can I {mine(found['a'])}?", found["b"]


_USE_TO = re.compile(rf"(?:{_ADDRESSED} can (?:also )?use|Use) (?P<b>[^,;:]+?) to (?P<a>(?:{ACTIONS})\s+[^:]+)$")
_FOR_USE = re.compile(
    r"For (?P<a>(?!example|instance|this|that|more|details)[^,;:]+), (?:you (?P<v>can|should) )?use (?P<b>[^:;,]+)$"
)


def what_to_use(sentence: str, _names: Names) -> Said:
    """You can use A to B. → What can I use to B?; For B, use A. → What should I use for B?"""
    found = _USE_TO.match(told(sentence)) or _FOR_USE.match(ended(sentence))
    if found is None or not is_task(found["a"]) or not is_deed(found["b"]):
        return
    said = found.groupdict()
    if "v" not in said:
        yield f"What can I use to {mine(found['a'])}?", found["b"]
    elif is_specific("for " + found["a"]):
        yield f"What {said['v'] or 'should'} I use for {mine(found['a'])}?", found["b"]


_IF_YOU_MAY = re.compile(
    r"(?:If|When) (?P<a>[^,;:]+), (?:then )?you (?P<v>can|need to|must|should|have to) (?:also |then )?"
    rf"(?P<b>(?:{ACTIONS})\s+[^:]+)$"
)
_FINITE = re.compile(r"you |.*\b(?:is|are|has|have|doesn't|don't|fails|exists|isn't|aren't)\b")
_WISHED = re.compile(r"you (?:want|would|wish|prefer|need)\b")


def what_to_do(sentence: str, _names: Names) -> Said:
    """If A, you can B. → What can I do if A?"""
    found = _IF_YOU_MAY.match(told(sentence))
    if found is None or _WISHED.match(found["a"]) or not _FINITE.match(found["a"]):
        return
    condition = re.sub(r"^you\b", "I", re.sub(r"^you are\b", "I am", found["a"]))
    if is_task(condition, denied=True) and is_specific("if " + condition) and is_deed(found["b"]):
        asked = {"need to": "do I need to", "have to": "do I have to"}.get(found["v"], f"{found['v']} I")
        yield f"What {asked} do if {mine(condition)}?", found["b"]


_RECOMMENDED = re.compile(r"If (?P<a>[^,;:]+), it is recommended (?P<b>(?:to|that you) [^:;]+)$")


def recommended(sentence: str, _names: Names) -> Said:
    """If A, it is recommended to B. → What is recommended if A?"""
    found = _RECOMMENDED.match(ended(sentence))
    if found and is_task(found["a"]) and is_specific("if " + found["a"]) and is_deed(found["b"]):
        yield f"What is recommended if {mine(found['a'])}?", found["b"]


_IF_YOU = re.compile(
    r"(?P<w>If|When) you (?P<a>(?:don't )?"
    r"(?!want|need|would|prefer|look|see|know|think|care|feel|saw|already|go|come)[a-z]+\s+[^,;:]+), (?P<b>[^:;]+)$"
)
_OUTCOME = re.compile(
    r"(?:the\s+)?(?:`[^`]+`|[A-Z]\w+)(?:\s+\w+)?\s+(?:will|won't|would|is|are|does|doesn't)\b|(?:it|they) will\b|"
    r"(?:the|your|all|an?) [\w `-]{2,40}? (?:will|won't|is|are)\b"
)


def what_if(sentence: str, _names: Names) -> Said:
    """If you A, X will B. → What happens if I A?"""
    found = _IF_YOU.match(ended(sentence))
    if found is None or not _OUTCOME.match(found["b"]) or POINTING.search(found["b"]):
        return
    if not is_task(found["a"], denied=True):
        return
    if understood(found["b"], IN_ANSWER, definite=False) and len(words_of(found["b"])) <= LONGEST_ANSWER:
        yield f"What happens {found['w'].lower()} I {mine(found['a'])}?", found["b"]


_NEEDLESS = re.compile(
    rf"{_ADDRESSED} (?P<v>don't have to|do not have to|don't need to|do not need to|can't|cannot|can not|shouldn't|"
    rf"should not|must not) (?P<a>(?:{ACTIONS})\s+[^:;]+)$"
)
_ASKED = {"hav": "Do I have to", "nee": "Do I need to", "can": "Can I", "sho": "Should I", "mus": "May I"}


def whether_to(sentence: str, _names: Names) -> Said:
    """You don't have to A. → Do I have to A?; You shouldn't A. → Should I A?"""
    found = _NEEDLESS.match(ended(sentence))
    if found and is_task(found["a"]) and is_deed(found["a"]):
        asked = _ASKED[found["v"].removeprefix("don't ").removeprefix("do not ")[:3]]
        yield f"{asked} {mine(found['a'])}?", sentence


_IMPORTED = re.compile(
    r"\bimport (?:the )?(?P<a>`@?[A-Za-z_]\w*(?:\(\))?`)(?: \w+)?(?: directly)? from (?P<b>`[a-z][\w.]*`)"
)


def imported_from(sentence: str, _names: Names) -> Said:
    """… import `A` (directly) from `b` … → Where can I import `A` from?"""
    for found in _IMPORTED.finditer(sentence):
        yield f"Where can I import {found['a']} from?", found["b"]


_INSTALL = re.compile(
    r"(?:To|In order to|If you (?:want|need) to) (?P<a>[^,;:]+), "
    r"(?:(?:you|we) (?:first )?(?:need to|have to|must|should) )?(?:first )?install (?P<b>[^,;:]+)$"
)
_INSTALLED = re.compile(
    r"(?:You|We) (?:first )?(?:need to|have to|must) (?:first )?install (?P<b>[^,;:]+?) to (?P<a>[a-z]+ [^,;:]+)$"
)
_HOW = r"(?:first|too|again|afterwards|beforehand|yourself|now|then|\w+ly)\b"
_PACKAGE = re.compile(
    rf"(?:the )?(?:`[\w.\[\],-]+`|[A-Z][\w.-]*)(?: (?!{_HOW})\w+)?(?:,? and (?:`[\w.\[\],-]+`|[A-Z][\w.-]*))?"
)


def what_to_install(sentence: str, _names: Names) -> Said:
    """To A, first install B. → What do I need to install to A?"""
    said = ended(sentence)
    found = _INSTALL.match(said) or _INSTALLED.match(said)
    if found and _PACKAGE.fullmatch(found["b"]) and is_task(found["a"], fewest=2) and is_specific("to " + found["a"]):
        yield f"What do I need to install to {mine(found['a'])}?", found["b"]


_NO_TASK = re.compile(r"\byou\b|\byourself\b|e\.g\.|[()“”\"]")


def is_task(task: str, *, denied: bool = False, fewest: int = 3) -> bool:
    """Tell whether what is to be done can be asked about by itself; ``denied`` lets a condition hold a "not"."""
    if (
        not fewest <= len(words_of(task)) <= LONGEST_TASK
        or POINTING.search(task)
        or is_loose(task)
        or _NO_TASK.search(task)
    ):
        return False
    return understood(task, ("your", "that"), compound=True) and (denied or not negated(task))


def mine(task: str) -> str:
    """Return a task as the one says it who has it."""
    return re.sub(r"\byour\b", "my", task)


def is_deed(deed: str) -> bool:
    """Tell whether an answer says by itself what is to be done, and names something: a name or code."""
    if len(words_of(deed)) > LONGEST_ANSWER or POINTING.search(deed) or not is_specific(deed):
        return False
    return understood(deed, IN_ANSWER, definite=False)


def is_specific(phrase: str) -> bool:
    """Tell whether a phrase has a name or code in it, its first word aside."""
    named = (word for place, word in enumerate(words_of(phrase)) if word[0] == "`" or (place and word[0].isupper()))
    return any(word != "I" for word in named)


USAGE: Mapping[str, Transformation] = {
    run.__name__: run
    for run in (
        how_to,
        how_can,
        what_to_use,
        what_to_do,
        recommended,
        what_if,
        whether_to,
        what_to_install,
        imported_from,
    )
}
