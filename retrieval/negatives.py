"""From accepted pairs to what an embedder is tuned on: passages that answer, and hard ones that do not.

Hard negatives are what production retrieval finds for a question and ought not to. Mined passages are
often right answers nobody marked, so those that hold the answer are left out, and those nearly as
similar to the question as its own passage (Moreira et al. 2024, NV-Retriever, use 95 % of it too).
Knows nothing of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest

from data.errors import NoAcceptedPairs
from data.protocols import Embedder, Report
from data.records import Chunk, Passage, Progress, QAPair
from data.store import Store
from retrieval.chunk import embedded_text
from retrieval.retriever import Retriever
from retrieval.rowfiles import split_pairs
from retrieval.tune import Contrast
from retrieval.vectors import embed_cached
from retrieval.wording import stretch_of

_DEPTH = 20
_KEPT = 4
_MAX_SIMILARITY = 0.95
"""Of a negative to the question, as a share of the positive's."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A pair's question, its answer, and the chunks that hold it."""

    id: str
    question: str
    answer: str
    gold: tuple[Chunk, ...]


def split_asked(store: Store, collection: str, *, held_out: float, seed: int) -> tuple[list[Asked], list[Asked]]:
    """Return the questions to train on and those of other documents to measure with.

    Pairs that name no chunk, or none that still exists, and unanswerable ones teach no retrieval and
    are left out.

    Raises:
        NoAcceptedPairs: there are none, or all of them are about one document.
    """
    split = split_pairs(store, collection, eval_share=held_out, seed=seed)
    train, held = _asked(store, split.train), _asked(store, split.evaluation)
    if not train or not held:
        raise NoAcceptedPairs(
            "A retriever is tuned on questions of some documents and measured on questions of others.",
            got=f"{len(train)} questions to train on, {len(held)} of other documents",
            wanted="accepted pairs about two documents or more",
            hint="Generate or import more: ragtune pairs generate.",
        )
    return train, held


def _asked(store: Store, pairs: Sequence[QAPair]) -> list[Asked]:
    found = store.chunks.by_ids(dict.fromkeys(name for pair in pairs for name in pair.chunk_ids))
    asked = []
    for pair in pairs:
        gold = tuple(found[name][0] for name in pair.chunk_ids if name in found)
        if gold and pair.kind != "unanswerable":
            asked.append(Asked(pair.id, pair.question, pair.answer, gold))
    return asked


def mine(
    store: Store, retriever: Retriever, embedder: Embedder, asked: Sequence[Asked], report: Report, *, collection: str
) -> list[Contrast]:
    """Return what to tune on: each question with its first gold chunk and its hard negatives, hardest first.

    Raises:
        JobCancelled: ``report`` said so.
        IndexMismatch, StorageCorrupt, NothingIndexed: as ``Retriever.retrieve``.
    """
    contrasts = []
    for done, each in enumerate(asked, 1):
        gold = tuple(embedded_text(chunk) for chunk in each.gold)
        texts = list(dict.fromkeys(embedded_text(p.chunk) for p in _candidates(retriever, collection, each)))
        texts = [text for text in texts if text not in gold]
        query = embedder.embed_queries([each.question])[0]
        near = embed_cached(store, embedder, [gold[0], *texts]) @ query
        fair = [text for text, score in zip(texts, near[1:], strict=True) if score <= _MAX_SIMILARITY * near[0]]
        contrasts.append(Contrast(each.question, gold[0], tuple(fair[:_KEPT]), frozenset(gold)))
        report(Progress(done, len(asked), "questions", None, "mine"))
    return contrasts


def _candidates(retriever: Retriever, collection: str, asked: Asked) -> list[Passage]:
    """Return what both legs find first, in turns, without what holds the answer."""
    gold = [chunk.id for chunk in asked.gold]
    dense = retriever.search(asked.question, collection, _DEPTH, "dense", gold)
    lexical = retriever.search(asked.question, collection, _DEPTH, "lexical", gold)
    found = [passage for pair in zip_longest(dense, lexical) for passage in pair if passage is not None]
    return [passage for passage in found if not stretch_of(asked.answer, passage.chunk.text)]
