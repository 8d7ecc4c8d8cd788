"""Harder forms of training examples: sources that disagree, passages in another language, conversations.

They are made of the examples that are there. Each form is off unless a share of it is asked for, and is added to the
examples, never put in their place. Knows nothing of tokens or training.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from itertools import islice
from random import Random

from data.errors import InvalidRequest
from data.prompt import cite, language
from data.records import Chunk, Message, Passage, content_id
from data.store import Store
from retrieval.altered import NAME, altered_question
from retrieval.examples import TrainingExample, ranked
from retrieval.fitting import asked_about, misfit
from retrieval.question_types import question_type
from retrieval.retriever import Retriever
from retrieval.wording import span_of, stretch_of

MOST_FOREIGN = 500
"""Chunks of the other language among which passages are drawn."""
ALTERED = "altered"
"""Origin of a passage that no document has."""
SHORTEST_NAME_ZH = 3
"""Characters, without those that only ask, that two Chinese questions share where a name is taken to stand."""


@dataclass(frozen=True, slots=True)
class Shares:
    """How many examples of each form are added, as shares (0 to below 1) of the examples that answer from a passage.

    Attributes:
        contradicting: among the passages is a copy of the one that answers, with another answer in it. Nothing tells
            which is right, so the target names both: "Sources disagree: …".
        other_language: one passage is in the collection's other language, and does not hold the answer.
        multi_turn: the question follows another about its passage, as the second turn of a conversation; a name that
            both have is a pronoun in the second.
        altered_question: one detail of the question is another, which no passage holds, so the target is to abstain.
    """

    contradicting: float = 0.0
    other_language: float = 0.0
    multi_turn: float = 0.0
    altered_question: float = 0.0

    def __post_init__(self) -> None:
        """Raise ``InvalidRequest`` for what is no share."""
        for share in (self.contradicting, self.other_language, self.multi_turn, self.altered_question):
            if not 0 <= share < 1:
                raise InvalidRequest("Impossible share of examples", got=share, wanted="0 to below 1")


def variants(
    store: Store,
    retriever: Retriever,
    examples: Sequence[TrainingExample],
    shares: Shares,
    *,
    collection: str,
    top_k: int,
    seed: int,
) -> list[TrainingExample]:
    """Return further examples in the forms that are asked for, each made of one of ``examples``.

    There are fewer than asked for where a form cannot be made: no other answer of the same sort, one language only,
    one question to a passage.

    Args:
        store: where passages of the other language are drawn from.
        retriever: the production retriever, which finds what the second turn of a conversation is shown.
        examples: those that answer from a passage are varied, the others left out.
        shares: of each form.
        collection: where to search.
        top_k: passages per question.
        seed: decides every draw.
    """
    random = Random(seed)  # noqa: S311  (sampling, no secret)
    answered = [one for one in examples if one.answer is not None and one.gold_number is not None and not one.also_gold]
    made: list[TrainingExample] = []
    if shares.contradicting:
        made += _take(_contradicting(_drawn(answered, random), answered, random), shares.contradicting, answered)
    if shares.other_language:
        foreign = _by_language(store, collection, random)
        made += _take(_in_company(_drawn(answered, random), foreign, random), shares.other_language, answered)
    if shares.multi_turn:
        turns = _Turns(retriever, collection, top_k, random)
        made += _take(turns.of(_drawn(answered, random)), shares.multi_turn, answered)
    if shares.altered_question:
        made += _take(_altered(_drawn(answered, random), answered, random), shares.altered_question, answered)
    return made


def _drawn(examples: Sequence[TrainingExample], random: Random) -> list[TrainingExample]:
    return random.sample(examples, len(examples))


def _take(made: Iterator[TrainingExample], share: float, examples: Sequence[TrainingExample]) -> list[TrainingExample]:
    return list(islice(made, round(share * len(examples))))


def _contradicting(
    drawn: Iterable[TrainingExample], examples: Sequence[TrainingExample], random: Random
) -> Iterator[TrainingExample]:
    answers: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for one in examples:
        answers[language(one.question), question_type(one.question)].append(one.answer or "")
    for one in drawn:
        gold = one.passages[(one.gold_number or 0) - 1]
        same_sort = answers[language(one.question), question_type(one.question)]
        others = [other for other in same_sort if not any(stretch_of(other, p.chunk.text) for p in one.passages)]
        span = span_of(one.answer or "", gold.chunk.text)
        if span is None or not others or misfit(one.question, other := random.choice(others)):
            continue
        text = gold.chunk.text[: span[0]] + other + gold.chunk.text[span[1] :]
        if stretch_of(one.answer or "", text):
            continue  # it says so twice
        altered = replace(gold, chunk=_copy_of(gold.chunk, text), origin=ALTERED)
        passages, numbers = _put_in(altered, one.passages, one.gold_number or 0, random)
        gold_number, rival_number = numbers
        yield replace(
            one, passages=passages, gold_number=gold_number, rival=(other, rival_number), sort="contradicting"
        )


def _copy_of(chunk: Chunk, text: str) -> Chunk:
    return Chunk(content_id(ALTERED, chunk.id, text), chunk.document_id, text, 0, len(text), chunk.heading, chunk.page)


def _put_in(
    new: Passage, passages: Sequence[Passage], gold_number: int, random: Random
) -> tuple[tuple[Passage, ...], tuple[int, int]]:
    """Put a passage at a random rank, in place of the last one that does not answer; return both their numbers."""
    gold = passages[gold_number - 1]
    others = [passage for passage in passages if passage is not gold]
    kept = [passage for passage in passages if passage is gold or passage is not (others[-1] if others else None)]
    kept.insert(random.randint(0, len(kept)), new)
    found = ranked(kept)
    ids = [passage.chunk.id for passage in found]
    return found, (ids.index(gold.chunk.id) + 1, ids.index(new.chunk.id) + 1)


def _by_language(store: Store, collection: str, random: Random) -> dict[str, list[Passage]]:
    """Return a sample of the collection's passages of each language."""
    found: dict[str, list[Passage]] = {"en": [], "zh": []}
    seen: Counter[str] = Counter()
    for _key, chunk, title in store.chunks.iterate(collection):
        spoken = language(chunk.text)
        seen[spoken] += 1
        passage = Passage(chunk, 0.0, 1, "inserted", "", title)
        if len(found[spoken]) < MOST_FOREIGN:
            found[spoken].append(passage)
        elif (place := random.randrange(seen[spoken])) < MOST_FOREIGN:  # a fair sample of all (Vitter 1985, R)
            found[spoken][place] = passage
    return found


