"""Turn pairs into training examples: each question over passages the production retriever returns.

What a model is trained on is what it will be served: retrieval's real order and real misses
included. Knows nothing of tokens or training.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Literal

from data.prompt import ABSTENTION, answer_messages, cite, disagreement, language, passage_labels
from data.records import Chunk, Message, Passage, QAPair
from data.store import Store
from retrieval.evidence import Evidence
from retrieval.retriever import Retriever
from retrieval.wording import stretch_of

_FREE = frozenset({"style", "free", "multi"})
Sort = Literal["answering", "abstaining", "contradicting", "other_language", "multi_turn", "altered_question"]
INSERT_MISSED_GOLD = 0.8
"""Probability of putting a gold chunk that retrieval missed among the passages after all."""


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """A question over passages, and what to answer.

    ``answer`` is None where the model has to abstain. ``gold_number`` is the number of the passage
    to cite, counting from 1, and None where no passage is cited. ``chunk_id`` is the pair's chunk,
    "" if it has none; ``pair_id`` is the pair. ``closed_book``: the answer states facts that no passage holds, so that
    training on it would teach the model to answer from memory.
    ``also_gold`` are the numbers of further passages that the answer needs; ``rival`` is another answer and the number
    of the passage that gives it (``retrieval.variants``); ``history`` are the turns before;
    ``instructions`` are those of the collection (``data.records.House``).
    """

    question: str
    answer: str | None
    passages: tuple[Passage, ...]
    gold_number: int | None
    chunk_id: str
    pair_id: str = ""
    closed_book: bool = False
    also_gold: tuple[int, ...] = ()
    rival: tuple[str, int] | None = None
    history: tuple[Message, ...] = ()
    sort: Sort = "answering"
    instructions: str = ""

    @property
    def messages(self) -> tuple[Message, ...]:
        """Return the prompt, as production asks it."""
        return answer_messages(self.question, self.passages, self.history, instructions=self.instructions)

    @property
    def target(self) -> str:
        """Return what the model is to say, with citation marks."""
        lang = language(self.question)
        if self.answer is None:
            return ABSTENTION[lang]
        labels = passage_labels(self.passages)
        cited = [labels[number - 1] for number in (self.gold_number, *self.also_gold) if number is not None]
        if self.rival is not None:
            other, number = self.rival
            return disagreement([(self.answer, cited[0]), (other, labels[number - 1])], lang)
        return cite(self.answer, *cited)


def count_sorts(examples: Iterable[TrainingExample]) -> dict[str, int]:
    """Return how many examples are of each sort."""
    return dict(sorted(Counter(example.sort for example in examples).items()))


@dataclass(frozen=True, slots=True)
class _Sourced:
    """A pair with its gold chunk (None for a pair that names none), and its document's source and title.

    ``others`` are the further chunks that its answer needs, of a pair of kind "multi".
    """

    pair: QAPair
    chunk: Chunk | None
    source: str = ""
    title: str = ""
    others: tuple[Passage, ...] = ()

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
    questions of other documents, asked over the same passages, that are added to each set. The collection's
    instructions stand in every prompt.

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
            examples.append(TrainingExample(pair.question, None, passages, None, gold, pair.id, sort="abstaining"))
            owed -= 1
        if advance is not None:
            advance(len(group))
    instructions = store.houses.current(collection).instructions
    return [replace(example, instructions=instructions) for example in examples] if instructions else examples


def _sourced(store: Store, pairs: Sequence[QAPair]) -> list[_Sourced]:
    found = store.chunks.by_ids(dict.fromkeys(chunk_id for pair in pairs for chunk_id in _needed(pair)))
    sourced = []
    for pair in pairs:
        first, *others = _needed(pair) or [None]
        if first is None:
            sourced.append(_Sourced(pair, None))
        elif all(chunk_id in found for chunk_id in (first, *others)):
            more = tuple(Passage(found[i][0], 0.0, 1, "inserted", *found[i][1:]) for i in others if i)
            sourced.append(_Sourced(pair, *found[first], more))
    return sourced


def _needed(pair: QAPair) -> tuple[str, ...]:
    """Return the chunks without which a pair has no evidence: the first, or all of a pair about several."""
    return pair.chunk_ids if pair.kind == "multi" else pair.chunk_ids[:1]


def _gold_id(item: _Sourced) -> str:
    return item.chunk.id if item.chunk else ""


def _groups(sourced: Sequence[_Sourced], share_passages: bool) -> Iterator[list[_Sourced]]:
    groups: dict[str, list[_Sourced]] = {}
    for item in sourced:
        shared = share_passages and item.chunk is not None and not item.others
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
        if group[0].others:
            return _with_all(group[0], found, top_k, random)
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


def _with_all(item: _Sourced, found: tuple[Passage, ...], top_k: int, random: Random) -> tuple[Passage, ...]:
    """Put what retrieval missed of a pair's chunks among the passages, all of it or (at times) nothing."""
    needed = [Passage(item.chunk, 0.0, 1, "inserted", item.source, item.title)] if item.chunk else []
    needed += item.others
    missed = [passage for passage in needed if _number_of(passage.chunk, found) is None]
    if not missed or random.random() >= INSERT_MISSED_GOLD:
        return found
    ids = {passage.chunk.id for passage in needed}
    room = max(0, top_k - len(needed))
    gold = [passage for passage in found if passage.chunk.id in ids]
    kept = [*gold, *[passage for passage in found if passage.chunk.id not in ids][:room]]
    for passage in missed:
        kept.insert(random.randint(0, len(kept)), passage)
    return ranked(kept)


