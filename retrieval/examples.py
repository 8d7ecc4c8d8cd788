"""Turn pairs into training examples: each question over passages the production retriever returns.

What a model is trained on is what it will be served: retrieval's real order and real misses
included. Knows nothing of tokens or training.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from data.records import Chunk, Passage, QAPair
from data.store import Store
from retrieval.evidence import Evidence
from retrieval.retriever import Retriever
from retrieval.wording import stretch_of

_FREE = frozenset({"style", "free"})
INSERT_MISSED_GOLD = 0.8
"""Probability of putting a gold chunk that retrieval missed among the passages after all."""


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A question over passages, and what to answer.

    ``answer`` is None where the model has to abstain. ``gold_number`` is the number of the passage
    to cite, counting from 1, and None where no passage is cited. ``chunk_id`` is the pair's chunk,
    "" if it has none; ``pair_id`` is the pair. ``closed_book``: the answer states facts that no passage holds, so that
    training on it would teach the model to answer from memory.
    """

    question: str
    answer: str | None
    passages: tuple[Passage, ...]
    gold_number: int | None
    chunk_id: str
    pair_id: str = ""
    closed_book: bool = False


@dataclass(frozen=True, slots=True)
class _Sourced:
    """A pair with its gold chunk (None for a pair that names none), and its document's source and title."""

    pair: QAPair
    chunk: Chunk | None
    source: str = ""
    title: str = ""

    @property
    def answerable(self) -> bool:
        return self.pair.kind != "unanswerable"

    @property
    def in_free_words(self) -> bool:
        """Whether the answer need not be a stretch of a passage."""
        return self.pair.kind in _FREE


def evidence_of(pairs: Iterable[QAPair]) -> Evidence:
    """Return what finds the passages of the answers in free words among ``pairs``."""
    return Evidence(pair.answer for pair in pairs if pair.kind in _FREE)


def examples_from_pairs(
    store: Store,
    retriever: Retriever,
    pairs: Sequence[QAPair],
    *,
    top_k: int,
    seed: int,
    collection: str = "default",
    share_passages: bool = True,
    abstain_share: float = 0.12,
    evidence: Evidence | None = None,
    advance: Callable[[int], None] | None = None,
) -> list[TrainingExample]:
    """Build training examples; those that share their passages follow one another.

    Questions about one chunk share one passage set where it serves them: the one retrieved for one
    of them that has the chunk in it. A chunk that retrieval missed is put in at a random rank with
    probability 0.8 and left out otherwise, and then the target is to abstain. So it is for
    questions of other documents, asked over the same passages, that are added to each set.

    Args:
        store: holds the pairs' chunks; a pair whose chunk is gone (an edited document) is left out.
        retriever: the production retriever.
        pairs: the pairs to train on.
        top_k: passages per question.
        seed: decides every draw.
        collection: where to search.
        share_passages: False retrieves for every question on its own.
        abstain_share: share of examples with an added question, 0 to below 1.
        evidence: finds the passage of an answer in free words; by default it knows the answers of ``pairs`` alone.
        advance: called with the number of pairs that one more search has served.
    """
    random = Random(seed)  # noqa: S311  (sampling, no secret)
    sourced = _sourced(store, pairs)
    if evidence is None:
        evidence = evidence_of(pairs)
    examples: list[TrainingExample] = []
    owed = 0.0
    for group in _groups(sourced, share_passages):
        passages = _passages(retriever, group, collection, top_k, random=random)
        examples += [_example(item, passages, evidence) for item in group]
        owed += len(group) * abstain_share / (1 - abstain_share)
        for foreign in _foreign(sourced, group, passages, min(int(owed), len(group)), random):
            gold, pair = _gold_id(foreign), foreign.pair
            examples.append(TrainingExample(pair.question, None, passages, None, gold, pair.id))
            owed -= 1
        if advance is not None:
            advance(len(group))
    return examples


def _sourced(store: Store, pairs: Sequence[QAPair]) -> list[_Sourced]:
    found = store.chunks.by_ids(dict.fromkeys(pair.chunk_ids[0] for pair in pairs if pair.chunk_ids))
    return [
        _Sourced(pair, *found[pair.chunk_ids[0]]) if pair.chunk_ids else _Sourced(pair, None)
        for pair in pairs
        if not pair.chunk_ids or pair.chunk_ids[0] in found
    ]


