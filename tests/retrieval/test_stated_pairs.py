"""Pairs of statements go through the checks into a ledger that reconciles, and each says where it was stated."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from data.errors import InvalidRequest, JobCancelled, NothingIndexed
from data.records import Progress
from retrieval.stated.harvest import state_pairs
from tests.retrieval.scripted import CORPUS, Corpus

FERRY = """# Orrin

The Ferry House of Orrin was built in 1842 by the brothers Ask.

The Tolm Lighthouse is a white tower on the cliff of Tolm, and boats from Orrin pass it on their way to the bay.

## Mail

The Tolm Mail Office was opened in 1871 to carry letters, which the keeper sends to keeper@orrin.se every day.
Orrin Mail is also known as keeper@orrin.se.
"""
TOLM = """# Tolm

The Ferry House of Orrin was built in 1842, and the garden of Tolm grew around it in the years that followed it.

The Garden Society of Tolm was founded in 1902, and blue roses grow beside its wall on the road to the harbour.
"""


@pytest.fixture
def corpus(tmp_path: Path) -> Iterator[Corpus]:
    with Corpus(tmp_path, {**CORPUS, "ferry.md": FERRY, "tolm.md": TOLM}) as made:
        yield made


def ignore(_: Progress) -> None:
    """Report to nobody."""


def stated(corpus: Corpus, **changes: object) -> dict[str, object]:
    inputs: dict[str, object] = {"requested": 50, "seed": 1, "report": ignore, **changes}
    return state_pairs(corpus.store, corpus.retriever, "default", **inputs)  # type: ignore[arg-type]


def test_the_ledger_reconciles_and_each_pair_knows_its_statement(corpus: Corpus) -> None:
    ledger = stated(corpus)
    pairs = {pair.question: pair for pair in corpus.store.pairs.of_run(str(ledger["run_id"]))}
    rejected = ledger["rejected"]
    assert isinstance(rejected, dict)
    assert ledger["requested"] == len(pairs) == int(str(ledger["accepted"])) + sum(rejected.values()) > 4
    assert (ledger["failed"], ledger["pending"]) == (0, 0)
    mail = pairs["What is Orrin Mail also known as?"]
    assert (mail.status, mail.reason) == ("rejected", "no_personal_data")
    built = pairs["When was the Ferry House of Orrin built?"]
    assert (built.answer, built.kind, built.generated_by, built.status) == (
        "1842",
        "span",
        "stated:when_done",
        "accepted",
    )
    tower = pairs["What is the Tolm Lighthouse?"]
    assert tower.kind == "free"
    (chunk,) = (corpus.store.chunks.get(chunk_id) for chunk_id in tower.chunk_ids)
    where, place = tower.checks["stated"]["reason"].removesuffix(" of its document").split(", at ")
    start, end = map(int, place.split(":"))
    text = corpus.store.documents.get(chunk.document_id).text
    assert where == "definition"
    assert text[start:end].startswith("The Tolm Lighthouse is a white tower")
    assert tower.answer in text[start:end]
    assert chunk.start <= start < end <= chunk.end
    assert "answered_alike" not in tower.checks


def test_fewer_are_taken_from_every_document_in_turn(corpus: Corpus) -> None:
    ledger = stated(corpus, requested=3, seed=4)
    assert ledger["requested"] == 3
    chunks = [corpus.store.chunks.get(pair.chunk_ids[0]) for pair in corpus.store.pairs.of_run(str(ledger["run_id"]))]
    assert len({chunk.document_id for chunk in chunks}) == 3
    again = stated(corpus, requested=3, seed=4)
    assert again == ledger


def reconciled(ledger: dict[str, object]) -> dict[str, int]:
    """Return a finished ledger's reasons of rejection, its sum checked."""
    rejected = ledger["rejected"]
    assert isinstance(rejected, dict)
    assert ledger["requested"] == int(str(ledger["accepted"])) + sum(rejected.values())
    assert ledger["failed"] == ledger["pending"] == 0
    return rejected


@pytest.mark.parametrize("change", [{"seed": 2}, {"top_k": 5}, {"evaluation_questions": ()}, {"beside": ("span",)}])
def test_another_run_decides_again_what_a_check_rejected_and_leaves_out_what_is_kept(
    corpus: Corpus, change: dict[str, object]
) -> None:
    measured = {"evaluation_questions": ["When was the Ferry House of Orrin built?"]}
    first = stated(corpus, **measured)
    assert reconciled(first)["uncontaminated"] == 1
    second = stated(corpus, **measured | change)
    assert second["run_id"] != first["run_id"]
    assert second["requested"] == sum(reconciled(first).values())
    assert "duplicate" not in reconciled(second)
    freed = "evaluation_questions" in change
    assert second["accepted"] == int(freed)
    assert stated(corpus, **measured) == first
    kept = [pair.question for pair in corpus.store.pairs.all("default", "accepted")]
    assert ("When was the Ferry House of Orrin built?" in kept) == freed
    assert len(kept) == len(set(kept))


