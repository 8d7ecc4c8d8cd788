"""Make question-answer pairs from a collection's chunks: share out the proposals, generate, check, keep the ledger.

The generator proposes and the checks of ``retrieval.curate`` decide; every proposal ends in the
store as accepted, rejected with a reason, or failed. Knows nothing of how generators work or of
what the pairs are used for.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Collection, Sequence
from collections.abc import Generator as Generated
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any

from data.errors import ContextOverflow, EngineTimeout, InvalidRequest, NothingIndexed
from data.protocols import Generator, Report
from data.records import Passage, Progress, QAPair, content_id
from data.store import Store
from retrieval.asking import Wishes
from retrieval.candidates import Context, Reading, SourceCap, parse_candidate
from retrieval.curate import check
from retrieval.plan import Quota, most_per_source, share_out
from retrieval.proposing import NEIGHBOURS, Proposer, Try, chunk_groups, partner_of, plan_tries, planned_types
from retrieval.proposing import unanswerable_share as share_without_answer
from retrieval.question_types import QuestionType, askable, count_types
from retrieval.read_ahead import ReadAhead
from retrieval.retriever import Retriever
from retrieval.wording import information, says_something

NO_WISHES = Wishes()


@dataclass(frozen=True, slots=True)
class _Proposal:
    """What came of a try: the raw text, or why there is none."""

    of: Try
    passages: tuple[Passage, ...]
    raw: str = ""
    failure: str = ""
    reading: Reading | None = None


class _Run:
    """One run over the ledger: proposes for some chunks at a time, checks and records in the order of the plan."""

    def __init__(
        self,
        store: Store,
        retriever: Retriever,
        collection: str,
        run_id: str,
        *,
        proposer: Proposer,
        context: Context,
        ahead: ReadAhead,
    ) -> None:
        self._store = store
        self._neighbours = partial(retriever.search, collection=collection, top_k=NEIGHBOURS + 1)
        self._collection = collection
        self._run_id = run_id
        self._proposer = proposer
        self._context = context
        self._ahead = ahead

    @property
    def ledger(self) -> dict[str, Any]:
        """What the run has done so far."""
        return dict(self._store.pairs.run(self._run_id))

    def proposals(self, left: Sequence[Try], parallel: int) -> Generated[_Proposal, None, None]:
        """Yield the proposals in order, made for up to ``parallel`` chunks at a time.

        Each is seeded by its chunk and sample, so how many are made together changes none. Those of one chunk
        are made one after the other: they share their prompt, which the generator then reads once. A run that is
        stopped makes again what was in the making.
        """
        waiting: deque[Future[list[_Proposal]]] = deque()
        pool = ThreadPoolExecutor(parallel, "proposals")
        try:
            for tries in chunk_groups(left, together=parallel > 1):
                about = self._passages_of(tries)  # who asks is a context variable
                waiting.append(pool.submit(copy_context().run, self._propose_all, tries, about))
                if len(waiting) == parallel:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def step(self, proposal: _Proposal) -> str:
        """Check and record one proposal; return "accepted", the name of the check it failed, or "failed"."""
        failure = proposal.failure
        if not failure:
            try:
                pair = self._checked(proposal)
            except (ContextOverflow, EngineTimeout) as error:  # this proposal's failure, not the run's
                failure = error.type
        if failure:
            self._store.pairs.record_failure(self._run_id, failure, proposal.of.id)
            return "failed"
        self._store.pairs.add(self._collection, self._run_id, [pair])
        if pair.status == "accepted":
            self._context.accept(pair.question, pair.answer, *(p.chunk.document_id for p in proposal.passages))
            return "accepted"
        return pair.reason

    def _passages_of(self, tries: Sequence[Try]) -> list[tuple[Passage, ...]]:
        """Return the passages that each of one chunk's proposals is about; () where they are not to be had."""
        found = self._store.chunks.by_keys([tries[0].key]).get(tries[0].key)
        if found is None:
            return [()] * len(tries)
        passage = Passage(found[0], 0.0, 1, "pairs", found[1], found[2])
        return [(passage,) if one.kind != "multi" else self._two(passage, one.sample) for one in tries]

    def _two(self, passage: Passage, sample: int) -> tuple[Passage, ...]:
        partner = partner_of(passage, sample, self._neighbours)
        return (passage, partner) if partner is not None else (passage,)

    def _propose_all(self, tries: Sequence[Try], about: Sequence[tuple[Passage, ...]]) -> list[_Proposal]:
        made = []
        for one, passages in zip(tries, about, strict=True):
            wanted = 2 if one.kind == "multi" else 1
            if len(passages) < wanted:
                made.append(_Proposal(one, (), failure="no-second-passage" if passages else "chunk-deleted"))
                continue
            try:
                raw = self._proposer.propose(one, passages)
                made.append(_Proposal(one, passages, raw, reading=self._ahead.read(raw, one.kind, passages)))
            except (ContextOverflow, EngineTimeout) as error:  # this proposal's failure, not the run's
                made.append(_Proposal(one, passages, failure=error.type))
        return made

    def _checked(self, proposal: _Proposal) -> QAPair:
        candidate = parse_candidate(proposal.raw, proposal.of.kind, *proposal.passages)
        self._context.reading = proposal.reading
        results = check(candidate, self._context)
        failed = "" if results[-1].passed else results[-1].name
        return QAPair(
            id=proposal.of.id,
            question=candidate.question or proposal.raw,
            answer=candidate.answer,
            chunk_ids=tuple(passage.chunk.id for passage in proposal.passages),
            kind=candidate.kind,
            generated_by=self._proposer.name,
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
    wishes: Wishes = NO_WISHES,
    per_source_cap: float = 1.0,
    top_k: int = 4,
    parallel: int = 1,
    read_ahead: bool = False,
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
        unanswerable_share: share of proposals for questions that the documents do not answer, 0 to 1; all or none
            where ``wishes.kinds`` has nothing else, or no "unanswerable".
        wishes: which kinds of pairs, and how they are worded.
        per_source_cap: share of the accepted pairs that one document may hold, over 0, up to 1; widened
            where there are few documents (``retrieval.plan.most_per_source``).
        top_k: how many passages production retrieves.
        parallel: for how many chunks proposals are made at a time; it changes no proposal.
        read_ahead: have the reader answer beside the proposing, before checks that need the order; it costs answers to
            questions that these reject, and changes no pair. For where several engines generate.
        report: receives the ledger after each proposal.

    Returns:
        The ledger: ``{"run_id", "requested", "accepted", "rejected": {reason: n}, "failed", "pending"}``, and
        ``question_types``: ``{"planned": {type: n}, "accepted": {type: n}}`` (``retrieval.question_types``).

    Raises:
        InvalidRequest: ``requested`` is not positive, or ``unanswerable_share`` or ``per_source_cap`` no share.
        NothingIndexed: there is no chunk to ask about.
        JobCancelled: ``report`` was told to stop; the run can be continued.
        EngineUnavailable: the engine is down; the run can be continued.
    """
    _check_numbers(requested, unanswerable_share, per_source_cap)
    proposer = Proposer(generator, adapter, reader or generator, reader_adapter, seed, wishes)
    read = None if reader is None and reader_adapter is None else proposer.read
    known = _chunks(store, collection, frozenset(exclude_documents))
    most = known.most_per_source(per_source_cap, requested)
    plan = known.shared_out(requested, seed, most, share_without_answer(wishes.kinds, unanswerable_share))
    inputs = {
        "shares": [unanswerable_share, top_k, per_source_cap],
        **_said_by(proposer, known.fingerprint, requested, evaluation_questions, reads=read is not None),
    }
    run_id = _run_with(store, collection, requested, inputs)
    cap = SourceCap(store.pairs.accepted_by_document(collection), requested, most / requested)
    about = {"evaluation": evaluation_questions, "cap": cap, "read": read, "glossary": wishes.glossary}
    context = _context(store, retriever, collection, top_k, **about)
    tries = plan_tries(plan, run_id, wishes, known.offered, known.source_of)
    early = ReadAhead(context, read if read_ahead else None)
    run = _Run(store, retriever, collection, run_id, proposer=proposer, context=context, ahead=early)
    _follow(_left(store, tries, run_id), run, report, parallel)
    return {"run_id": run_id, **store.pairs.run(run_id), "question_types": _types(store, run_id, tries)}


def _said_by(
    proposer: Proposer, chunks: str, requested: int, evaluation_questions: Sequence[str], *, reads: bool
) -> dict[str, Any]:
    """Return what tells runs apart by who writes and who reads, and what was wished for."""
    return {
        "requested": requested,
        "evaluation_questions": content_id(*evaluation_questions),
        "writer": [proposer.generator.model, proposer.adapter, proposer.seed],
        "reader": [proposer.reader.model, proposer.reader_adapter] if reads else None,
        "chunks": chunks,
        **proposer.wishes.fingerprint(),
    }


def _types(store: Store, run_id: str, tries: Sequence[Try]) -> dict[str, dict[str, int]]:
    """Return which types of questions were planned (nothing where they were not), and which were accepted."""
    accepted = [pair.question for pair in store.pairs.of_run(run_id) if pair.status == "accepted"]
    return {"planned": planned_types(tries), "accepted": count_types(accepted)}


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


@dataclass(frozen=True, slots=True)
class _Chunks:
    """What a plan needs of each chunk, by its key, and a fingerprint of the keys and chunks."""

    information: dict[int, int]
    offered: dict[int, tuple[QuestionType, ...]]
    source_of: dict[int, str]
    fingerprint: str

    def most_per_source(self, share: float, requested: int) -> int:
        return most_per_source(share, requested, len(set(self.source_of.values())))

    def shared_out(self, requested: int, seed: int, most: int, unanswerable_share: float) -> list[Quota]:
        return share_out(
            self.information,
            requested,
            seed=seed,
            unanswerable_share=unanswerable_share,
            source_of=self.source_of,
            most=most,
        )


def _chunks(store: Store, collection: str, excluded: frozenset[str]) -> _Chunks:
    found = [
        (key, chunk) for key, chunk, _title in store.chunks.iterate(collection) if chunk.document_id not in excluded
    ]
    # Code and markup without words around them give questions about nothing.
    found = [(key, chunk) for key, chunk in found if says_something(chunk.text)] or found
    if not found:
        raise NothingIndexed(
            f'There are no passages in "{collection}" to make pairs from',
            hint="Ingest documents first, or exclude fewer of them.",
        )
    return _Chunks(
        {key: information(chunk.text) for key, chunk in found},
        {key: askable(chunk.text) for key, chunk in found},
        {key: chunk.document_id for key, chunk in found},
        content_id(*sorted(f"{key} {chunk.id}" for key, chunk in found)),
    )


def _run_with(store: Store, collection: str, requested: int, inputs: dict[str, Any]) -> str:
    """Return the latest run with these inputs, or a new one."""
    for run_id in store.pairs.runs(collection):
        if store.pairs.run_inputs(run_id) == inputs:
            return run_id
    return store.pairs.start_run(collection, requested, inputs)


def _left(store: Store, tries: Sequence[Try], run_id: str) -> list[Try]:
    done = {pair.id for pair in store.pairs.of_run(run_id)} | {item for item, _ in store.pairs.failures(run_id)}
    return [proposal for proposal in tries if proposal.id not in done]


def _follow(left: Sequence[Try], run: _Run, report: Report, parallel: int) -> None:
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
