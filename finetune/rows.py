"""Examples to rows of tokens: one shared context, many question branches, loss on completions only.

An example is any conversation with the completion the model should give. Examples that begin alike
(the same passages under different questions) are packed into one row: the common beginning once,
then one branch per example. Text is tokenized segment by segment, exactly as the engine does, so
training sees the tokens that serving sees. Knows nothing of retrieval, torch or files.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from data.errors import InvalidModel, InvalidRequest
from data.prompt import ABSTENTION, answer_messages, cite, language, passage_labels, render
from data.records import Message, Passage, Segment


class Tokenizer(Protocol):
    """What rows need of a model's tokenizer."""

    @property
    def bos_token(self) -> str:
        """The text of the beginning-of-sequence token, "" if there is none."""

    @property
    def eos_token(self) -> str:
        """The text of the end token, "" if there is none."""

    def encode(self, text: str, *, markup: bool) -> list[int]:
        """Tokenize one segment; only markup may become special tokens, and nothing is added."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones included."""


@dataclass(frozen=True, slots=True)
class Example:
    """A conversation and what the model should say next.

    Examples of one ``group_key`` may share a row; an empty key groups by everything but the last
    part of the last message (the question, where passages come before it).
    """

    messages: tuple[Message, ...]
    completion: str
    group_key: str = ""


@dataclass(frozen=True, slots=True)
class Branch:
    """One question: prompt tokens after the shared context, then the trained tokens."""

    tail_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.tail_ids) + len(self.completion_ids)


@dataclass(frozen=True, slots=True)
class Row:
    """One training row.

    ``passages[i]`` is the number of the passage that context token i belongs to, 0 for everything
    else: blockwise attention separates passages by it.
    """

    context_ids: tuple[int, ...]
    passages: tuple[int, ...]
    branches: tuple[Branch, ...]

    def __len__(self) -> int:
        return len(self.context_ids) + sum(map(len, self.branches))

    @property
    def trained_tokens(self) -> int:
        """Count the tokens that carry loss."""
        return sum(len(branch.completion_ids) for branch in self.branches)


@dataclass(frozen=True, slots=True)
class RowSet:
    """The rows, and how many examples were refused for which reason."""

    rows: tuple[Row, ...]
    refused: Mapping[str, int] = field(default_factory=dict)

    @property
    def branches(self) -> int:
        """Count the examples that made it into a row."""
        return sum(len(row.branches) for row in self.rows)

    @property
    def sha256(self) -> str:
        """Fingerprint of every token of every row, in order."""
        digest = hashlib.sha256()
        for row in self.rows:
            digest.update(repr((row.context_ids, row.passages)).encode())
            digest.update(repr([(b.tail_ids, b.completion_ids) for b in row.branches]).encode())
        return digest.hexdigest()


def answer_example(
    question: str, answer: str, passages: Sequence[Passage], gold_number: int | None, *, system: str | None = None
) -> Example:
    """Build the example that answers ``question`` over ``passages`` as production asks it.

    Args:
        question: as a user would ask it.
        answer: the answer without citation marks; ignored where the evidence is missing.
        passages: best first, as retrieved.
        gold_number: the passage (from 1) that holds the answer; None if none of them does, which
            trains the abstention. Without passages the answer is trained uncited.
        system: replaces the default instruction.

    Raises:
        InvalidRequest: ``gold_number`` names no passage, or there is no answer to give.
    """
    if gold_number is not None and not 1 <= gold_number <= len(passages):
        raise InvalidRequest(
            "The gold passage is not among the passages", got=gold_number, wanted=f"1 to {len(passages)}"
        )
    if gold_number is not None and not answer.strip():
        raise InvalidRequest("An answerable question needs an answer", got=question, wanted="a non-empty answer")
    if gold_number is not None:
        completion = cite(answer, passage_labels(passages)[gold_number - 1])
    elif not passages and answer.strip():
        completion = answer.strip()
    else:
        completion = ABSTENTION[language(question)]
    return Example(answer_messages(question, passages, system=system), completion)


