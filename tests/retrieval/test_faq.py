"""Questions that documents answer themselves are found as they stand, and go through the checks into a ledger."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from data.errors import JobCancelled
from data.records import Progress
from retrieval.faq import entries, harvest_pairs
from tests.retrieval.scripted import CORPUS, Corpus

HEADINGS = """# Questions

Some words first.

## How is the ferry of Orrin paid?

With coins only.

- Children ride free.

### A subheading

More of the answer.

## 1.2.3 渡轮什么时候开？

每天早上六点。

## Nothing asked

Text.

## What is never answered?

## Who steers it? {#steers}

Mara Venn.
"""
LETTERS = """Q: Who built the tower?
A: The brothers Ask
and Embla.

Q2. When was it built?
A2. In 1842.

问：塔在哪里？
答：在海边。
"""
BOLD = """**Is it open?** Yes, daily.

- **May dogs come in?** No.

**What does it cost?**

Nothing.

```
**Is this code?** Yes.
```
"""
DEFINED = """What is a buoy?
:   A float.

What is a keel?
: The spine of a ship.

What is a bow?
: Its front.
"""


def found(text: str) -> list[tuple[str, str]]:
    return [(entry.question, text[entry.start : entry.end]) for entry in entries(text)]


def test_headings_that_ask() -> None:
    assert found(HEADINGS) == [
        (
            "How is the ferry of Orrin paid?",
            "With coins only.\n\n- Children ride free.\n\n### A subheading\n\nMore of the answer.",
        ),
        ("渡轮什么时候开？", "每天早上六点。"),
        ("Who steers it?", "Mara Venn."),
    ]


def test_letters_bold_lines_and_definitions() -> None:
    assert found(LETTERS) == [
        ("Who built the tower?", "The brothers Ask\nand Embla."),
        ("When was it built?", "In 1842."),
        ("塔在哪里？", "在海边。"),
    ]
    assert [pair[0] for pair in found(BOLD)] == ["Is it open?", "May dogs come in?", "What does it cost?"]
    assert found(BOLD)[0][1] == "Yes, daily."
    assert [pair[1] for pair in found(DEFINED)][1:] == ["The spine of a ship.", "Its front."]


@pytest.mark.parametrize("text", ["", "# What?\n\nThis.\n\n# Why?\n\nThat.", "Is it so? Yes. Is it? No. Who? I."])
def test_what_is_no_list_of_questions(text: str) -> None:
    assert found(text) == []


FAQ = """# Ferry

## Who steers the ferry of Orrin?

Mara Venn

## How is the ferry of Orrin paid in winter months?

With coins, which the keeper takes at the red gate beside the bay.

## When does it leave?

At six.

## Who steers the ferry of Orrin today?

Mara Venn

## Whom can passengers of the ferry write to?

Write to keeper@orrin.se before noon.
"""


@pytest.fixture
def corpus(tmp_path: Path) -> Iterator[Corpus]:
    with Corpus(tmp_path, {**CORPUS, "ferry.md": FAQ}) as made:
        yield made


def ignore(_: Progress) -> None:
    """Report to nobody."""


def test_harvested_pairs_pass_the_checks_and_their_ledger_reconciles(corpus: Corpus) -> None:
    ledger = harvest_pairs(corpus.store, corpus.retriever, "default", report=ignore)
    assert ledger["requested"] == 5 == ledger["accepted"] + sum(ledger["rejected"].values())
    assert (ledger["failed"], ledger["pending"]) == (0, 0)
    assert {"self_contained", "no_personal_data"} <= ledger["rejected"].keys()
    steers, paid = corpus.store.pairs.all("default", "accepted")
    assert (steers.question, steers.answer, steers.kind) == ("Who steers the ferry of Orrin?", "Mara Venn", "span")
    assert (paid.kind, paid.generated_by) == ("free", "faq")
    text = " ".join(corpus.store.chunks.get(chunk_id).text for chunk_id in paid.chunk_ids)
    assert "With coins" in text
    assert ledger["rejected"].get("not_duplicate", 0) + ledger["rejected"].get("not_same_meaning", 0) == 1


def test_a_stopped_harvest_goes_on_and_a_finished_one_is_not_repeated(corpus: Corpus) -> None:
    def stop(progress: Progress) -> None:
        if progress.done == 2:
            raise JobCancelled("Stopped")

    with pytest.raises(JobCancelled):
        harvest_pairs(corpus.store, corpus.retriever, "default", report=stop)
    ledger = harvest_pairs(corpus.store, corpus.retriever, "default", report=ignore)
    assert (ledger["requested"], ledger["pending"]) == (5, 0)
    assert harvest_pairs(corpus.store, corpus.retriever, "default", report=ignore) == ledger
    assert len(corpus.store.pairs.runs("default")) == 1


def test_an_edited_document_is_harvested_again(corpus: Corpus) -> None:
    harvest_pairs(corpus.store, corpus.retriever, "default", report=ignore)
    before = {pair.question for pair in corpus.store.pairs.all("default", "accepted", stale=False)}
    corpus.write({**CORPUS, "ferry.md": FAQ.replace("# Ferry", "# The ferry", 1)})
    assert not corpus.store.pairs.all("default", "accepted", stale=False)
    ledger = harvest_pairs(corpus.store, corpus.retriever, "default", report=ignore)
    assert ledger["accepted"] == len(before)
    assert {pair.question for pair in corpus.store.pairs.all("default", "accepted", stale=False)} == before


def test_evaluation_questions_and_excluded_documents_are_left(corpus: Corpus) -> None:
    measured = ["How is the ferry of Orrin paid in the winter months?"]
    ledger = harvest_pairs(corpus.store, corpus.retriever, "default", evaluation_questions=measured, report=ignore)
    assert ledger["rejected"]["uncontaminated"] == 1
    excluded = {corpus.document_id("ferry.md")}
    none = harvest_pairs(corpus.store, corpus.retriever, "default", exclude_documents=excluded, report=ignore)
    assert (none["requested"], none["run_id"]) == (0, "")


def test_a_heading_of_blanks_is_read_at_once() -> None:
    blanks = " " * 20_000
    assert entries(f"# a{blanks}b\n\nQ{blanks}: x\n" * 3) == []


def test_an_answer_may_begin_with_code() -> None:
    text = "".join(f"## How is {name} started?\n\n```\nrun {name}\n```\nThen wait.\n\n" for name in ("a", "b", "c"))
    found = entries(text)
    assert [text[entry.start : entry.end] for entry in found] == [
        f"```\nrun {name}\n```\nThen wait." for name in ("a", "b", "c")
    ]


def test_quarters_are_no_questions_and_initials_no_marks() -> None:
    assert entries("".join(f"Q{n}: Revenue grew {n}%\nStrong sales.\n\n" for n in range(1, 5))) == []
    text = "".join(f"## Who founded {name}?\n\nA. Smith founded it.\n\n" for name in ("Orrin", "Tolm", "Vesk"))
    assert {text[entry.start : entry.end] for entry in entries(text)} == {"A. Smith founded it."}