def test_what_is_kept_uses_up_none_of_the_limit(corpus: Corpus) -> None:
    first = stated(corpus, requested=3, seed=4)
    more = stated(corpus, requested=3, seed=5)
    assert reconciled(more) is not None
    assert more["requested"] == 3
    questions = [pair.question for run in (first, more) for pair in corpus.store.pairs.of_run(str(run["run_id"]))]
    assert len(questions) == len(set(questions)) + sum(reconciled(first).values()) == 6


def test_what_a_person_decided_is_not_proposed_again(corpus: Corpus) -> None:
    first = stated(corpus)
    good, other, *_ = (pair for pair in corpus.store.pairs.of_run(str(first["run_id"])) if pair.status == "accepted")
    by_check = next(pair for pair in corpus.store.pairs.of_run(str(first["run_id"])) if pair.status == "rejected")
    rechecked = {"not_leaked": {"passed": True, "reason": ""}}  # as a review leaves an edited pair
    corpus.store.pairs.update(good.id, status="rejected", reason="by_hand")
    corpus.store.pairs.update(other.id, question="Which house is the oldest of Orrin?", checks=rechecked)
    corpus.store.pairs.update(by_check.id, question="Which other name does the mail have?", checks=rechecked)
    second = stated(corpus, seed=2)
    assert second["requested"] == sum(reconciled(first).values()) - 1
    everything = stated(corpus, seed=3, evaluation_questions=("What is a pair?",))
    assert everything["accepted"] == 0


def stop_at_two(progress: Progress) -> None:
    if (progress.unit, progress.done) == ("proposals", 2):
        raise JobCancelled("Stopped")


def test_a_stopped_run_goes_on(corpus: Corpus) -> None:
    with pytest.raises(JobCancelled):
        stated(corpus, report=stop_at_two)
    (run_id,) = corpus.store.pairs.runs("default")
    before = [pair.id for pair in corpus.store.pairs.of_run(run_id)]
    assert len(before) == 2
    seen: list[Progress] = []
    ledger = stated(corpus, report=seen.append)
    assert ledger["run_id"] == run_id
    assert reconciled(ledger) is not None
    assert corpus.store.pairs.runs("default") == [run_id]
    after = [pair.id for pair in corpus.store.pairs.of_run(run_id)]
    assert after[:2] == before
    assert len(after) == len(set(after)) == ledger["requested"]
    decided = [progress.done for progress in seen if progress.unit == "proposals"]
    assert decided == list(range(3, len(after) + 1))


def test_a_stopped_run_gives_up_what_another_has_taken_since(corpus: Corpus) -> None:
    with pytest.raises(JobCancelled):
        stated(corpus, report=stop_at_two)
    (run_id,) = corpus.store.pairs.runs("default")
    other = stated(corpus, seed=2)
    assert reconciled(other) is not None
    assert int(str(other["accepted"])) > 0
    ledger = stated(corpus)
    assert ledger["run_id"] == run_id
    assert reconciled(ledger)["duplicate"] == other["accepted"]


def test_reading_is_reported_and_can_be_stopped(corpus: Corpus) -> None:
    seen: list[Progress] = []

    def stop(progress: Progress) -> None:
        seen.append(progress)
        if progress.done == 3:
            raise JobCancelled("Stopped")

    with pytest.raises(JobCancelled):
        stated(corpus, report=stop)
    assert [(one.done, one.total, one.unit) for one in seen] == [(done, 5, "documents") for done in (1, 2, 3)]
    assert corpus.store.pairs.runs("default") == []


def test_what_is_left_out_and_what_is_measured(corpus: Corpus) -> None:
    measured = ["When was the Ferry House of Orrin built?"]
    ledger = stated(corpus, evaluation_questions=measured)
    assert isinstance(ledger["rejected"], dict)
    assert ledger["rejected"]["uncontaminated"] == 1
    everything = {row.id for row in corpus.store.documents.by_source("default").values()}
    with pytest.raises(NothingIndexed):
        stated(corpus, exclude_documents=everything)
    prose = everything - {corpus.document_id("luther.md")}
    assert stated(corpus, exclude_documents=prose)["accepted"] == stated(corpus, exclude_documents=prose)["requested"]
    for bad in ({"requested": 0}, {"per_source_cap": 0.0}):
        with pytest.raises(InvalidRequest):
            stated(corpus, **bad)
