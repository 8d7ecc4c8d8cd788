"""Make pairs of what documents state: proposed by transformations, decided by the checks, kept in a ledger.

Knows nothing of generators, nor of how statements become questions.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from data.errors import InvalidRequest, NothingIndexed
from data.protocols import Report
from data.records import Chunk, PairKind, Passage, Progress, QAPair, content_id
from data.store import DocumentRow, Store
from retrieval.candidates import Candidate, CheckResult, Context, SourceCap
from retrieval.curate import STATED_CHECKS, run_checks
from retrieval.plan import most_per_source
from retrieval.question_types import count_types
from retrieval.retriever import Retriever
from retrieval.stated.entries import Stated
from retrieval.stated.statements import agreed, statements
from retrieval.wording import is_short, span_of

GENERATED_BY = "stated"
"""Who made a pair, followed by a colon and the transformation."""
NOTHING = {"run_id": "", "requested": 0, "accepted": 0, "rejected": {}, "failed": 0, "pending": 0}


@dataclass(frozen=True, slots=True)
class _Proposal:
    """What a document states, with the chunk that holds it."""

    id: str
    stated: Stated
    row: DocumentRow
    chunk: Chunk


def state_pairs(
    store: Store,
    retriever: Retriever,
    collection: str,
    *,
    requested: int,
    seed: int,
    exclude_documents: Collection[str] = (),
    evaluation_questions: Sequence[str] = (),
    per_source_cap: float = 1.0,
    top_k: int = 4,
    report: Report,
) -> dict[str, Any]:
    """Propose up to ``requested`` pairs that the collection's documents state, and keep those that pass the checks.

    Documents take turns in a seeded order, and so do the statements of each, so that a small number covers all of
    them. A call over the same documents continues an unfinished run, or returns the ledger of a finished one.

    Args:
        store: where documents come from and pairs go.
        retriever: the production retriever; a question must bring its statement's chunk back.
        collection: name of the collection.
        requested: most proposals; documents may state less.
        seed: decides which are taken where there are more.
        exclude_documents: ids of documents to take nothing from.
        evaluation_questions: questions that no pair may resemble.
        per_source_cap: share of the accepted pairs that one document may hold, over 0, up to 1.
        top_k: how many passages production retrieves.
        report: receives the ledger after each proposal.

    Returns:
        The ledger: ``{"run_id", "requested", "accepted", "rejected": {reason: n}, "failed", "pending"}`` and
        ``question_types``; ``requested`` is what was proposed, 0 (and ``run_id`` "") where nothing is stated.

    Raises:
        InvalidRequest: ``requested`` is not positive, or ``per_source_cap`` no share.
        NothingIndexed: there is no document to take statements from.
        JobCancelled: ``report`` was told to stop; the run can be continued.
    """
    if requested < 1 or not 0 < per_source_cap <= 1:
        raise InvalidRequest(
            "Pairs cannot be taken from statements with these numbers",
            got=f"requested={requested}, per_source_cap={per_source_cap}",
            wanted="requested of at least 1, per_source_cap over 0 and up to 1",
        )
    found = _drawn(_proposals(store, collection, frozenset(exclude_documents)), requested, seed)
    if not found:
        return {**NOTHING, "question_types": {"planned": {}, "accepted": {}}}
    run_id = _run_of(store, collection, found, [content_id(*evaluation_questions), top_k, per_source_cap])
    most = most_per_source(per_source_cap, len(found), len({one.row.id for one in found}))
    context = Context(
        lambda question: retriever.search(question, collection, top_k),
        accepted=[(pair.question, pair.answer) for pair in store.pairs.all(collection, "accepted", stale=False)],
        evaluation=evaluation_questions,
        embed=lambda texts: retriever.vectors(texts, collection),
        cap=SourceCap(store.pairs.accepted_by_document(collection), len(found), most / len(found)),
    )
    _Run(store, collection, run_id, context).decide(found, report)
    accepted = [pair.question for pair in store.pairs.of_run(run_id) if pair.status == "accepted"]
    types = {"planned": {}, "accepted": count_types(accepted)}
    return {"run_id": run_id, **store.pairs.run(run_id), "question_types": types}


def _proposals(store: Store, collection: str, excluded: frozenset[str]) -> list[_Proposal]:
    """Return every proposal, in the documents' order."""
    rows: dict[str, tuple[DocumentRow, list[Chunk]]] = {}
    found: list[tuple[str, Stated]] = []
    for row, document, chunks in store.documents.iterate(collection):
        if row.id not in excluded:
            rows[row.id] = (row, chunks)
            found += [(row.id, one) for one in statements(document.title, document.text)]
    if not rows:
        raise NothingIndexed(
            f'There are no passages in "{collection}" to make pairs from',
            hint="Ingest documents first, or exclude fewer of them.",
        )
    proposals = []
    for document_id, one in agreed(found):
        row, chunks = rows[document_id]
        chunk = next((chunk for chunk in chunks if chunk.start <= one.start and one.end <= chunk.end), None)
        if chunk is not None:  # a statement that chunks cut apart is in none of them
            identity = content_id("stated", collection, one.question, one.answer, chunk.id)
            proposals.append(_Proposal(identity, one, row, chunk))
    return proposals


