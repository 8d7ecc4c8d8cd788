"""Whether an English phrase can be understood where it is asked about, without what was said before it.

Told by its words alone and by how the document writes them: a name is a word that it writes with a capital inside of
sentences and never without. Errs on the side of refusing. Knows nothing of questions.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable

from retrieval.stated.words import GENERIC, NO_NOUNS, OPENERS, PRONOUNS

LONGEST_SUBJECT = 7
"""Words of a subject, articles included."""
FEWEST_MENTIONS = 5
"""A single name is taken for known to the reader if the document says it so often, or its title does."""

_WORD = re.compile(r"`[^`]+`|[^\W_][\w’'.+/&-]*[\w+]|[^\W_]")
_INSIDE = re.compile(r"(?<=[\w,;)’”\"'`] )[\"“(]?([^\W\d_][\w’'-]*)")
_SMALL_WORDS = "of the and de van von der la le du in for on at"
_SMALL = frozenset(_SMALL_WORDS.split())
_CLASS = re.compile(
    r"`(?:@?[a-z]\w*\.)*@?[A-Z]+[a-z0-9]+[A-Za-z0-9]*(?:\(\))?`|`--[a-z][a-z-]+`|`@?[a-z]\w*(?:\.\w+)+(?:\(\))?`|`@\w+`"
)
_ONLY_ONE = """
world first last only largest smallest oldest youngest highest lowest earliest latest most least
same sun moon earth sea sky internet web early late mid
"""
_UNIQUE = frozenset(_ONLY_ONE.split())
_RELATION_WORDS = """
in to on at by for and with from as or that of which when if than is are used into
"""
_RELATIONS = frozenset(_RELATION_WORDS.split())
_ARTICLES = ("the ", "a ", "an ")


class Names:
    """How a document writes its words: which are names, and how often each is said."""

    def __init__(self, title: str, text: str) -> None:
        """Count the words inside of the document's sentences."""
        self.title = title
        self.text = text
        inside = _INSIDE.findall(text)
        self._upper = Counter(word.lower() for word in inside if word[0].isupper())
        self._lower = Counter(word for word in inside if word[0].islower())
        self._title = set(_WORD.findall(title.lower()))
        self._parts = [words for part in re.split(r"[,(–—:|]", title.lower()) if (words := _WORD.findall(part))]
        self._said = Counter(word.lower().removesuffix("'s").removesuffix("’s") for word in _WORD.findall(text))

    def is_name(self, word: str) -> bool:
        """Tell whether a word that stands at the head of a sentence is a name: capitals inside of it, or elsewhere."""
        if any(letter.isupper() for letter in word[1:]):
            return True
        small = word.lower().removesuffix("'s").removesuffix("’s")
        return word[:1].isupper() and self._upper[small] > 0 and 4 * self._lower[small] <= self._upper[small]

    def is_common(self, word: str) -> bool:
        """Tell whether the document writes a word without a capital where it may."""
        return self._lower[word.lower()] > 0 and not any(letter.isupper() for letter in word[1:])

    def is_known(self, word: str) -> bool:
        """Tell whether a single name needs no introduction here."""
        small = word.lower().strip("`").removesuffix("'s").removesuffix("’s")
        if word[:1] == "`" or any(letter.isupper() for letter in word[1:]):
            return True
        if any(small == first and len(rest) > 0 for first, *rest in self._parts):
            return False  # the beginning of a longer name
        return small in self._title or self._said[small] >= FEWEST_MENTIONS

    def is_ambiguous(self, name: str) -> bool:
        """Tell whether the document's title tells a name from others: by what it adds in brackets, or by more words.

        "Ali (film)" says that Ali alone is not enough; of "Ross Richie", "Richie" is a part.
        """
        bare = name.lower().removeprefix("the ")
        head, bracket, _ = self.title.lower().partition("(")
        if bracket and bare == head.strip().removeprefix("the "):
            return True
        return any([bare] != words and bare in words for words in self._parts)


def is_code_name(word: str) -> bool:
    """Tell whether code names a class, an option or a member: other identifiers are an example's own."""
    return _CLASS.fullmatch(word) is not None


def is_plain_code(word: str) -> bool:
    """Tell whether code is one capitalized word, which may be a class, and may be a value."""
    return re.fullmatch(r"`[A-Z][a-z0-9]+`", word) is not None


def words_of(phrase: str) -> list[str]:
    """Return the words of a phrase; a stretch of code is one."""
    return _WORD.findall(phrase)


