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
    more = stated(corpus, requested=50, seed=4)
    assert isinstance(more["rejected"], dict)
    assert more["rejected"]["duplicate"] == 3
    assert more["pending"] == 0


def test_a_stopped_run_goes_on(corpus: Corpus) -> None:
    def stop(progress: Progress) -> None:
        if progress.done == 2:
            raise JobCancelled("Stopped")

    with pytest.raises(JobCancelled):
        stated(corpus, report=stop)
    ledger = stated(corpus)
    assert ledger["pending"] == 0
    assert len(corpus.store.pairs.runs("default")) == 1


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
