"""Training examples: production's passages, shared per chunk, misses and abstentions included."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path

import pytest

from data.records import PairKind, QAPair, content_id
from retrieval.examples import TrainingExample, examples_from_pairs
from tests.retrieval.scripted import Corpus

LUTHER = "Martin Luther"
ROWS: list[tuple[str, str, str]] = [
    ("When was the town of Fresno founded?", "1872", "founded in 1872"),
    ("Which railroad company founded Fresno in California?", "Central Pacific Railroad Company", "founded in 1872"),
    ("What is the hottest month of Fresno on average?", "July", "hottest month"),
    ("Who isolated oxygen before 1604?", "Michael Sendivogius", "Sendivogius"),
    ("Which share of oxygen does steel smelting consume?", "55 percent", "Steel smelting"),
    ("Where was Martin Luther born in 1483?", "Eisleben", "Eisleben"),
    ("To whom were the theses against indulgences sent?", "Albrecht of Mainz", "Albrecht"),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    with Corpus(tmp_path_factory.mktemp("corpus")) as made:
        yield made


def pair(question: str, answer: str, chunk_id: str | None, kind: PairKind = "span") -> QAPair:
    chunks = (chunk_id,) if chunk_id else ()
    return QAPair(content_id(question), question, answer, chunks, kind, "test", "accepted")


@pytest.fixture(scope="module")
def pairs(corpus: Corpus) -> list[QAPair]:
    return [pair(question, answer, corpus.chunk_id(words)) for question, answer, words in ROWS]


def build(
    corpus: Corpus,
    pairs: Sequence[QAPair],
    *,
    top_k: int = 4,
    seed: int = 1,
    abstain_share: float = 0.0,
    share: bool = True,
) -> list[TrainingExample]:
    return examples_from_pairs(
        corpus.store, corpus.retriever, pairs, top_k=top_k, seed=seed, abstain_share=abstain_share, share_passages=share
    )


def test_examples_hold_what_production_retrieves(corpus: Corpus, pairs: list[QAPair]) -> None:
    examples = build(corpus, pairs, share=False)
    assert [example.question for example in examples] == [row[0] for row in ROWS]
    for example, (question, answer, words) in zip(examples, ROWS, strict=True):
        found = corpus.retriever.search(question, "default", 4)
        assert example.answer == answer
        assert example.gold_number is not None
        assert words in example.passages[example.gold_number - 1].chunk.text
        if all(passage.origin != "inserted" for passage in example.passages):
            assert list(example.passages) == found


def test_questions_about_one_chunk_share_one_passage_set(corpus: Corpus, pairs: list[QAPair]) -> None:
    shuffled = [pairs[i] for i in (0, 5, 3, 1, 6, 2, 4)]
    examples = build(corpus, shuffled)
    groups = [list(group) for _, group in groupby(examples, key=lambda example: example.passages)]
    assert sorted(len(group) for group in groups) == [1, 1, 1, 1, 1, 2]
    shared = next(group for group in groups if len(group) == 2)
    assert {example.answer for example in shared} == {"1872", "Central Pacific Railroad Company"}


def test_a_missed_chunk_is_mostly_put_in_and_else_left_out(corpus: Corpus) -> None:
    # Retrieval of one passage for a question that names Luther cannot find the chunk about steel.
    missed = [pair(f"Where was Martin Luther born in 1483, {i}?", "Steel", corpus.chunk_id("Steel")) for i in range(60)]
    examples = build(corpus, missed, top_k=2, share=False)
    put_in = [example for example in examples if example.gold_number]
    assert 38 <= len(put_in) <= 57
    for example in put_in:
        gold = example.passages[(example.gold_number or 0) - 1]
        assert (gold.chunk.id, gold.origin, gold.title) == (corpus.chunk_id("Steel"), "inserted", "Oxygen")
        assert [passage.rank for passage in example.passages] == [1, 2]
        assert example.answer == "Steel"
    assert {example.gold_number for example in put_in} == {1, 2}
    left_out = [example for example in examples if not example.gold_number]
    assert all(example.answer is None for example in left_out)
    assert len({id(example) for example in left_out}) == 60 - len(put_in) > 0


def test_unanswerable_pairs_abstain_on_their_chunks_passages(corpus: Corpus, pairs: list[QAPair]) -> None:
    unanswerable = pair("Who designed the first bridge of Fresno?", "", pairs[0].chunk_ids[0], "unanswerable")
    examples = build(corpus, [unanswerable, *pairs[:2]])
    assert len({example.passages for example in examples}) == 1
    assert [example.answer for example in examples] == [None, "1872", "Central Pacific Railroad Company"]
    assert examples[0].gold_number is None


def test_questions_of_other_documents_teach_to_abstain(corpus: Corpus, pairs: list[QAPair]) -> None:
    examples = build(corpus, pairs * 6, top_k=2, abstain_share=0.25)
    added = [example for example in examples if example.answer is None]
    assert 0.15 <= len(added) / len(examples) <= 0.3
    for example in added:
        assert example.question in {row[0] for row in ROWS}
        assert example.chunk_id not in {passage.chunk.id for passage in example.passages}
        about = {corpus.store.chunks.get(example.chunk_id).document_id}
        assert not about & {passage.chunk.document_id for passage in example.passages[:1]}
    passages = [example.passages for example in examples]
    assert len([1 for _ in groupby(passages)]) == len(set(passages)), "added questions stand beside their passages"


def test_equal_seeds_give_equal_examples(corpus: Corpus, pairs: list[QAPair]) -> None:
    first = build(corpus, pairs * 3, top_k=1, abstain_share=0.2)
    assert first == build(corpus, pairs * 3, top_k=1, abstain_share=0.2)
    assert any(first != build(corpus, pairs * 3, top_k=1, seed=seed, abstain_share=0.2) for seed in (2, 3, 4))


def test_pairs_without_a_chunk_cite_the_passage_that_holds_their_answer(corpus: Corpus) -> None:
    question = "Where was Martin Luther born in 1483?"
    found = build(corpus, [pair(question, "Eisleben", None)])[0]
    assert found.gold_number is not None
    assert "Eisleben" in found.passages[found.gold_number - 1].chunk.text
    without = build(corpus, [pair(question, "Wittenberg", None)])[0]
    assert (without.answer, without.gold_number) == (None, None)


def test_answers_in_the_house_style_cite_the_passage_they_rest_on(corpus: Corpus) -> None:
    question = "Where was Martin Luther born in 1483?"
    answers = [
        f"**{place}**, dear reader." for place in ("Eisleben", "Wittenberg", "Rome", "Worms", "Timbuktu", "Erfurt")
    ]
    answers += ["You are welcome, dear reader.", "Good day, dear reader."]
    found = build(corpus, [pair(question, answer, None, "style") for answer in answers], abstain_share=0.0)
    told = {example.answer: example for example in found}
    right = told["**Eisleben**, dear reader."]
    assert right.gold_number is not None
    assert "Eisleben" in right.passages[right.gold_number - 1].chunk.text
    assert not right.closed_book
    invented = told["**Timbuktu**, dear reader."]
    assert (invented.gold_number, invented.closed_book) == (None, True), "no passage says so"


def test_pairs_whose_chunk_is_gone_are_left_out(tmp_path: Path) -> None:
    with Corpus(tmp_path) as corpus:
        pairs = [pair(question, answer, corpus.chunk_id(words)) for question, answer, words in ROWS]
        corpus.write({"luther.md": "# Luther\n\nAll of this was written anew.\n"})
        assert [example.question for example in build(corpus, pairs, share=False)] == [row[0] for row in ROWS[:5]]
