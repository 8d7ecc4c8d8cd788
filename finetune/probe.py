"""Measure what an adapter made its base model forget: general questions, in English and Chinese, before and after.

Each question has one right completion and some wrong ones, and is asked as a chat message without
passages. What counts is how sure the model is of the right one among them, so an adapter that
learnt to say that it does not know, or to write longer, does not fail for that. Knows nothing of
engines: ``Scorer`` is whatever serves.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import data
from data.errors import InvalidRequest
from data.protocols import Report, TokenScores
from data.records import Message, Progress
from finetune.parity import Scorer

GENERAL = Path(data.__file__).parent / "general.jsonl"
"""The committed questions: 40 English and 40 Chinese ones, of what any model may know."""

MAX_DROP = 0.1
"""How much less probable, of 1, the right completion may have become among its alternatives; the upper end of the
interval counts, so an adapter passes that was shown not to lose more.

Measured on the starter (its 4-bit file, by this formula over llama.cpp): the packaged reader, a strongly tuned adapter
that is not known to forget, -0.01 (95 % interval -0.06 to +0.05, 80 items); the pair writer 0.00 (-0.05 to +0.04, the
first 61); the reader at four times its strength, surprised by 13 nats a token, +0.16 (+0.05 to +0.27, the first 61): it
is refused. In nats instead of probability a few items decide: the reader's interval is -0.23 to +0.21.
"""

Z = 1.959964
"""Of the normal distribution: 95 % of it lie within so many standard deviations."""


@dataclass(frozen=True, slots=True)
class ProbeItem:
    """A general question with its right completion and wrong ones."""

    id: str
    language: str
    question: str
    right: str
    wrong: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ItemScore:
    """What a model makes of an item.

    Attributes:
        choice: probability of the right completion among all of the item's, 0 to 1.
        right: log-probability of the right completion, in nats, over ``tokens`` tokens.
        tokens: of the right completion.
        correct: whether no wrong completion is as likely.
    """

    choice: float
    right: float
    tokens: int
    correct: bool


def load_items(path: Path = GENERAL) -> list[ProbeItem]:
    """Read JSONL of ``{"id", "language", "question", "right", "wrong": [...]}``.

    Raises:
        InvalidRequest: the file cannot be read, or a line is no such item.
    """
    items = []
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            row = json.loads(line)
            said, wrong = (str(row["question"]), str(row["right"])), tuple(map(str, row["wrong"]))
            items.append(ProbeItem(str(row["id"]), str(row["language"]), *said, wrong))
            if not wrong:
                raise InvalidRequest(f"{path.name}, line {number}: no wrong completions", wanted="at least one")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidRequest(
            f"The questions of the probe cannot be read: {error!r}",
            got=str(path),
            wanted='lines of {"id", "language", "question", "right", "wrong"}',
        ) from error
    return items


def probe(
    items: Sequence[ProbeItem], scorer: Scorer, *, workers: int = 4, report: Report | None = None
) -> list[ItemScore]:
    """Score every item, ``workers`` of them at once.

    Raises:
        JobCancelled: ``report`` asked to stop.
        As ``scorer`` raises.
    """
    scores = []
    with ThreadPoolExecutor(workers) as pool:
        try:
            for done, score in enumerate(pool.map(lambda item: _score(item, scorer), items), 1):
                scores.append(score)
                if report is not None:
                    report(Progress(done, len(items), "questions", stage="forgetting"))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return scores


def _score(item: ProbeItem, scorer: Scorer) -> ItemScore:
    messages = (Message("user", (item.question,)),)
    right = _logprobs(scorer(messages, item.right))
    sums = np.array([right.sum(), *(_logprobs(scorer(messages, wrong)).sum() for wrong in item.wrong)])
    choice = float(np.exp(sums[0] - np.logaddexp.reduce(sums)))
    return ItemScore(choice, float(sums[0]), len(right), bool(sums[0] > sums[1:].max()))


def _logprobs(scored: TokenScores) -> NDArray[np.float64]:
    """Return the log-probability of each token, in nats; the end of the turn is left out: it is a matter of style."""
    logits = scored.logits[:-1].astype(np.float64)
    chosen = logits[np.arange(len(logits)), list(scored.completion_ids[:-1])]
    return np.asarray(chosen - np.logaddexp.reduce(logits, axis=1))


def forgetting(items: Sequence[ProbeItem], before: Sequence[ItemScore], after: Sequence[ItemScore]) -> dict[str, Any]:
    """Compare the scores of the same items without (``before``) and with (``after``) an adapter.

    Returns:
        ``items``; ``accuracy`` and ``choice`` (mean probability of the right completion among the item's), 0 to 1, and
        ``nats_per_token`` (mean surprise at the right completions), each ``{"before", "after"}``; the first two also
        under ``by_language``; ``drop`` of ``choice`` with its paired 95 % interval ``ci``; ``margin``; ``passed``:
        whether the interval ends within the margin.

    Raises:
        InvalidRequest: there are fewer than two items, or not as many scores.
    """
    if not len(items) == len(before) == len(after) > 1:
        raise InvalidRequest(
            "The probe needs the same items before and after",
            got=f"{len(before)} and {len(after)}",
            wanted="two or more",
        )
    drops = np.array([b.choice - a.choice for b, a in zip(before, after, strict=True)])
    drop, half = float(drops.mean()), float(Z * drops.std(ddof=1) / math.sqrt(len(drops)))
    languages = sorted({item.language for item in items})
    return {
        "items": len(items),
        **_means(before, after),
        "nats_per_token": {"before": _surprise(before), "after": _surprise(after)},
        "by_language": {
            language: _means(
                [score for item, score in zip(items, before, strict=True) if item.language == language],
                [score for item, score in zip(items, after, strict=True) if item.language == language],
            )
            for language in languages
        },
        "drop": drop,
        "ci": [drop - half, drop + half],
        "margin": MAX_DROP,
        # Written so that a drop that is not a number fails.
        "passed": drop + half <= MAX_DROP,
    }


def _means(before: Sequence[ItemScore], after: Sequence[ItemScore]) -> dict[str, dict[str, float]]:
    sides = {"before": before, "after": after}
    return {
        "accuracy": {side: float(np.mean([s.correct for s in scores])) for side, scores in sides.items()},
        "choice": {side: float(np.mean([s.choice for s in scores])) for side, scores in sides.items()},
    }


def _surprise(scores: Sequence[ItemScore]) -> float:
    return -sum(score.right for score in scores) / max(1, sum(score.tokens for score in scores))