def ranked(passages: Sequence[Passage]) -> tuple[Passage, ...]:
    """Return passages with ranks that follow their order."""
    return tuple(replace(passage, rank=rank) for rank, passage in enumerate(passages, 1))


def _with_gold(
    item: _Sourced, gold: Chunk, found: tuple[Passage, ...], top_k: int, random: Random
) -> tuple[Passage, ...]:
    """Put the gold chunk among the passages at a random rank, in place of the last one."""
    kept = list(found[: top_k - 1])
    place = random.randint(0, len(kept))
    score = kept[min(place, len(kept) - 1)].score if kept else 0.0
    kept.insert(place, Passage(gold, score, place + 1, "inserted", item.source, item.title))
    return ranked(kept)


def _number_of(chunk: Chunk | None, passages: Sequence[Passage]) -> int | None:
    ids = [passage.chunk.id for passage in passages]
    return ids.index(chunk.id) + 1 if chunk is not None and chunk.id in ids else None


def _example(item: _Sourced, passages: tuple[Passage, ...], evidence: Evidence) -> TrainingExample:
    pair = item.pair
    number = _number_of(item.chunk, passages)
    if item.chunk is None and item.answerable:
        number = next((i for i, p in enumerate(passages, 1) if stretch_of(pair.answer, p.chunk.text)), None)
    if number is None and item.in_free_words and not item.others:
        number = evidence.number_of(pair.answer, passages)
    also = tuple(n for n in (_number_of(other.chunk, passages) for other in item.others) if n is not None)
    if len(also) < len(item.others):
        number = None  # half of its evidence is none
    # An answer in free words that names no chunk is trained uncited; a span without evidence never.
    uncited = item.chunk is None and item.in_free_words and number is None
    answer = pair.answer if item.answerable and (number is not None or uncited) else None
    closed_book = uncited and evidence.states_facts(pair.answer)
    gold, also = (number, also) if answer else (None, ())
    sort: Sort = "answering" if answer else "abstaining"
    return TrainingExample(
        pair.question, answer, passages, gold, _gold_id(item), pair.id, closed_book, also_gold=also, sort=sort
    )


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
