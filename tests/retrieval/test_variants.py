"""Harder forms of examples: contradictions name both answers, conversations keep their passage, none by default."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from data.errors import InvalidRequest
from data.prompt import cited_numbers, passage_labels
from data.records import PairKind, QAPair, content_id
from retrieval.examples import TrainingExample, count_sorts, examples_from_pairs
from retrieval.rowfiles import row_of
from retrieval.variants import Shares, follow_up, variants
from tests.retrieval.scripted import CORPUS, Corpus

CHINESE = {"弗雷斯诺.md": "# 弗雷斯诺\n\n弗雷斯诺位于加利福尼亚州，夏季炎热干燥，冬季温和多雨，当地种植葡萄和杏仁。\n"}
ROWS = [
    ("When was the town of Fresno founded?", "1872", "founded in 1872"),
    ("Which railroad company founded Fresno in California?", "Central Pacific Railroad Company", "founded in 1872"),
    ("When was oxygen named by Antoine Lavoisier?", "1777", "Sendivogius"),
    ("Who isolated oxygen before 1604?", "Michael Sendivogius", "Sendivogius"),
    ("When were the theses against indulgences sent?", "October 1517", "Albrecht"),
]


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    with Corpus(tmp_path_factory.mktemp("corpus"), CORPUS | CHINESE) as made:
        yield made


def pair(question: str, answer: str, *chunk_ids: str, kind: PairKind = "span") -> QAPair:
    return QAPair(content_id(question), question, answer, chunk_ids, kind, "test", "accepted")


def build(corpus: Corpus, pairs: list[QAPair], top_k: int = 3) -> list[TrainingExample]:
    return examples_from_pairs(corpus.store, corpus.retriever, pairs, top_k=top_k, seed=1, abstain_share=0.0)


@pytest.fixture(scope="module")
def examples(corpus: Corpus) -> list[TrainingExample]:
    found = build(corpus, [pair(question, answer, corpus.chunk_id(words)) for question, answer, words in ROWS])
    assert count_sorts(found) == {"answering": len(ROWS)}
    return found


def varied(corpus: Corpus, examples: list[TrainingExample], **shares: float) -> list[TrainingExample]:
    return variants(corpus.store, corpus.retriever, examples, Shares(**shares), collection="default", top_k=3, seed=1)


def gold(example: TrainingExample) -> str:
    assert example.gold_number is not None
    return example.passages[example.gold_number - 1].chunk.text


def test_nothing_is_made_unless_asked_for(corpus: Corpus, examples: list[TrainingExample]) -> None:
    assert varied(corpus, examples) == []
    with pytest.raises(InvalidRequest, match="share"):
        Shares(multi_turn=1.0)


def test_contradicting_passages_are_both_cited(corpus: Corpus, examples: list[TrainingExample]) -> None:
    made = varied(corpus, examples, contradicting=0.4)
    assert len(made) == 2
    assert made == varied(corpus, examples, contradicting=0.4)
    for one in made:
        assert one.sort == "contradicting"
        assert one.answer in gold(one)
        assert one.rival is not None
        other, number = one.rival
        text = one.passages[number - 1].chunk.text
        assert other in text
        assert text.replace(other, str(one.answer)) == gold(one)
        assert not any(other in p.chunk.text for i, p in enumerate(one.passages, 1) if i != number)
        labels = passage_labels(one.passages)
        assert (
            one.target
            == f"Sources disagree: {one.answer} [{labels[one.gold_number - 1]}]; {other} [{labels[number - 1]}]"
        )
        assert row_of(one)["messages"][-1]["content"] == one.target
        assert [p.rank for p in one.passages] == list(range(1, len(one.passages) + 1))


def test_a_passage_of_the_other_language_joins_the_others(corpus: Corpus, examples: list[TrainingExample]) -> None:
    made = varied(corpus, examples, other_language=0.4)
    assert len(made) == 2
    for one in made:
        assert sum("弗雷斯诺" in passage.chunk.text for passage in one.passages) == 1
        assert one.answer in gold(one)
        assert one.target.startswith(str(one.answer))


def test_a_second_turn_goes_back_to_the_first(corpus: Corpus, examples: list[TrainingExample]) -> None:
    made = varied(corpus, examples, multi_turn=0.8)
    assert len(made) == 4, "the fifth question is alone with its passage"
    for one in made:
        before, said = one.history
        assert (before.role, said.role) == ("user", "assistant")
        assert one.messages[1:3] == one.history
        first = next(example for example in examples if example.question == before.content)
        assert said.content == f"{first.answer} [{first.gold_number}]"
        assert one.answer in gold(one)
    asked = {one.question for one in made}
    assert "When was the town of it founded?" in asked


@pytest.mark.parametrize(
    ("question", "before", "second"),
    [
        ("How hot is Fresno Valley in July?", "Where is Fresno Valley?", "How hot is it in July?"),
        ("How hot is July?", "Where is Fresno?", "How hot is July?"),
        ("请问弗雷斯诺种植什么？", "请问弗雷斯诺在哪里？", "它种植什么？"),
    ],
)
def test_a_shared_name_becomes_a_pronoun(question: str, before: str, second: str) -> None:
    assert follow_up(question, before) == second


def test_a_pair_about_two_passages_is_shown_and_cites_both(corpus: Corpus) -> None:
    chunks = corpus.chunk_id("founded in 1872"), corpus.chunk_id("Sendivogius")
    asked = [
        pair(f"Who founded Fresno and who isolated oxygen, in book {i}?", "A company and Michael Sendivogius.", *chunks,
             kind="multi") for i in range(30)
    ]  # fmt: skip
    found = build(corpus, asked, top_k=2)
    answered = [one for one in found if one.answer is not None]
    for one in answered:
        numbers = (one.gold_number, *one.also_gold)
        assert [one.passages[n - 1].chunk.id for n in numbers if n] == list(chunks)
        assert cited_numbers(one.target) == tuple(passage_labels(one.passages)[n - 1] for n in numbers if n)
        assert len(one.passages) == 2
    assert len(answered) >= 15
    one_missing = [one for one in found if one.answer is None]
    assert all({p.chunk.id for p in one.passages} < {*chunks} or not {p.chunk.id for p in one.passages} >= {*chunks}
               for one in one_missing)  # fmt: skip
    gone = build(corpus, [replace(asked[0], chunk_ids=(chunks[0], "gone"))])
    assert gone == [], "half of its evidence is gone"


def test_an_altered_question_keeps_its_passages_and_is_to_be_abstained_from(
    corpus: Corpus, examples: list[TrainingExample]
) -> None:
    made = varied(corpus, examples, altered_question=0.9)
    assert made
    asked = {one.question for one in examples}
    for one in made:
        assert (one.answer, one.gold_number, one.sort) == (None, None, "altered_question")
        assert one.question not in asked
        assert one.passages in {example.passages for example in examples}
        assert one.target == "I don't know."
