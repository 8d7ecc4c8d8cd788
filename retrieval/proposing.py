"""The proposals of a run: which is asked of which chunk, of which kind and wording, and the asking itself.

Knows nothing of checks, ledgers or the store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle

from data.prompt import answer_messages
from data.protocols import GenerationRequest, Generator
from data.records import PairKind, Passage, content_id
from retrieval.asking import Wishes, Wording, longest_proposal, proposal_form, proposal_messages
from retrieval.plan import Quota
from retrieval.question_types import QUESTION_TYPES, QuestionType, plan_types

# The pair writer trial (SmolLM2-135M, LoRA) passed 75 of 100 proposals through the checks at these.
TEMPERATURE = 0.7
TOP_P = 0.9
MAX_READER_TOKENS = 64
NEIGHBOURS = 4
"""Passages most like a chunk, one of which is its partner in a question about two."""
_PARTNER_QUERY = 400
"""Characters of a chunk by which its partners are searched."""


@dataclass(frozen=True, slots=True)
class Try:
    """One proposal of the plan; ``id`` names the pair that comes of it, or the failure."""

    id: str
    key: int
    sample: int
    kind: PairKind
    type: str = ""
    persona: str = ""


def plan_tries(
    plan: Sequence[Quota],
    run_id: str,
    wishes: Wishes,
    offered: Mapping[int, Sequence[QuestionType]],
    source_of: Mapping[int, str],
) -> list[Try]:
    """Return the plan's proposals; those of one chunk follow one another (the engine reuses the prefix).

    Kinds with an answer take turns over the whole plan, and so do personas; types, where they are planned, vary
    within each document among those that its chunks offer.
    """
    places = [(quota.key, sample) for quota in plan for sample in range(quota.tries)]
    types = plan_types(places, offered, source_of) if wishes.plan_types else None
    answered = cycle(_answered(wishes.kinds))
    personas = cycle(wishes.personas or ("",))
    tries: list[Try] = []
    for quota in plan:
        for sample in range(quota.tries):
            name = content_id("pair", run_id, str(quota.key), str(sample))
            last = sample >= quota.tries - quota.unanswerable
            kind: PairKind = "unanswerable" if last else next(answered)
            planned = types[len(tries)] if types is not None else ""
            tries.append(Try(name, quota.key, sample, kind, planned, next(personas)))
    return tries


def _answered(kinds: Sequence[PairKind]) -> tuple[PairKind, ...]:
    return tuple(kind for kind in kinds if kind != "unanswerable") or ("unanswerable",)


def planned_types(tries: Sequence[Try]) -> dict[str, int]:
    """Return how many questions of each type are planned; {} where types are not."""
    counts = Counter(one.type for one in tries if one.type)
    return {one: counts[one] for one in QUESTION_TYPES if counts[one]}


def unanswerable_share(kinds: Sequence[PairKind], share: float) -> float:
    """Return the share of proposals without an answer: all where nothing else is asked for, none where they are not."""
    if "unanswerable" not in kinds:
        return 0.0
    return 1.0 if set(kinds) == {"unanswerable"} else share


def partner_of(passage: Passage, sample: int, search: Callable[[str], Sequence[Passage]]) -> Passage | None:
    """Return another passage on the same matter, for a question about both; None if none is found.

    Args:
        passage: the chunk the proposal is about.
        sample: the proposal's number: those of one chunk get different partners as long as there are some.
        search: the production retriever, of ``NEIGHBOURS`` + 1 passages.
    """
    found = [other for other in search(passage.chunk.text[:_PARTNER_QUERY]) if other.chunk.id != passage.chunk.id]
    return found[sample % min(len(found), NEIGHBOURS)] if found else None


@dataclass(frozen=True, slots=True)
class Proposer:
    """Asks the generator for proposals, and the reader for answers."""

    generator: Generator
    adapter: str | None
    reader: Generator
    reader_adapter: str | None
    seed: int
    wishes: Wishes

    @property
    def name(self) -> str:
        """Return who writes, as pairs name it."""
        return f"{self.generator.model}+{self.adapter or 'none'}"

    def propose(self, one: Try, passages: Sequence[Passage]) -> str:
        """Return what the generator writes about the passages (two for the kind "multi")."""
        digest = content_id(str(self.seed), passages[0].chunk.id, str(one.sample))
        takes_grammars = getattr(self.generator, "takes_grammars", True)
        grammar, schema = proposal_form(one.kind, passages[0], takes_grammars=takes_grammars)
        request = GenerationRequest(
            proposal_messages(one.kind, passages, self._wording(one, passages)),
            adapter=self.adapter,
            max_tokens=longest_proposal(one.kind),
            temperature=TEMPERATURE,
            top_p=TOP_P,
            seed=int(digest[:8], 16) & 0x7FFFFFFF,
            grammar=grammar,
            json_schema=schema,
        )
        return self.generator.generate(request).text

    def _wording(self, one: Try, passages: Sequence[Passage]) -> Wording:
        text = "\n".join(passage.chunk.text for passage in passages)
        # A question about two passages follows from both: what one of them offers is not what they offer together.
        planned = one.type if one.kind != "multi" else ""
        return Wording(planned, one.persona, self.wishes.glossary.found_in(text))

    def read(self, question: str, passages: Sequence[Passage]) -> str:
        """Return the reader's answer to a question over passages."""
        request = GenerationRequest(
            answer_messages(question, passages), adapter=self.reader_adapter, max_tokens=MAX_READER_TOKENS
        )
        return self.reader.generate(request).text


def chunk_groups(tries: Sequence[Try], *, together: bool) -> Iterator[list[Try]]:
    """Yield the tries that share a prompt one after the other, or each alone where nothing is made together."""
    group: list[Try] = []
    for one in tries:
        if group and not (together and group[-1].key == one.key):
            yield group
            group = []
        group.append(one)
    if group:
        yield group
