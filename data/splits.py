"""Train/evaluation splits that do not leak: whole documents change sides, near-duplicates are found.

Knows nothing of where rows come from; the caller says which document a row belongs to and which
question it asks.
"""

from __future__ import annotations

import hashlib
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from data.errors import InvalidRequest, SplitLeak

_T = TypeVar("_T")
_DIGITS = re.compile(r"\d+")
_CJK = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]")

NEAR_DUPLICATE = 0.8
"""Jaccard similarity of shingles from which two questions count as the same.

The usual threshold of text deduplication (Lee et al. 2022, arXiv:2107.06499, use 0.8 of 5-grams on
documents). Shingles are character trigrams because questions are short, and bigrams where there are
Chinese characters because those questions are shorter still.
"""


@dataclass(frozen=True, slots=True)
class Split(Generic[_T]):
    """Rows to train on and rows to evaluate on."""

    train: list[_T]
    evaluation: list[_T]


def split_by_document(
    pairs: Sequence[_T],
    document_of: Callable[[_T], str | Iterable[str]],
    eval_share: float,
    seed: int,
) -> Split[_T]:
    """Split rows so that no document has rows on both sides; the order of rows is kept.

    Documents that share a row stay together. The choice depends on the documents' names and the
    seed alone, not on the order of the rows. With two groups of documents or more and a share
    strictly between 0 and 1, both sides get rows.

    Args:
        pairs: any rows.
        document_of: the id (or ids) of the document a row is about.
        eval_share: wanted share of rows for evaluation, 0 to 1; met as closely as documents allow.
        seed: another seed, another choice.

    Raises:
        InvalidRequest: the share is not from 0 to 1, or a row has no document.
    """
    if not 0 <= eval_share <= 1:
        raise InvalidRequest("Invalid evaluation share.", got=eval_share, wanted="a number from 0 to 1")
    groups = _groups([_documents(row, document_of) for row in pairs])
    sizes = Counter(groups)
    order = sorted(sizes, key=lambda name: hashlib.sha256(f"{seed}\x00{name}".encode()).digest())
    chosen = _choose(order, sizes, eval_share)
    split: Split[_T] = Split([], [])
    for row, group in zip(pairs, groups, strict=True):
        (split.evaluation if group in chosen else split.train).append(row)
    return split


def _documents(row: _T, document_of: Callable[[_T], str | Iterable[str]]) -> list[str]:
    found = document_of(row)
    names = [found] if isinstance(found, str) else sorted(found)
    if not names:
        raise InvalidRequest("A row without a document cannot be split by document.", got=row)
    return names


def _groups(rows: Sequence[list[str]]) -> list[str]:
    """Return for each row the smallest name among all documents connected to its own (union-find)."""
    parent: dict[str, str] = {}

    def root(name: str) -> str:
        parent.setdefault(name, name)
        while parent[name] != name:
            parent[name] = parent[parent[name]]
            name = parent[name]
        return name

    for names in rows:
        for other in names:
            first, second = sorted((root(names[0]), root(other)))
            parent[second] = first
    return [root(names[0]) for names in rows]


def _choose(order: Sequence[str], sizes: Counter[str], eval_share: float) -> set[str]:
    wanted = eval_share * sizes.total()
    if eval_share == 1:
        return set(order)
    chosen: set[str] = set()
    held = 0
    for name in order:
        # A group joins if that brings the count nearer to what is wanted.
        if held < wanted and held + sizes[name] - wanted <= wanted - held:
            chosen.add(name)
            held += sizes[name]
    if eval_share > 0 and len(order) > 1:
        if not chosen:
            chosen.add(min(order, key=lambda name: sizes[name]))
        elif len(chosen) == len(order):
            chosen.discard(order[-1])
    return chosen


def _normalized(question: str) -> str:
    lower = unicodedata.normalize("NFKC", question).lower()
    return " ".join("".join(c if c.isalnum() else " " for c in lower).split())


def _shingles(text: str) -> frozenset[str]:
    padded = f" {text} "
    size = 2 if _CJK.search(text) else 3
    return frozenset(padded[i : i + size] for i in range(max(1, len(padded) - size + 1)))


