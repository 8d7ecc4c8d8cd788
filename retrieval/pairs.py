"""Make question-answer pairs from a collection's chunks: share out the proposals, generate, check, keep the ledger.

The generator proposes and the checks of ``retrieval.curate`` decide; every proposal ends in the
store as accepted, rejected with a reason, or failed. Knows nothing of how generators work or of
what the pairs are used for.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Collection, Iterator, Sequence
from collections.abc import Generator as Generated
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from data.errors import ContextOverflow, EngineTimeout, InvalidRequest, NothingIndexed
from data.prompt import answer_messages, pair_messages
from data.protocols import GenerationRequest, Generator, Report
from data.records import Passage, Progress, QAPair, content_id
from data.store import Store
from retrieval.curate import Context, SourceCap, check, parse_candidate
from retrieval.grammar import PAIR_SCHEMA, QUESTION_GRAMMAR, QUESTION_SCHEMA, pair_grammar
from retrieval.plan import Quota, most_per_source, share_out
from retrieval.retriever import Retriever
from retrieval.wording import information

# The pair writer trial (SmolLM2-135M, LoRA) passed 75 of 100 proposals through the checks at these.
TEMPERATURE = 0.7
TOP_P = 0.9
MAX_PROPOSAL_TOKENS = 128
MAX_READER_TOKENS = 64


@dataclass(frozen=True, slots=True)
class _Try:
    """One proposal of the plan; ``id`` names the pair that comes of it, or the failure."""

    id: str
    key: int
    sample: int
    answerable: bool


def _tries(plan: Sequence[Quota], run_id: str) -> Iterator[_Try]:
    """Yield the plan's proposals; those of one chunk follow one another (the engine reuses the prefix)."""
    for quota in plan:
        for sample in range(quota.tries):
            name = content_id("pair", run_id, str(quota.key), str(sample))
            yield _Try(name, quota.key, sample, sample < quota.tries - quota.unanswerable)


@dataclass(frozen=True, slots=True)
class _Proposer:
    """Asks the generator for proposals, and the reader for answers."""

    generator: Generator
    adapter: str | None
    reader: Generator
    reader_adapter: str | None
    seed: int

    def propose(self, passage: Passage, sample: int, *, answerable: bool) -> str:
        digest = content_id(str(self.seed), passage.chunk.id, str(sample))
        grammar, schema = self._form(passage, answerable=answerable)
        request = GenerationRequest(
            pair_messages(passage, answerable=answerable),
            adapter=self.adapter,
            max_tokens=MAX_PROPOSAL_TOKENS,
            temperature=TEMPERATURE,
            top_p=TOP_P,
            seed=int(digest[:8], 16) & 0x7FFFFFFF,
            grammar=grammar,
            json_schema=schema,
        )
        return self.generator.generate(request).text

    def _form(self, passage: Passage, *, answerable: bool) -> tuple[str | None, str | None]:
        """Return the grammar of a proposal, or its JSON schema for a server that takes no grammars."""
        if getattr(self.generator, "takes_grammars", True):
            return (pair_grammar(passage.chunk.text) if answerable else QUESTION_GRAMMAR), None
        return None, PAIR_SCHEMA if answerable else QUESTION_SCHEMA

    def read(self, question: str, passages: Sequence[Passage]) -> str:
        request = GenerationRequest(
            answer_messages(question, passages), adapter=self.reader_adapter, max_tokens=MAX_READER_TOKENS
        )
        return self.reader.generate(request).text


@dataclass(frozen=True, slots=True)
class _Proposal:
    """What came of a try: the raw text, or why there is none."""

    of: _Try
    passage: Passage | None
    raw: str = ""
    failure: str = ""


