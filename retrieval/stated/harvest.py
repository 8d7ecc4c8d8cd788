"""Make pairs of what documents state: proposed by transformations, decided by the checks, kept in a ledger.

Knows nothing of generators, nor of how statements become questions.
"""

from __future__ import annotations

import time
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
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
KEY_DIGITS = 16
"""Hex digits of a pair's id that are its statement's; the others are the run's, so that a run may decide anew."""
NOTHING = {"run_id": "", "requested": 0, "accepted": 0, "rejected": {}, "failed": 0, "pending": 0}


@dataclass(frozen=True, slots=True)
class _Proposal:
    """What a document states, with the chunk that holds it."""

    statement: str
    stated: Stated
    row: DocumentRow
    chunk: Chunk

    @property
    def key(self) -> str:
        """What the ids of its pairs begin with."""
        return self.statement[:KEY_DIGITS]

    def id_in(self, run_id: str) -> str:
        """Return the id of its pair in a run."""
        return self.key + content_id(self.statement, run_id)[KEY_DIGITS:]


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
    beside: Sequence[str] = (),
    report: Report,
) -> dict[str, Any]:
    """Propose up to ``requested`` pairs that the collection's documents state, and keep those that pass the checks.

    Documents take turns in a seeded order, and so do the statements of each, so that a small number covers all of
    them. A call with the same arguments over the same documents continues an unfinished run, or returns the ledger of a
    finished one. Another run leaves out, before it counts, each statement whose pair is accepted or was decided or
    edited by a person; what a check rejected it decides again.

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
        beside: what is made of the same request besides; another wish is another run.
        report: told of each document, then given the ledger after each proposal.

    Returns:
        The ledger: ``{"run_id", "requested", "accepted", "rejected": {reason: n}, "failed", "pending"}`` and
        ``question_types``; ``requested`` is what was proposed, 0 (and ``run_id`` "") where nothing new is stated.

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
    drawn = _drawn(_proposals(store, collection, frozenset(exclude_documents), report), seed)
    about = [content_id(*evaluation_questions), top_k, per_source_cap, requested, seed, content_id(*beside)]
    run = _run_of(store, collection, drawn, requested, about)
    if run is None:
        return {**NOTHING, "question_types": {"planned": {}, "accepted": {}}}
    most = most_per_source(per_source_cap, len(run.found), len({one.row.id for one in drawn}))
    context = Context(
        lambda question: retriever.search(question, collection, top_k),
        accepted=[(pair.question, pair.answer) for pair in store.pairs.all(collection, "accepted", stale=False)],
        evaluation=evaluation_questions,
        embed=lambda texts: retriever.vectors(texts, collection),
        cap=SourceCap(store.pairs.accepted_by_document(collection), len(run.found), most / len(run.found)),
    )
    run.decide(context, report)
    accepted = [pair.question for pair in store.pairs.of_run(run.id) if pair.status == "accepted"]
    types = {"planned": {}, "accepted": count_types(accepted)}
    return {"run_id": run.id, **store.pairs.run(run.id), "question_types": types}


def _proposals(store: Store, collection: str, excluded: frozenset[str], report: Report) -> list[_Proposal]:
    """Return every proposal, in the documents' order."""
    found: list[tuple[tuple[DocumentRow, Chunk | None], Stated]] = []
    taken, total = 0, store.documents.count(collection)
    for number, (row, document, chunks) in enumerate(store.documents.iterate(collection), 1):
        report(Progress(number, total, "documents", None, "statements"))
        if row.id not in excluded:
            taken += 1
            for one in statements(document.title, document.text):
                held = (chunk for chunk in chunks if chunk.start <= one.start and one.end <= chunk.end)
                found.append(((row, next(held, None)), one))
    if not taken:
        raise NothingIndexed(
            f'There are no passages in "{collection}" to make pairs from',
            hint="Ingest documents first, or exclude fewer of them.",
        )
    return [
        _Proposal(content_id("stated", collection, one.question, one.answer, chunk.id), one, row, chunk)
        for (row, chunk), one in agreed(found)
        if chunk is not None  # a statement that chunks cut apart is in none of them
    ]


def _drawn(found: Sequence[_Proposal], seed: int) -> list[_Proposal]:
    """Return the proposals in a seeded order: a turn for each document, then the next turn."""
    random = Random(seed)  # noqa: S311  (sampling, no secret)
    by_document: defaultdict[str, list[_Proposal]] = defaultdict(list)
    for proposal in sorted(found, key=lambda one: one.statement):
        by_document[proposal.row.id].append(proposal)
    drawn = []
    for proposals in by_document.values():
        random.shuffle(proposals)
        drawn += [(turn, random.random(), one) for turn, one in enumerate(proposals)]
    return [one for _, _, one in sorted(drawn, key=lambda entry: entry[:2])]