class QuestionIndex:
    """Finds near-duplicates of questions among those added, without comparing each with each.

    Two questions are near-duplicates if the Jaccard similarity of their character shingles reaches
    the threshold and they hold the same numbers ("in 2019" and "in 2020" ask different things).
    The search is exact (prefix filter of Chaudhuri et al. 2006): of two sets that similar, the
    first few elements in any fixed order must have one in common.
    """

    def __init__(self, threshold: float = NEAR_DUPLICATE) -> None:
        if not 0 < threshold <= 1:
            raise InvalidRequest("Invalid similarity threshold.", got=threshold, wanted="over 0, up to 1")
        self._threshold = threshold
        self._entries: list[tuple[frozenset[str], tuple[str, ...], Any]] = []
        self._by_shingle: defaultdict[str, list[int]] = defaultdict(list)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, question: str, row: Any = None) -> None:
        """Add a question; ``row`` (the question itself, if None) is what ``match`` returns for it."""
        text = _normalized(question)
        shingles = _shingles(text)
        for shingle in self._prefix(shingles):
            self._by_shingle[shingle].append(len(self._entries))
        self._entries.append((shingles, _numbers(text), question if row is None else row))

    def match(self, question: str) -> Any | None:
        """Return the row of the most similar near-duplicate (the first of equals), None if none is."""
        return max(self._similar(question), key=lambda found: found[0], default=(0.0, None))[1]

    def matches(self, question: str) -> list[Any]:
        """Return the rows of all near-duplicates, in the order in which they were added."""
        return [row for _, row in self._similar(question)]

    def _similar(self, question: str) -> Iterator[tuple[float, Any]]:
        text = _normalized(question)
        shingles, numbers = _shingles(text), _numbers(text)
        candidates = {number for shingle in self._prefix(shingles) for number in self._by_shingle.get(shingle, ())}
        for number in sorted(candidates):
            other, its_numbers, row = self._entries[number]
            if its_numbers == numbers:
                common = len(shingles & other)
                similarity = common / (len(shingles) + len(other) - common)
                if similarity >= self._threshold:
                    yield similarity, row

    def _prefix(self, shingles: frozenset[str]) -> list[str]:
        # Sorted by a hash: alphabetical order would put every question's "what is" first.
        order = sorted(shingles, key=lambda shingle: hashlib.blake2b(shingle.encode(), digest_size=8).digest())
        return order[: len(order) - math.ceil(self._threshold * len(order)) + 1]


def _numbers(text: str) -> tuple[str, ...]:
    return tuple(sorted(_DIGITS.findall(text)))


def _question_of(row: Any) -> str:
    return row if isinstance(row, str) else str(row.question)


def split_without_leaks(
    rows: Sequence[_T],
    document_of: Callable[[_T], str | Iterable[str]],
    eval_share: float,
    seed: int,
    question_of: Callable[[Any], str] = _question_of,
) -> Split[_T]:
    """Split rows as ``split_by_document`` does, and keep documents together that ask (nearly) the same.

    No row is lost. Where that leaves a side empty that documents alone would have filled, the rows that
    tie the documents together have to be told apart first.

    Args:
        rows: any rows.
        document_of: the id (or ids) of the document a row is about.
        eval_share: wanted share of rows for evaluation, 0 to 1.
        seed: another seed, another choice.
        question_of: gives a row's question, for rows without ``question``.

    Raises:
        InvalidRequest: the share is not from 0 to 1, or a row has no document.
        SplitLeak: near-duplicates leave no two sides; two such rows are named.
    """
    documents = [_documents(row, document_of) for row in rows]
    index = QuestionIndex()
    alike: list[tuple[int, int]] = []
    for number, row in enumerate(rows):
        alike += [(other, number) for other in index.matches(question_of(row))]
        index.add(question_of(row), number)
    together = [set(names) for names in documents]
    for first, second in alike:
        together[second] |= together[first]
    split = split_by_document(range(len(rows)), lambda number: together[number], eval_share, seed)
    if 0 < eval_share < 1 and not (split.train and split.evaluation):
        for first, second in alike:
            if not set(documents[first]) & set(documents[second]):
                raise _leak(rows[first], rows[second], question_of)
    return Split([rows[number] for number in split.train], [rows[number] for number in split.evaluation])


def assert_disjoint(
    train: Iterable[Any],
    evaluation: Iterable[Any],
    question_of: Callable[[Any], str] = _question_of,
    threshold: float = NEAR_DUPLICATE,
) -> None:
    """Check that no train question is a near-duplicate of an evaluation question.

    Args:
        train: rows with a ``question``, or strings.
        evaluation: likewise.
        question_of: gives a row's question, for other rows.
        threshold: Jaccard similarity of character shingles, over 0, up to 1.

    Raises:
        SplitLeak: one is; both rows are named.
    """
    index = QuestionIndex(threshold)
    for row in evaluation:
        index.add(question_of(row), (row,))
    for row in train:
        found = index.match(question_of(row))
        if found is not None:
            raise _leak(row, found[0], question_of)


def _leak(row: Any, other: Any, question_of: Callable[[Any], str]) -> SplitLeak:
    return SplitLeak(
        "A train row and an evaluation row ask (nearly) the same.",
        got=f"{_name(row, question_of(row))} and {_name(other, question_of(other))}",
        wanted="questions on one side only",
        hint="Reject or edit one of them (ragtune pairs reject ID), or split again by document.",
    )


def _name(row: Any, question: str) -> str:
    identity = getattr(row, "id", None)
    return f"{question!r}" if identity is None else f"{identity} {question!r}"