def _gold_id(item: _Sourced) -> str:
    return item.chunk.id if item.chunk else ""


def _groups(sourced: Sequence[_Sourced], share_passages: bool) -> Iterator[list[_Sourced]]:
    groups: dict[str, list[_Sourced]] = {}
    for item in sourced:
        shared = share_passages and item.chunk is not None
        groups.setdefault(f"chunk {_gold_id(item)}" if shared else f"pair {item.pair.id}", []).append(item)
    yield from groups.values()


def _passages(
    retriever: Retriever, group: Sequence[_Sourced], collection: str, top_k: int, *, random: Random
) -> tuple[Passage, ...]:
    """Return one passage set for a group: a retrieved one with the gold chunk in it, if there is any."""
    found: tuple[Passage, ...] = ()
    # An answerable question leads where there is one: what it finds is more likely to hold the chunk.
    leaders = random.sample(group, len(group))
    for leader in sorted(leaders, key=lambda item: not item.answerable):
        found = tuple(retriever.search(leader.pair.question, collection, top_k))
        if _number_of(group[0].chunk, found) is not None or group[0].chunk is None:
            return found
    gold = group[0].chunk
    answers = [item.pair.answer for item in group if item.answerable]
    if gold is None or not answers:
        return found
    # Left out, the target is to abstain: not where another passage happens to hold the answer.
    held = any(stretch_of(answer, passage.chunk.text) for answer in answers for passage in found)
    if not held and random.random() >= INSERT_MISSED_GOLD:
        return found
    return _with_gold(group[0], gold, found, top_k, random)


def _with_gold(
    item: _Sourced, gold: Chunk, found: tuple[Passage, ...], top_k: int, random: Random
) -> tuple[Passage, ...]:
    """Put the gold chunk among the passages at a random rank, in place of the last one."""
    kept = list(found[: top_k - 1])
    place = random.randint(0, len(kept))
    score = kept[min(place, len(kept) - 1)].score if kept else 0.0
    kept.insert(place, Passage(gold, score, place + 1, "inserted", item.source, item.title))
    return tuple(Passage(p.chunk, p.score, rank, p.origin, p.source, p.title) for rank, p in enumerate(kept, 1))


def _number_of(chunk: Chunk | None, passages: Sequence[Passage]) -> int | None:
    ids = [passage.chunk.id for passage in passages]
    return ids.index(chunk.id) + 1 if chunk is not None and chunk.id in ids else None


def _example(item: _Sourced, passages: tuple[Passage, ...], evidence: Evidence) -> TrainingExample:
    pair = item.pair
    number = _number_of(item.chunk, passages)
    if item.chunk is None and item.answerable:
        number = next((i for i, p in enumerate(passages, 1) if stretch_of(pair.answer, p.chunk.text)), None)
    if number is None and item.in_free_words:
        number = evidence.number_of(pair.answer, passages)
    # An answer in free words that names no chunk is trained uncited; a span without evidence never.
    uncited = item.chunk is None and item.in_free_words and number is None
    answer = pair.answer if item.answerable and (number is not None or uncited) else None
    closed_book = uncited and evidence.states_facts(pair.answer)
    gold = number if answer else None
    return TrainingExample(pair.question, answer, passages, gold, _gold_id(item), pair.id, closed_book)


def _foreign(
    sourced: Sequence[_Sourced], group: Sequence[_Sourced], passages: Sequence[Passage], wanted: int, random: Random
) -> list[_Sourced]:
    """Draw questions that ``passages`` do not answer: of other documents, else of other chunks."""
    if not passages:
        return []
    documents = {passage.chunk.document_id for passage in passages} | {
        item.chunk.document_id for item in group if item.chunk
    }
    drawn: dict[str, _Sourced] = {}
    near: dict[str, _Sourced] = {}
    for _ in range(20 * wanted):  # a bound: a small collection may have nothing to draw
        if len(drawn) == wanted:
            break
        item = sourced[random.randrange(len(sourced))]
        if item.chunk is None or not item.answerable or _number_of(item.chunk, passages) is not None:
            continue
        if any(stretch_of(item.pair.answer, passage.chunk.text) for passage in passages):
            continue
        (near if item.chunk.document_id in documents else drawn)[item.pair.id] = item
    return [*drawn.values(), *near.values()][:wanted]