def named_subject(phrase: str, names: Names, *, known: bool = True) -> str | None:
    """Return the subject of a sentence as a question says it, None unless it names something by itself.

    That is a name (with an article, with common nouns around it), or a class or option in code. ``known`` asks that a
    single name be known from the document.
    """
    words = _subject_words(phrase)
    if not words:
        return None
    article = phrase.lower().startswith(_ARTICLES)
    rest = words[1:] if article else words
    opens = not article and names.is_name(words[0])
    capital = [w for i, w in enumerate(rest) if w[0].isupper() and (i or article or opens)]
    if len(rest) == 1 or not article:  # "the generated `x`" is one among others
        capital += [w for w in rest if is_code_name(w)]
    telling = [w for w in capital if w.lower() not in GENERIC]
    common = [w for w in rest if w not in capital and w.lower() not in _SMALL]
    if not telling or len(common) > 1 or (not article and rest[0] not in capital):
        return None
    if article and phrase.lower().startswith(("a ", "an ")):
        return None
    if known and len(rest) == 1 and not names.is_known(rest[0]):
        return None
    return _lowered(phrase) if article else phrase


def _subject_words(phrase: str) -> list[str]:
    """Return the words of what may be a subject, [] where it is too long or more than a noun phrase."""
    words = words_of(phrase)
    if not words or len(words) > LONGEST_SUBJECT or re.search(r"[,;:!?\"“”()—–/=]|\s-\s", phrase):
        return []
    first = words[0].lower()
    if (first in OPENERS and first != "a") or first in PRONOUNS or re.fullmatch(r"\w+(?:ly|ing)", first):
        return []
    if any(
        word.lower() in NO_NOUNS or word.lower() in PRONOUNS or word.lower().removesuffix("s'") in PRONOUNS
        for word in words
    ):
        return []
    if re.match(r"the [a-z]+['’]s\b", phrase, re.I) and not phrase[4].isupper():
        return []  # "the city's hospital"
    if any(word.endswith("ly") and word.islower() for word in words):
        return []
    return words if words_of(phrase)[-1].lower() not in _SMALL else []


def term_subject(phrase: str, names: Names) -> str | None:
    """Return a subject that may be defined: a name, or a bare common noun of at most three words."""
    if named := named_subject(phrase, names, known=False):
        return named
    words = _subject_words(phrase)
    indefinite = phrase.lower().startswith(("a ", "an "))
    rest = words[1:] if indefinite else words
    if not rest or len(rest) > 3 or phrase.lower().startswith("the ") or "`" in phrase:
        return None
    if any(word[0].isupper() for word in rest[0 if indefinite else 1 :]) or not all(w[0].isalpha() for w in rest):
        return None
    if not indefinite and not names.is_common(rest[0]):
        return None
    return _lowered(phrase)


def _lowered(phrase: str) -> str:
    return phrase[0].lower() + phrase[1:]


def understood(phrase: str, allowed: Iterable[str] = (), *, definite: bool = True, compound: bool = False) -> bool:
    """Tell whether a phrase leans on nothing outside of it: no pronoun, and no "the" without a name to tell which.

    Args:
        phrase: what is asked about, or said.
        allowed: pronouns that have something to stand for.
        definite: look at what each "the" stands for; in an answer the question may have told.
        compound: take a "the" with two words behind it for told ("the response description").
    """
    words = words_of(phrase)
    small = [word.lower() for word in words]
    if any(re.fullmatch(r"(?:it|he|she|that|there|they|we|you|i)['’](?:s|re|ve|ll|d|m)", word) for word in small):
        return False
    permitted = set(allowed)
    if any(word in PRONOUNS and word not in permitted for word in small):
        return False
    articles = [place for place, word in enumerate(small) if word == "the"] if definite else []
    return all(_anchored(words, small, place) or (compound and _compound(small, place)) for place in articles)


def _compound(small: list[str], place: int) -> bool:
    following = small[place + 1 : place + 3]
    return len(following) == 2 and not any(
        word in _RELATIONS or len(word) < 3 or word.endswith("ly") for word in following
    )


def _anchored(words: list[str], small: list[str], place: int) -> bool:
    """Tell whether the noun phrase after a "the" says which: by a name, by "of", or by being the only one."""
    following = list(zip(words[place + 1 : place + 6], small[place + 1 : place + 6], strict=True))
    if not following:
        return False
    if following[0][1] in _UNIQUE or following[0][1].endswith("est") or following[0][0][0].isdigit():
        return True
    for word, low in following:
        if word[0].isupper() and low not in GENERIC:
            return True
        if low == "of":
            return True
        if low in _RELATIONS:
            return False
    return False