class _Run:
    """One run over the ledger: proposes for some chunks at a time, checks and records in the order of the plan."""

    def __init__(self, store: Store, collection: str, run_id: str, proposer: _Proposer, context: Context) -> None:
        self._store = store
        self._collection = collection
        self._run_id = run_id
        self._proposer = proposer
        self._context = context

    @property
    def ledger(self) -> dict[str, Any]:
        """What the run has done so far."""
        return dict(self._store.pairs.run(self._run_id))

    def proposals(self, left: Sequence[_Try], parallel: int) -> Generated[_Proposal, None, None]:
        """Yield the proposals in order, made for up to ``parallel`` chunks at a time.

        Each is seeded by its chunk and sample, so how many are made together changes none. Those of one chunk
        are made one after the other: they share their prompt, which the generator then reads once. A run that is
        stopped makes again what was in the making.
        """
        chunks = [list(tries) for _, tries in groupby(left, lambda one: one.key if parallel > 1 else one.id)]
        waiting: deque[Future[list[_Proposal]]] = deque()
        pool = ThreadPoolExecutor(parallel, "proposals")
        try:
            for tries in chunks:
                waiting.append(pool.submit(self._propose_all, self._passage_of(tries[0].key), tries))
                if len(waiting) == parallel:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def step(self, proposal: _Proposal) -> str:
        """Check and record one proposal; return "accepted", the name of the check it failed, or "failed"."""
        failure, passage = proposal.failure, proposal.passage
        if not failure and passage is not None:
            try:
                pair = self._checked(passage, proposal)
            except (ContextOverflow, EngineTimeout) as error:  # this proposal's failure, not the run's
                failure = error.type
        if failure or passage is None:
            self._store.pairs.record_failure(self._run_id, failure, proposal.of.id)
            return "failed"
        self._store.pairs.add(self._collection, self._run_id, [pair])
        if pair.status == "accepted":
            self._context.accept(pair.question, pair.answer, passage.chunk.document_id)
            return "accepted"
        return pair.reason

    def _passage_of(self, key: int) -> Passage | None:
        found = self._store.chunks.by_keys([key]).get(key)
        return Passage(found[0], 0.0, 1, "pairs", found[1], found[2]) if found else None

    def _propose_all(self, passage: Passage | None, tries: Sequence[_Try]) -> list[_Proposal]:
        if passage is None:
            return [_Proposal(one, None, failure="chunk-deleted") for one in tries]
        made = []
        for one in tries:
            try:
                raw = self._proposer.propose(passage, one.sample, answerable=one.answerable)
                made.append(_Proposal(one, passage, raw))
            except (ContextOverflow, EngineTimeout) as error:  # this proposal's failure, not the run's
                made.append(_Proposal(one, passage, failure=error.type))
        return made

    def _checked(self, passage: Passage, proposal: _Proposal) -> QAPair:
        raw, answerable = proposal.raw, proposal.of.answerable
        candidate = parse_candidate(raw, "span" if answerable else "unanswerable", passage)
        results = check(candidate, self._context)
        failed = "" if results[-1].passed else results[-1].name
        return QAPair(
            id=proposal.of.id,
            question=candidate.question or raw,
            answer=candidate.answer,
            chunk_ids=(passage.chunk.id,),
            kind=candidate.kind,
            generated_by=f"{self._proposer.generator.model}+{self._proposer.adapter or 'none'}",
            status="rejected" if failed else "accepted",
            reason=failed,
            checks={result.name: {"passed": result.passed, "reason": result.reason} for result in results},
        )


def generate_pairs(
    store: Store,
    retriever: Retriever,
    generator: Generator,
    collection: str,
    *,
    requested: int,
    seed: int,
    adapter: str | None = None,
    reader: Generator | None = None,
    reader_adapter: str | None = None,
    exclude_documents: Collection[str] = (),
    evaluation_questions: Sequence[str] = (),
    unanswerable_share: float = 0.1,
    per_source_cap: float = 1.0,
    top_k: int = 4,
    parallel: int = 1,
    report: Report,
) -> dict[str, Any]:
    """Ask for ``requested`` proposals over a collection's chunks and keep those that pass the checks.

    A call with the inputs of an unfinished run continues it; with those of a finished one it returns
    its ledger. Chunks that have changed since make it a new run.

    Args:
        store: where chunks come from and pairs go.
        retriever: the production retriever; a question must bring its chunk back.
        generator: writes the proposals.
        collection: name of the collection.
        requested: number of proposals: accepted, rejected and failed ones add up to it.
        seed: decides which chunks are asked and every sample.
        adapter: the pair writer's key in ``generator``.
        reader: answers accepted questions once more; the generator itself by default. Without
            ``reader`` and ``reader_adapter`` that check is left out.
        reader_adapter: the reader's key in ``reader``.
        exclude_documents: ids of documents to make no pairs from.
        evaluation_questions: questions that no pair may resemble.
        unanswerable_share: share of proposals for questions that the documents do not answer, 0 to 1.
        per_source_cap: share of the accepted pairs that one document may hold, over 0, up to 1; widened
            where there are few documents (``retrieval.plan.most_per_source``).
        top_k: how many passages production retrieves.
        parallel: for how many chunks proposals are made at a time; it changes no proposal.
        report: receives the ledger after each proposal.

    Returns:
        The ledger: ``{"run_id", "requested", "accepted", "rejected": {reason: n}, "failed", "pending"}``.

    Raises:
        InvalidRequest: ``requested`` is not positive, or ``unanswerable_share`` or ``per_source_cap`` no share.
        NothingIndexed: there is no chunk to ask about.
        JobCancelled: ``report`` was told to stop; the run can be continued.
        EngineUnavailable: the engine is down; the run can be continued.
    """
    _check_numbers(requested, unanswerable_share, per_source_cap)
    reads = reader is not None or reader_adapter is not None
    proposer = _Proposer(generator, adapter, reader or generator, reader_adapter, seed)
    known, source_of, fingerprint = _chunks(store, collection, frozenset(exclude_documents))
    most = most_per_source(per_source_cap, requested, len(set(source_of.values())))
    plan = share_out(known, requested, seed=seed, unanswerable_share=unanswerable_share, source_of=source_of, most=most)
    inputs = {
        "requested": requested,
        "writer": [generator.model, adapter, seed],
        "reader": [proposer.reader.model, reader_adapter] if reads else None,
        "chunks": fingerprint,
        "evaluation_questions": content_id(*evaluation_questions),
        "shares": [unanswerable_share, top_k, per_source_cap],
    }
    run_id = _run_with(store, collection, requested, inputs)
    cap = SourceCap(store.pairs.accepted_by_document(collection), requested, most / requested)
    read = proposer.read if reads else None
    context = _context(store, retriever, collection, top_k, evaluation=evaluation_questions, read=read, cap=cap)
    _follow(_left(store, plan, run_id), _Run(store, collection, run_id, proposer, context), report, parallel)
    return {"run_id": run_id, **store.pairs.run(run_id)}