def build_rows(
    examples: Iterable[Example],
    tokenizer: Tokenizer,
    template: str,
    *,
    max_length: int = 2048,
    max_branches: int = 6,
) -> RowSet:
    """Tokenize examples and pack those that begin alike into rows.

    An example that does not fit ``max_length`` tokens even alone is refused and counted under
    ``too_long``, one without completion text under ``empty_completion``; nothing is ever cut.

    Args:
        examples: in any order; rows come in the order of each group's first example.
        tokenizer: of the base model.
        template: Jinja source of the base model's chat template.
        max_length: tokens in one row.
        max_branches: examples in one row.

    Raises:
        InvalidModel: the chat template fails or ends no assistant turn.
    """
    turn_end = end_of_turn(tokenizer, template)
    refused: Counter[str] = Counter()
    groups: dict[object, list[Example]] = {}
    for example in examples:
        if example.completion.strip():
            groups.setdefault(example.group_key or _opening(example.messages), []).append(example)
        else:
            refused["empty_completion"] += 1
    encoder = _Encoder(tokenizer, template, turn_end)
    rows = [row for group in groups.values() for row in encoder.pack(group, max_length, max_branches, refused)]
    return RowSet(tuple(rows), dict(refused))


def end_of_turn(tokenizer: Tokenizer, template: str) -> int:
    """Return the token that the chat template puts right after an assistant's message.

    Raises:
        InvalidModel: the template ends no turn and the tokenizer has no end token.
    """
    turn = (Message("user", ("?",)), Message("assistant", ("!",)))
    segments = render(
        turn, template, bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token, add_generation_prompt=False
    )
    after = segments[-1].text.lstrip() if segments[-1].markup else ""
    ids = tokenizer.encode(after or tokenizer.eos_token, markup=True)
    if not ids:
        raise InvalidModel(
            "The chat template does not end an assistant's turn",
            hint="Use an instruction-tuned model with an end token.",
        )
    return ids[0]


def _opening(messages: tuple[Message, ...]) -> object:
    parts = messages[-1].parts
    last = parts[:-1] if len(parts) > 1 else parts
    return (*((m.role, m.parts) for m in messages[:-1]), (messages[-1].role, last))


def _shared_start(rendered: Sequence[tuple[Segment, ...]]) -> tuple[Segment, ...]:
    shared = 0
    for column in zip(*rendered, strict=False):
        if any(segment != column[0] for segment in column):
            break
        shared += 1
    return rendered[0][:shared]


class _Encoder:
    """Tokenizes the segments of one build, each distinct segment once."""

    def __init__(self, tokenizer: Tokenizer, template: str, turn_end: int) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._turn_end = turn_end
        self._ids: dict[Segment, tuple[int, ...]] = {}

    def pack(
        self, group: Sequence[Example], max_length: int, max_branches: int, refused: Counter[str]
    ) -> Iterator[Row]:
        """Yield the rows of one group, each branch in the first row that has room for it."""
        rendered = [self._render(example.messages) for example in group]
        context = _shared_start(rendered)
        context_ids, passages = self._context(context)
        waiting: list[Branch] = []
        used = len(context_ids)
        for segments, example in zip(rendered, group, strict=True):
            completion = (*self._encode(Segment(example.completion, False)), self._turn_end)
            branch = Branch(self._encode_all(segments[len(context) :]), completion)
            if len(context_ids) + len(branch) > max_length:
                refused["too_long"] += 1
                continue
            if waiting and (used + len(branch) > max_length or len(waiting) == max_branches):
                yield Row(context_ids, passages, tuple(waiting))
                waiting, used = [], len(context_ids)
            waiting.append(branch)
            used += len(branch)
        if waiting:
            yield Row(context_ids, passages, tuple(waiting))

    def _render(self, messages: tuple[Message, ...]) -> tuple[Segment, ...]:
        bos, eos = self._tokenizer.bos_token, self._tokenizer.eos_token
        return render(messages, self._template, bos_token=bos, eos_token=eos)

    def _context(self, segments: Sequence[Segment]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        ids: list[int] = []
        passages: list[int] = []
        number = 0
        for segment in segments:
            piece = self._encode(segment)
            number += segment.passage
            passages += [number if segment.passage else 0] * len(piece)
            ids += piece
        return tuple(ids), tuple(passages)

    def _encode_all(self, segments: Iterable[Segment]) -> tuple[int, ...]:
        return tuple(token for segment in segments for token in self._encode(segment))

    def _encode(self, segment: Segment) -> tuple[int, ...]:
        if segment not in self._ids:
            self._ids[segment] = tuple(self._tokenizer.encode(segment.text, markup=segment.markup))
        return self._ids[segment]
