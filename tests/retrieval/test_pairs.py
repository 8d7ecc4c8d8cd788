"""Generation: every proposal ends in the ledger, a run can be stopped and continued, equal seeds give equal pairs."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from data.errors import EngineTimeout, EngineUnavailable, InvalidRequest, JobCancelled, NothingIndexed
from data.records import Progress
from retrieval.pairs import generate_pairs, share_out
from tests.retrieval.scripted import Corpus, ScriptedGenerator

pytestmark = pytest.mark.slow

FOUNDED = "Fresno was founded"


def said(question: str, answer: str | None = None) -> str:
    fields = {"question": question} if answer is None else {"question": question, "answer": answer}
    return json.dumps(fields, ensure_ascii=False)


SCRIPT = {
    FOUNDED: [
        said("When was the town of Fresno founded?", "1872"),
        said("When was the town of Fresno founded?", "1872"),
        said("When was it founded?", "1872"),
        said("Which railroad founded Fresno?", "Southern Pacific"),
        said("Which railroad company founded Fresno in California?", "central pacific"),
    ],
    "hottest month": [said("What is the hottest month of Fresno on average?", "July"), "not JSON"],
    "Sendivogius": [said("Who isolated oxygen before 1604?", "Michael Sendivogius"), EngineTimeout("Too slow")],
    "Steel smelting": [said("What does the mixture called nitrox hold more of than common air?", "the gas")],
    "born in Eisleben": [said("Where was Martin Luther born in 1483?", "Eisleben")],
    "Albrecht of Mainz": [said("In which year were the theses against indulgences sent?", "1517")],
}


def ignore(_: Progress) -> None:
    """Report to nobody."""


@pytest.fixture
def corpus(tmp_path: Path) -> Iterator[Corpus]:
    with Corpus(tmp_path) as made:
        yield made


def generate(corpus: Corpus, generator: ScriptedGenerator | None = None, **changes: Any) -> dict[str, Any]:
    options: dict[str, Any] = {"requested": 30, "seed": 1, "unanswerable_share": 0.0, "report": ignore} | changes
    made = generator or ScriptedGenerator(SCRIPT)
    return generate_pairs(corpus.store, corpus.retriever, made, "default", **options)


def reconciles(ledger: dict[str, Any]) -> bool:
    parts = ledger["accepted"] + sum(ledger["rejected"].values()) + ledger["failed"] + ledger["pending"]
    return bool(parts == ledger["requested"])


def accepted(corpus: Corpus) -> dict[str, str]:
    return {pair.question: pair.answer for pair in corpus.store.pairs.all("default", "accepted")}


def test_each_proposal_is_accepted_rejected_by_name_or_failed(corpus: Corpus) -> None:
    ledger = generate(corpus)
    assert ledger["requested"] == 30
    assert ledger["pending"] == 0
    assert reconciles(ledger)
    assert {"not_duplicate", "self_contained", "grounded", "well_formed"} <= ledger["rejected"].keys()
    assert ledger["failed"] >= 1
    kept = accepted(corpus)
    assert kept["When was the town of Fresno founded?"] == "1872"
    assert kept["Which railroad company founded Fresno in California?"] == "Central Pacific"
    assert len(kept) == ledger["accepted"]


def test_a_pair_names_its_chunk_its_maker_and_its_checks(corpus: Corpus) -> None:
    generate(corpus, adapter="pair-writer")
    pair = next(p for p in corpus.store.pairs.all("default", "accepted") if "Luther" in p.question)
    assert pair.chunk_ids == (corpus.chunk_id("Eisleben"),)
    assert pair.generated_by == "scripted+pair-writer"
    assert pair.checks["retrieved_again"]["passed"] is True
    rejected = next(p for p in corpus.store.pairs.all("default", "rejected") if p.reason == "self_contained")
    assert rejected.checks["self_contained"] == {"passed": False, "reason": "nothing to stand for: it"}


def test_the_ledger_is_reported_live(corpus: Corpus) -> None:
    seen: list[Progress] = []
    ledger = generate(corpus, report=seen.append)
    assert [progress.done for progress in seen] == list(range(31))
    for progress in seen:
        metrics = progress.metrics
        assert metrics["accepted"] + sum(metrics["rejected"].values()) + metrics["failed"] == progress.done
    last = seen[-1].metrics
    assert (last["accepted"], last["rejected"], last["failed"]) == tuple(
        ledger[key] for key in ("accepted", "rejected", "failed")
    )


def stop_after(done: int) -> Callable[[Progress], None]:
    def report(progress: Progress) -> None:
        if progress.done == done:
            raise JobCancelled("Stopped")

    return report


def test_a_cancelled_run_continues_to_the_same_end(corpus: Corpus, tmp_path: Path) -> None:
    generator = ScriptedGenerator(SCRIPT)
    for stop in (7, 19):
        with pytest.raises(JobCancelled):
            generate(corpus, generator, report=stop_after(stop))
    ledger = generate(corpus, generator)
    assert len(generator.requests) == 30
    assert len(corpus.store.pairs.runs("default")) == 1

    (tmp_path / "other").mkdir()
    with Corpus(tmp_path / "other") as whole:
        undisturbed = generate(whole)
        assert undisturbed | {"run_id": ""} == ledger | {"run_id": ""}
        assert accepted(whole) == accepted(corpus)


def test_proposals_made_together_are_those_made_one_by_one(corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(JobCancelled):
        generate(corpus, parallel=4, report=stop_after(9))
    ledger = generate(corpus, parallel=4)
    (tmp_path / "other").mkdir()
    with Corpus(tmp_path / "other") as whole:
        assert generate(whole) | {"run_id": ""} == ledger | {"run_id": ""}
        assert accepted(whole) == accepted(corpus)


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_reading_ahead_changes_no_pair(corpus: Corpus, tmp_path: Path, share: float) -> None:
    script = {"founded?": ["1872 [1]"], "Luther": ["Wittenberg [1]"], "oxygen": [EngineTimeout("Too slow")]}
    said_by = {"reader_adapter": "reader", "unanswerable_share": share}
    proposals = SCRIPT if not share else {FOUNDED: [said("How many bridges does the town of Fresno have?")]}
    readers = ScriptedGenerator(script), ScriptedGenerator(script)
    one_by_one = generate(corpus, ScriptedGenerator(proposals), reader=readers[0], **said_by)
    (tmp_path / "other").mkdir()
    with Corpus(tmp_path / "other") as other:
        ahead = {"reader": readers[1], "parallel": 4, "read_ahead": True}
        assert generate(other, ScriptedGenerator(proposals), **ahead, **said_by) | {"run_id": ""} == one_by_one | {
            "run_id": ""
        }
        told = [(pair.question, pair.status, pair.checks) for pair in other.store.pairs.of_run(_only_run(other))]
    assert told == [(pair.question, pair.status, pair.checks) for pair in corpus.store.pairs.of_run(_only_run(corpus))]
    asked = [{request.messages[-1].parts[-1] for request in reader.requests} for reader in readers]
    assert asked[0]
    assert asked[0] <= asked[1]


def _only_run(corpus: Corpus) -> str:
    (run,) = corpus.store.pairs.runs("default")
    return str(run)


def test_a_finished_run_asks_nothing_again_and_another_seed_is_another_run(corpus: Corpus) -> None:
    first = generate(corpus)
    generator = ScriptedGenerator(SCRIPT)
    assert generate(corpus, generator) == first
    assert generator.requests == []
    second = generate(corpus, generator, seed=2, requested=6)
    assert second["run_id"] != first["run_id"]
    assert len(generator.requests) == 6
    assert second["rejected"]["not_duplicate"] >= 5


def test_a_dead_engine_stops_the_run_and_loses_nothing(corpus: Corpus) -> None:
    dead = ScriptedGenerator({"Eisleben": [EngineUnavailable("The engine is down")], **SCRIPT})
    with pytest.raises(EngineUnavailable):
        generate(corpus, dead)
    ledger = generate(corpus)
    assert ledger["pending"] == 0
    assert reconciles(ledger)
    assert "Where was Martin Luther born in 1483?" in accepted(corpus)


def test_a_review_between_two_runs_repeats_no_proposal(corpus: Corpus) -> None:
    generator = ScriptedGenerator(SCRIPT)
    with pytest.raises(JobCancelled):
        generate(corpus, generator, report=stop_after(10))
    pair = corpus.store.pairs.all("default", "accepted")[0]
    corpus.store.pairs.update(pair.id, status="candidate")
    ledger = generate(corpus, generator)
    assert len(generator.requests) == 30
    assert ledger["pending"] == 1
    assert reconciles(ledger)


def test_samples_are_seeded_and_follow_one_another_chunk_by_chunk(corpus: Corpus) -> None:
    generator = ScriptedGenerator(SCRIPT)
    generate(corpus, generator)
    prompts = [request.messages[-1].content for request in generator.requests]
    changes = sum(left != right for left, right in pairwise(prompts))
    assert changes == len(set(prompts)) - 1 == 5
    seeds = [request.seed for request in generator.requests]
    assert len(set(seeds)) == 30
    again = ScriptedGenerator(SCRIPT)
    for pair in corpus.store.pairs.all("default"):
        corpus.store.pairs.update(pair.id, status="rejected")
    generate(corpus, again, reader=ScriptedGenerator({}))
    assert [request.seed for request in again.requests] == seeds


def test_excluded_documents_get_no_proposal(corpus: Corpus) -> None:
    generator = ScriptedGenerator(SCRIPT)
    generate(corpus, generator, exclude_documents={corpus.document_id("luther.md")})
    assert not any("Luther" in request.messages[-1].content for request in generator.requests)
    everything = {corpus.document_id(name) for name in ("fresno.md", "luther.md", "oxygen.md")}
    with pytest.raises(NothingIndexed):
        generate(corpus, exclude_documents=everything)


def test_evaluation_questions_are_kept_out(corpus: Corpus) -> None:
    ledger = generate(corpus, evaluation_questions=["Where was Martin Luther born in 1483"])
    assert ledger["rejected"]["uncontaminated"] >= 1
    assert not any("Luther" in question for question in accepted(corpus))


def test_the_reader_answers_accepted_questions_once_more(corpus: Corpus) -> None:
    reader = ScriptedGenerator({"founded?": ["1872 [1]"], "Luther": ["Wittenberg [1]"]})
    ledger = generate(corpus, reader=reader, reader_adapter="reader")
    assert list(accepted(corpus)) == ["When was the town of Fresno founded?"]
    assert ledger["rejected"]["answered_alike"] >= 4
    assert {request.adapter for request in reader.requests} == {"reader"}


def test_unanswerable_questions_are_asked_for_under_their_own_grammar(corpus: Corpus) -> None:
    generator = ScriptedGenerator({FOUNDED: [said("Who designed the first bridge of Fresno town?")]})
    reader = ScriptedGenerator({})
    ledger = generate(corpus, generator, unanswerable_share=1.0, reader=reader)
    assert ledger["accepted"] == 1
    pair = corpus.store.pairs.all("default", "accepted")[0]
    assert (pair.kind, pair.answer) == ("unanswerable", "")
    assert all("answer" not in (request.grammar or "") for request in generator.requests)


def test_code_without_words_is_not_asked_about(corpus: Corpus) -> None:
    corpus.write({"code.md": '# Code\n\n```json\n{"a": [1, 2, 3], "b": "one two three four five six"}\n```\n'})
    generator = ScriptedGenerator(SCRIPT)
    generate(corpus, generator)
    assert not any("json" in request.messages[-1].content for request in generator.requests)


def test_impossible_numbers_are_refused(corpus: Corpus) -> None:
    with pytest.raises(InvalidRequest, match="requested=0"):
        generate(corpus, requested=0)
    with pytest.raises(InvalidRequest, match="unanswerable_share=2"):
        generate(corpus, unanswerable_share=2)


@pytest.mark.parametrize("requested", [1, 5, 20, 77])
def test_shares_add_up_and_follow_information(requested: int) -> None:
    information_of = {key: key for key in range(20)}
    plan = share_out(information_of, requested, seed=3, unanswerable_share=0.25)
    tries = {quota.key: quota.tries for quota in plan}
    assert sum(tries.values()) == requested
    assert len(tries) == min(requested, 20)
    assert min(tries.values()) >= 1
    assert all(0 <= quota.unanswerable <= quota.tries for quota in plan)
    if requested == 77:
        assert tries[19] > tries[10] > tries[1]
        assert 10 <= sum(quota.unanswerable for quota in plan) <= 28
    assert plan == share_out(information_of, requested, seed=3, unanswerable_share=0.25)


def test_with_too_few_proposals_informative_chunks_are_asked_first() -> None:
    information_of = {key: 60 if key < 20 else 1 for key in range(200)}
    drawn = [quota.key for seed in range(20) for quota in share_out(information_of, 20, seed=seed)]
    assert sum(key < 20 for key in drawn) > 0.6 * len(drawn)  # a tenth of the chunks


def test_no_document_gives_more_than_its_share(corpus: Corpus) -> None:
    script = {words: [said(f"What is fact {n}{i} of {words}?", words) for i in "abcdefgh"] for n, words in
              enumerate(("Fresno", "Oxygen", "Luther"))}  # fmt: skip
    corpus.write({f"small{n}.md": f"# Small {n}\n\nNothing stands here but {n}.\n" for n in range(6)})
    ledger = generate(corpus, ScriptedGenerator(script), requested=20, per_source_cap=0.1)
    assert reconciles(ledger)
    counts = corpus.store.pairs.accepted_by_document("default")
    assert max(counts.values(), default=0) <= 5  # 9 documents: a quarter, rounded up
    with pytest.raises(InvalidRequest, match="per_source_cap=0"):
        generate(corpus, per_source_cap=0)