def _drawn(found: Sequence[_Proposal], requested: int, seed: int) -> list[_Proposal]:
    """Return ``requested`` of the proposals: a turn for each document, then the next turn."""
    random = Random(seed)  # noqa: S311  (sampling, no secret)
    by_document: defaultdict[str, list[_Proposal]] = defaultdict(list)
    for proposal in sorted(found, key=lambda one: one.id):
        by_document[proposal.row.id].append(proposal)
    drawn = []
    for proposals in by_document.values():
        random.shuffle(proposals)
        drawn += [(turn, random.random(), one) for turn, one in enumerate(proposals)]
    return [one for _, _, one in sorted(drawn, key=lambda entry: entry[:2])][:requested]


def _run_of(store: Store, collection: str, found: Sequence[_Proposal], about: Sequence[Any]) -> str:
    inputs = {"stated": content_id(*(one.id for one in found)), "about": list(about)}
    for run_id in store.pairs.runs(collection):
        if store.pairs.run_inputs(run_id) == inputs:
            return run_id
    return store.pairs.start_run(collection, len(found), inputs)


@dataclass(frozen=True, slots=True)
class _Run:
    """A run over the ledger: checks proposals in their order and records each."""

    store: Store
    collection: str
    id: str
    context: Context

    def decide(self, found: Sequence[_Proposal], report: Report) -> None:
        """Check and record the proposals that are left, reporting after each."""
        ledger = self.store.pairs.run(self.id)
        rejected, accepted = Counter(ledger["rejected"]), ledger["accepted"]
        lost = {item for item, _ in self.store.pairs.failures(self.id)}
        done = {pair.id for pair in self.store.pairs.of_run(self.id)} | lost
        left = [one for one in found if one.id not in done]
        began = time.monotonic()
        for number, proposal in enumerate(left, 1):
            reason = self._record(proposal)
            accepted += not reason
            rejected.update([reason] if reason else [])
            eta_s = (time.monotonic() - began) / number * (len(left) - number)
            metrics = {"accepted": accepted, "rejected": dict(rejected), "failed": ledger["failed"]}
            report(Progress(len(found) - len(left) + number, len(found), "proposals", eta_s, "stated", metrics))

    def _record(self, proposal: _Proposal) -> str:
        """Return why a proposal is rejected, "" if it is accepted."""
        pair = _checked(proposal, self.context)
        if not self.store.pairs.add(self.collection, self.id, [pair]):
            return "duplicate"  # another run has it
        if pair.status == "accepted":
            self.context.accept(pair.question, pair.answer, proposal.row.id)
        return pair.reason


def _checked(proposal: _Proposal, context: Context) -> QAPair:
    stated, chunk = proposal.stated, proposal.chunk
    single = is_short(stated.answer) and span_of(stated.answer, chunk.text) is not None
    kind: PairKind = "span" if single else "free"
    passage = Passage(chunk, 0.0, 1, GENERATED_BY, proposal.row.source, proposal.row.title)
    candidate = Candidate("", stated.question, stated.answer, kind, passage)
    where = CheckResult("stated", True, f"{stated.made_by}, at {stated.start}:{stated.end} of its document")
    results = [where, *run_checks(STATED_CHECKS, candidate, context)]
    failed = "" if results[-1].passed else results[-1].name
    return QAPair(
        id=proposal.id,
        question=stated.question,
        answer=stated.answer,
        chunk_ids=(chunk.id,),
        kind=kind,
        generated_by=f"{GENERATED_BY}:{stated.made_by}",
        status="rejected" if failed else "accepted",
        reason=failed,
        checks={result.name: {"passed": result.passed, "reason": result.reason} for result in results},
    )
