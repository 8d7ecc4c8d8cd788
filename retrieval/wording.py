"""What can be told from the wording of a question, an answer and a passage alone, in English and Chinese.

Knows nothing of models, stores or indexes. The word lists err on the side of refusing: a refused
question costs one more sample, a bad one costs a training row.
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from data.prompt import language

_HAN = r"\u3400-\u9fff\uf900-\ufaff"
_WORDS = re.compile(rf"[^\W_{_HAN}]+(?:['’][^\W\d_]+)?|[{_HAN}]")
_HAN_RUN = re.compile(rf"[{_HAN}]+")
_EDGE = " \t\r\n.,;:!?\"'“”‘’。，；：！？、《》「」"

_SOURCE_WORDS = r"(?:passage|text|article|paragraph|section|document|excerpt|sentence|chapter|page|extract|snippet)"
_POINTS_AT_SOURCE_EN = re.compile(
    rf"\b(?:this|these|above|given|following|preceding|aforementioned|provided)\s+{_SOURCE_WORDS}s?\b"
    rf"|\b(?:according\s+to|in|by|from)\s+the\s+{_SOURCE_WORDS}\b(?!\s+of\b)"
    r"|\bthe\s+(?:passage|excerpt|snippet)\b"
    r"|\bthe\s+(?:author|writer|speaker|narrator)\b(?!\s+of\b)"
    r"|\bthe\s+(?:text|article)\s+(?:say|mention|state|describe|discuss)",
    re.IGNORECASE,
)
_POINTS_AT_SOURCE_ZH = re.compile(
    r"这篇|[该此这本]文(?![化明字献学])|(?<![英中语原国法日德])文中|上文|下文|前文|原文|短文|这段|本段|该段|上述|段落|"
    r"(?<!的)作者(?!是谁)|(?:资料|材料|文章)(?:中|里|说|提|指出|认为|显示|讲|的?作者)"
)
_FUNCTION_WORD_LIST = """
a an and any are as at be been being between but by can could did do does done during each for from had has
have how if in into is it's may might more most much many must no not of off on one or other out over own
shall should so some such than that the then there to under up upon was were what what's when where which
while who who's whom whose why will with would about after against all also among because before both called
happen happened happens made make used use get got go went come came take took place name named known kind
type sort year date time day number amount percent percentage person people thing things way main first last i
you we us our your my me he she they it him her them his hers their its theirs himself herself itself
themselves this these those
"""
FUNCTION_WORDS = frozenset(_FUNCTION_WORD_LIST.split())
"""English words that carry no meaning of their own."""
_PRONOUN_LIST = """
he she they him her them his hers their theirs its himself herself itself themselves this these those
"""
_PRONOUNS = frozenset(_PRONOUN_LIST.split())
_EXPLETIVE_IT = re.compile(
    r"\bit\s+(?:takes?|took|means?|meant|costs?|possible|important|necessary|true|called|said|thought|believed|known|"
    r"estimated|to|that)\b",
    re.IGNORECASE,
)
_DANGLING_ZH = re.compile(
    r"他们|她们|它们|(?<!其)他(?!人)|她|它|(?<![应尤极马])其(?![他中实余次间])|(?<!应)该(?!不)|(?<![因彼从如在])此(?![外前后时])|"
    r"这(?=[个些种位座条部项次一名家所两])"
)
_ANTECEDENT_ZH = re.compile(r"什么|哪[个些里年位种一]?|谁|何时?|多少|几|请问|是|在|的|了|有|和|与|为|于")
_SENTENCE_START = re.compile(r"(?:^|[.!?:]\s+|\n\s*)$")

# A chunk may begin or end inside of a fence: what follows the last mark without a partner is taken for code.
_FENCED = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1[^\S\n]*$|\Z)", re.MULTILINE | re.DOTALL)
_MARKUP = re.compile(
    r"<[^<>\n]+>|\{[{%#*][^\n]*?[}%#*]\}|\{ ?[#.][^{}\n]*\}|https?://[^\s)>]+|^[ \t]*(?:/{3,}|:{3,}).*$", re.M
)
FEWEST_WORDS = 8
"""Words (Chinese: characters) below which a passage is a heading, a caption or code."""

MAX_SPAN_WORDS = 12
MAX_SPAN_HAN = 30


def normalised(text: str) -> str:
    """Return ``text`` in NFKC, lower case, with runs of whitespace as one blank."""
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def terms(text: str) -> list[str]:
    """Split into lower-case words; each Chinese character is a term of its own."""
    return _WORDS.findall(normalised(text).replace("’", "'"))


def stretch_of(answer: str, text: str) -> str | None:
    """Return the stretch of ``text`` that reads as ``answer``, its whitespace made single, or None if none does."""
    span = span_of(answer, text)
    return " ".join(text[span[0] : span[1]].split()) if span else None


def span_of(answer: str, text: str) -> tuple[int, int] | None:
    """Return where ``answer`` first stands in ``text`` as (start, end) in characters, or None if it does not.

    Case, runs of whitespace and punctuation at the answer's ends do not count; an alphanumeric
    answer must begin and end at word boundaries ("art" does not stand in "party").
    """
    words = answer.strip(_EDGE).split()
    if not terms(answer):
        return None
    # Ends are looked at here and not by the pattern, which would have to be compiled with a class that leaves out all
    # Han characters: some milliseconds for each answer.
    pattern = re.compile(r"\s+".join(map(re.escape, words)), re.IGNORECASE)
    first, last = _is_word_letter(words[0][0]), _is_word_letter(words[-1][-1])
    found = pattern.search(text)
    while found is not None:
        start, end = found.span()
        inside = first and start > 0 and _is_word_letter(text[start - 1])
        if not inside and not (last and end < len(text) and _is_word_letter(text[end])):
            return start, end
        found = pattern.search(text, start + 1)
    return None


def _is_word_letter(character: str) -> bool:
    return character.isalnum() and not _HAN_RUN.match(character)


def is_short(answer: str) -> bool:
    """Tell whether an answer is short enough for a span: at most 12 words, or 30 Chinese characters."""
    if language(answer) == "zh":
        return len(terms(answer)) <= MAX_SPAN_HAN
    return len(answer.split()) <= MAX_SPAN_WORDS


def points_at_source(question: str) -> str | None:
    """Return the words by which a question points at the text it was made from, or None."""
    pattern = _POINTS_AT_SOURCE_ZH if language(question) == "zh" else _POINTS_AT_SOURCE_EN
    match = pattern.search(question)
    return match.group() if match else None


def dangling_reference(question: str) -> str | None:
    """Return what makes a question unintelligible on its own, or None.

    That is a pronoun or demonstrative with nothing before it that it could stand for, or a question
    without any word that carries a subject.
    """
    return _dangling_zh(question) if language(question) == "zh" else _dangling_en(question)


def _dangling_en(question: str) -> str | None:
    words = terms(question)
    content = [i for i, word in enumerate(words) if word not in FUNCTION_WORDS and len(word) > 1]
    if not content:
        return "no subject"
    if len(content) == 1 and "the" in words and not _has_anchor(question):
        return "no subject"
    for i, word in enumerate(words):
        if word in _PRONOUNS and content[0] > i:
            return word
    if "it" in words and content[0] > words.index("it") and not _EXPLETIVE_IT.search(question):
        return "it"
    return None


def _has_anchor(question: str) -> bool:
    """Tell whether a question holds a name, a number or a quotation: something to hold on to."""
    inner = question.split(maxsplit=1)[-1]
    return bool(re.search(r"[A-Z]|\d|[\"“`]", inner))


def _dangling_zh(question: str) -> str | None:
    match = _DANGLING_ZH.search(question)
    if match:
        before = _ANTECEDENT_ZH.sub("", question[: match.start()])
        if not _WORDS.search(before):
            return match.group()
    rest = _ANTECEDENT_ZH.sub("", _DANGLING_ZH.sub("", question))
    return None if len("".join(_WORDS.findall(rest))) >= 2 else "no subject"


_ENDINGS = ("ing", "ies", "ed", "es", "'s", "s", "e")


def han_bigrams(text: str) -> set[str]:
    """Return every two Chinese characters that stand together."""
    return {run[i : i + 2] for run in _HAN_RUN.findall(text) for i in range(len(run) - 1)}


def content_stems(text: str) -> frozenset[str]:
    """Return the stems of words that carry meaning; of Chinese, every two characters that stand together."""
    words = (word for word in terms(text) if word not in FUNCTION_WORDS and (len(word) > 1 or word.isdigit()))
    return frozenset({_stem(word) for word in words} | han_bigrams(text))


@lru_cache(maxsize=1 << 14)  # words of passages come again and again
def _stem(word: str) -> str:
    """Return a word without the commonest English endings: "ended" and "ends" are to meet "end"."""
    if word.isascii():
        for ending in _ENDINGS:
            if word.endswith(ending) and len(word) - len(ending) >= 3:
                return word[: -len(ending)]
    return word


def prose(text: str) -> str:
    """Return ``text`` without fenced code, tags, template marks and addresses: what is said in words."""
    said = _FENCED.sub(" ", text)
    return _MARKUP.sub(" ", said)


def says_something(text: str) -> bool:
    """Tell whether a passage has words enough to be asked about: code and markup alone have not."""
    return len(terms(prose(text))) >= FEWEST_WORDS


def information(text: str) -> int:
    """Count what a passage can be asked about: distinct names, numbers and long words; Chinese bigrams by half."""
    found: set[str] = set()
    for match in re.finditer(rf"[^\W_{_HAN}]+", text):
        word = match.group()
        opens_sentence = _SENTENCE_START.search(text[max(0, match.start() - 3) : match.start()])
        named = word[0].isupper() and not opens_sentence
        if named or word[0].isdigit() or len(word) >= 8:
            found.add(word.lower())
    return len(found) + len(han_bigrams(text)) // 2