def _run_of(
    store: Store, collection: str, drawn: Sequence[_Proposal], requested: int, about: Sequence[Any]
) -> _Run | None:
    """Return the run with these inputs, or a new one; None where nothing is left for it.

    The order is of all statements, known or not, so that a run finds its proposals again.
    """
    inputs = {"stated": content_id(*(one.statement for one in drawn)), "about": list(about)}
    known = {pair.id[:KEY_DIGITS]: pair.id for pair in store.pairs.all(collection) if _is_known(pair)}
    for run_id in store.pairs.runs(collection):
        if store.pairs.run_inputs(run_id) == inputs:
            for pair in store.pairs.of_run(run_id):
                known.pop(pair.id[:KEY_DIGITS], None)
            # What another run has taken since this one stopped comes last: it fills the number that was requested.
            found = sorted(drawn, key=lambda one: one.key in known)[: store.pairs.run(run_id)["requested"]]
            return _Run(store, collection, run_id, found, known)
    if found := [one for one in drawn if one.key not in known][:requested]:
        return _Run(store, collection, store.pairs.start_run(collection, len(found), inputs), found, {})
    return None


def _is_known(pair: QAPair) -> bool:
    """Tell whether a pair of a statement is one that stays: all but those that a check alone has rejected."""
    if not pair.generated_by.startswith(GENERATED_BY + ":"):
        return False
    failed = pair.checks.get(pair.reason, {}).get("passed") is False
    edited = GENERATED_BY not in pair.checks  # an edit checks anew, and nothing was stated in its words
    return edited or pair.status != "rejected" or not failed


@dataclass(frozen=True, slots=True)
class _Run:
    """A run over the ledger: checks proposals in their order and records each; ``known`` are other runs' pairs."""

    store: Store
    collection: str
    id: str
    found: Sequence[_Proposal]
    known: Mapping[str, str]

    def decide(self, context: Context, report: Report) -> None:
        """Check and record the proposals that are left, reporting after each."""
        ledger = self.store.pairs.run(self.id)
        rejected, accepted = Counter(ledger["rejected"]), ledger["accepted"]
        done = {pair.id for pair in self.store.pairs.of_run(self.id)}
        left = [one for one in self.found if one.id_in(self.id) not in done] if ledger["pending"] else []
        began = time.monotonic()
        for number, proposal in enumerate(left, 1):
            reason = self._record(proposal, context)
            accepted += not reason
            rejected.update([reason] if reason else [])
            eta_s = (time.monotonic() - began) / number * (len(left) - number)
            metrics = {"accepted": accepted, "rejected": dict(rejected), "failed": ledger["failed"]}
            total = len(self.found)
            report(Progress(total - len(left) + number, total, "proposals", eta_s, "stated", metrics))

    def _record(self, proposal: _Proposal, context: Context) -> str:
        """Return why a proposal is rejected, "" if it is accepted."""
        pair = _checked(proposal, self.known.get(proposal.key) or proposal.id_in(self.id), context)
        if not self.store.pairs.add(self.collection, self.id, [pair]):
            return "duplicate"  # another run has it
        if pair.status == "accepted":
            context.accept(pair.question, pair.answer, proposal.row.id)
        return pair.reason


def _checked(proposal: _Proposal, pair_id: str, context: Context) -> QAPair:
    stated, chunk = proposal.stated, proposal.chunk
    single = is_short(stated.answer) and span_of(stated.answer, chunk.text) is not None
    kind: PairKind = "span" if single else "free"
    passage = Passage(chunk, 0.0, 1, GENERATED_BY, proposal.row.source, proposal.row.title)
    candidate = Candidate("", stated.question, stated.answer, kind, passage)
    where = CheckResult("stated", True, f"{stated.made_by}, at {stated.start}:{stated.end} of its document")
    results = [where, *run_checks(STATED_CHECKS, candidate, context)]
    failed = "" if results[-1].passed else results[-1].name
    return QAPair(
        id=pair_id,
        question=stated.question,
        answer=stated.answer,
        chunk_ids=(chunk.id,),
        kind=kind,
        generated_by=f"{GENERATED_BY}:{stated.made_by}",
        status="rejected" if failed else "accepted",
        reason=failed,
        checks={result.name: {"passed": result.passed, "reason": result.reason} for result in results},
    )
