"""Scores of a predicted answer against accepted ones, each from 0 to 1; the best gold counts.

Normalisation is SQuAD's (https://rajpurkar.github.io/SQuAD-explorer/, evaluate-v2.0.py) as MLQA
extended it to other languages (facebookresearch/MLQA, mlqa_evaluation_v1.py): lower case, no
punctuation of any script, no English articles; a Chinese character is a word of its own. No gold at
all means that the right answer is to give none. Citation marks are the caller's to strip.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass

_ARTICLES = frozenset(("a", "an", "the"))
_CJK = re.compile(r"([\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff])")
_ASCII_PUNCTUATION = frozenset(string.punctuation)


def _is_punctuation(character: str) -> bool:
    return character in _ASCII_PUNCTUATION or unicodedata.category(character).startswith("P")


def _words(text: str) -> list[str]:
    lower = unicodedata.normalize("NFKC", text).lower()
    bare = "".join(character for character in lower if not _is_punctuation(character))
    return _CJK.sub(r" \1 ", bare).split()


def normalized_tokens(text: str) -> list[str]:
    """Return the words (Chinese: characters) of ``text`` that scores compare."""
    return [word for word in _words(text) if word not in _ARTICLES]


def exact_match(pred: str, golds: Sequence[str]) -> float:
    """Return 1 if the prediction equals a gold after normalisation, else 0."""
    tokens = normalized_tokens(pred)
    return float(any(tokens == normalized_tokens(gold) for gold in golds or ("",)))


def token_f1(pred: str, golds: Sequence[str]) -> float:
    """Return the harmonic mean of the precision and recall of words, order left aside."""
    tokens = normalized_tokens(pred)
    return max(_f1(tokens, normalized_tokens(gold)) for gold in golds or ("",))


def _f1(pred: list[str], gold: list[str]) -> float:
    if not pred or not gold:
        return float(pred == gold)
    common = (Counter(pred) & Counter(gold)).total()
    return 2 * common / (len(pred) + len(gold))


def rouge_l(pred: str, golds: Sequence[str]) -> float:
    """Return ROUGE-L's F1 (Lin 2004): by the longest common subsequence of words, articles kept."""
    tokens = _words(pred)
    return max(_rouge_l(tokens, _words(gold)) for gold in golds or ("",))


def _rouge_l(pred: list[str], gold: list[str]) -> float:
    if not pred or not gold:
        return float(pred == gold)
    lengths = [0] * (len(gold) + 1)
    for word in pred:
        diagonal = 0
        for i, other in enumerate(gold, 1):
            above = lengths[i]
            lengths[i] = diagonal + 1 if word == other else max(above, lengths[i - 1])
            diagonal = above
    return 2 * lengths[-1] / (len(pred) + len(gold))


def contains(pred: str, golds: Sequence[str]) -> float:
    """Return 1 if a gold stands in the prediction as a run of whole words, else 0."""
    tokens = normalized_tokens(pred)
    if not golds:
        return float(not tokens)
    return float(any(_holds(tokens, normalized_tokens(gold)) for gold in golds))


def _holds(tokens: list[str], wanted: list[str]) -> bool:
    starts = range(len(tokens) - len(wanted) + 1)
    return bool(wanted) and any(tokens[i : i + len(wanted)] == wanted for i in starts)


@dataclass(frozen=True, slots=True)
class CitationScores:
    """How well the cited passages match those that hold the answer, each from 0 to 1."""

    precision: float
    recall: float
    f1: float


def citation_scores(cited: Collection[Hashable], gold: Collection[Hashable]) -> CitationScores:
    """Score citations: precision is 0 if something should be cited and nothing is; 1 if neither.

    Args:
        cited: what the answer cites (passage numbers, say); repetitions do not count.
        gold: what holds the answer; recall is 1 if nothing does.
    """
    said, right = set(cited), set(gold)
    hits = len(said & right)
    precision = hits / len(said) if said else float(not right)
    recall = hits / len(right) if right else 1.0
    both = precision + recall
    return CitationScores(precision, recall, 2 * precision * recall / both if both else 0.0)