def _in_company(
    drawn: Iterable[TrainingExample], by_language: Mapping[str, Sequence[Passage]], random: Random
) -> Iterator[TrainingExample]:
    for one in drawn:
        foreign = by_language["en" if language(one.question) == "zh" else "zh"]
        if not foreign:
            return
        other = random.choice(foreign)
        if stretch_of(one.answer or "", other.chunk.text):
            continue
        passages, (gold_number, _) = _put_in(other, one.passages, one.gold_number or 0, random)
        yield replace(one, passages=passages, gold_number=gold_number, sort="other_language")


def _altered(
    drawn: Iterable[TrainingExample], examples: Sequence[TrainingExample], random: Random
) -> Iterator[TrainingExample]:
    names: defaultdict[str, set[str]] = defaultdict(set)
    for one in examples:
        names[_document(one)].update(NAME.findall(one.question))
    for one in drawn:
        texts = [passage.chunk.text for passage in one.passages]
        question = altered_question(one.question, texts, sorted(names[_document(one)]), random)
        if question is not None:
            yield replace(one, question=question, answer=None, gold_number=None, sort="altered_question")


def _document(example: TrainingExample) -> str:
    return example.passages[(example.gold_number or 1) - 1].chunk.document_id


class _Turns:
    """Makes second turns: a question that follows another about the same passage."""

    def __init__(self, retriever: Retriever, collection: str, top_k: int, random: Random) -> None:
        self._retriever = retriever
        self._collection = collection
        self._top_k = top_k
        self._random = random

    def of(self, drawn: Sequence[TrainingExample]) -> Iterator[TrainingExample]:
        """Yield a second turn for each example whose passage another one is about, too."""
        about: defaultdict[str, list[TrainingExample]] = defaultdict(list)
        for one in drawn:
            about[one.chunk_id].append(one)
        for one in drawn:
            before = [other for other in about[one.chunk_id] if other.question != one.question]
            if one.chunk_id and before:
                yield self._second(one, self._random.choice(before))

    def _second(self, one: TrainingExample, before: TrainingExample) -> TrainingExample:
        asked = follow_up(one.question, before.question)
        search = self._retriever.retrieve(asked, self._collection, self._top_k, context=before.question)
        passages, gold = tuple(search.passages), one.passages[(one.gold_number or 0) - 1]
        ids = [passage.chunk.id for passage in passages]
        if gold.chunk.id in ids:
            number = ids.index(gold.chunk.id) + 1
        else:
            kept = [*passages[: self._top_k - 1]]
            number = self._random.randint(1, len(kept) + 1)
            kept.insert(number - 1, replace(gold, origin="inserted"))
            passages = ranked(kept)
        # A client keeps what it was shown: the answer with the rank of its passage, not its label.
        said = cite(before.answer or "", before.gold_number or 1)
        history = (Message("user", (before.question,)), Message("assistant", (said,)))
        return replace(one, question=asked, passages=passages, gold_number=number, history=history, sort="multi_turn")


def follow_up(question: str, before: str) -> str:
    """Return a question with a pronoun for the longest name that it shares with the one before, if it shares one."""
    if language(question) == "zh":
        found = SequenceMatcher(None, question, before, autojunk=False).find_longest_match()
        shared = question[found.a : found.a + found.size]
        return question.replace(shared, "它", 1) if len(asked_about(shared)) >= SHORTEST_NAME_ZH else question
    names = (name for name in NAME.findall(question) if name in before)
    shared = max(names, key=len, default="")
    return question.replace(shared, "it", 1) if shared else question
