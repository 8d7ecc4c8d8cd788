"""Which passage an answer in free words rests on: the one that has most of what it says.

An answer in a house's style repeats no stretch of a passage, so its words are looked for one by one; those that the
house uses in most of its answers say nothing of facts. Knows nothing of models or of what is trained.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from data.records import Passage
from retrieval.wording import FUNCTION_WORDS, han_bigrams, terms

SHARED = 0.3
"""A word in this share of a house's answers is the house's, not a fact's (as ``data.style`` counts phrases)."""
FEWEST_ANSWERS = 8
"""Below this no word is taken for the house's."""
LEAST_SUPPORT = 0.5
"""Share of what an answer says that a passage must have, see bench/RESULTS.md."""


class Evidence:
    """Looks answers up in passages.

    Args:
        answers: all of the house's answers: what most of them share is left out of account.
    """

    def __init__(self, answers: Iterable[str]) -> None:
        said = [_said(answer) for answer in answers]
        counts = Counter(word for words in said for word in words)
        enough = len(said) >= FEWEST_ANSWERS
        self._house = {word for word, count in counts.items() if enough and count >= SHARED * len(said)}

    def states_facts(self, answer: str) -> bool:
        """Tell whether an answer says anything beyond the house's own words."""
        return bool(_said(answer) - self._house)

    def number_of(self, answer: str, passages: Sequence[Passage]) -> int | None:
        """Return the number (from 1) of the passage that an answer rests on, None if it rests on none of them."""
        said = _said(answer) - self._house
        shares = [len(said & _said(passage.chunk.text)) / len(said) for passage in passages] if said else []
        best = max(shares, default=0.0)
        return shares.index(best) + 1 if best >= LEAST_SUPPORT else None


def _said(text: str) -> frozenset[str]:
    """Return the words that carry meaning; of Chinese, every two characters that stand together."""
    words = {word for word in terms(text) if word not in FUNCTION_WORDS and (len(word) > 1 or word.isdigit())}
    return frozenset(words | han_bigrams(text))