def _context(store: Store, retriever: Retriever, collection: str, top_k: int, **about: Any) -> Context:
    return Context(
        lambda question: retriever.search(question, collection, top_k),
        accepted=_accepted(store, collection),
        embed=lambda texts: retriever.vectors(texts, collection),
        **about,
    )


def _accepted(store: Store, collection: str) -> list[tuple[str, str]]:
    return [(pair.question, pair.answer) for pair in store.pairs.all(collection, "accepted", stale=False)]


def _check_numbers(requested: int, unanswerable_share: float, per_source_cap: float) -> None:
    if requested < 1 or not 0 <= unanswerable_share <= 1 or not 0 < per_source_cap <= 1:
        raise InvalidRequest(
            "Pairs cannot be generated with these numbers",
            got=f"requested={requested}, unanswerable_share={unanswerable_share}, per_source_cap={per_source_cap}",
            wanted="requested of at least 1, unanswerable_share from 0 to 1, per_source_cap over 0 and up to 1",
        )


def _chunks(store: Store, collection: str, excluded: frozenset[str]) -> tuple[dict[int, int], dict[int, str], str]:
    """Return the information and the document of each chunk by key, and a fingerprint of the keys and chunks."""
    known: dict[int, int] = {}
    source_of: dict[int, str] = {}
    ids: list[str] = []
    for key, chunk, _title in store.chunks.iterate(collection):
        if chunk.document_id not in excluded:
            known[key] = information(chunk.text)
            source_of[key] = chunk.document_id
            ids.append(f"{key} {chunk.id}")
    if not known:
        raise NothingIndexed(
            f'There are no passages in "{collection}" to make pairs from',
            hint="Ingest documents first, or exclude fewer of them.",
        )
    return known, source_of, content_id(*sorted(ids))


def _run_with(store: Store, collection: str, requested: int, inputs: dict[str, Any]) -> str:
    """Return the latest run with these inputs, or a new one."""
    for run_id in store.pairs.runs(collection):
        if store.pairs.run_inputs(run_id) == inputs:
            return run_id
    return store.pairs.start_run(collection, requested, inputs)


def _left(store: Store, plan: Sequence[Quota], run_id: str) -> list[_Try]:
    done = {pair.id for pair in store.pairs.of_run(run_id)} | {item for item, _ in store.pairs.failures(run_id)}
    return [proposal for proposal in _tries(plan, run_id) if proposal.id not in done]


def _follow(left: Sequence[_Try], run: _Run, report: Report, parallel: int) -> None:
    """Make the proposals that are left, reporting after each."""
    ledger = run.ledger
    rejected: Counter[str] = Counter(ledger["rejected"])
    accepted, failed, total = ledger["accepted"], ledger["failed"], ledger["requested"]
    began = time.monotonic()

    def tell(made: int) -> None:
        pending = len(left) - made
        eta_s = (time.monotonic() - began) / made * pending if made else None
        metrics = {"accepted": accepted, "rejected": dict(rejected), "failed": failed}
        report(Progress(total - pending, total, "proposals", eta_s, "pairs", metrics))

    tell(0)
    with closing(run.proposals(left, parallel)) as proposals:
        for made, proposal in enumerate(proposals, 1):
            outcome = run.step(proposal)
            accepted += outcome == "accepted"
            failed += outcome == "failed"
            rejected.update([outcome] if outcome not in {"accepted", "failed"} else [])
            tell(made)
