from __future__ import annotations

import pytest

from data.errors import NoAcceptedPairs
from data.records import QAPair, content_id
from retrieval.negatives import mine, split_asked
from tests.retrieval.hashing import HashingEmbedder
from tests.retrieval.scripted import Corpus

ASKED = {
    "When was Fresno founded?": ("1872", "founded in 1872"),
    "Which month of Fresno is the hottest?": ("July", "hottest month"),
    "Who named oxygen?": ("Antoine Lavoisier", "Lavoisier"),
    "Where was Luther born?": ("Eisleben", "Eisleben"),
}


@pytest.fixture
def corpus(tmp_path):
    with Corpus(tmp_path) as corpus:
        yield corpus


def add(corpus, question, answer, words, kind="span"):
    chunks = (corpus.chunk_id(words),) if words else ()
    pair = QAPair(content_id(question), question, answer, chunks, kind, "test", "accepted")
    corpus.store.pairs.add("default", None, [pair])


def test_whole_documents_are_held_out(corpus):
    for question, (answer, words) in ASKED.items():
        add(corpus, question, answer, words)
    add(corpus, "What is on the moon?", "", "Eisleben", "unanswerable")
    add(corpus, "How does it sound?", "Fine", "", "style")
    train, held = split_asked(corpus.store, "default", held_out=0.3, seed=0)
    assert {each.question for each in (*train, *held)} == set(ASKED)
    documents = [{chunk.document_id for each in side for chunk in each.gold} for side in (train, held)]
    assert not documents[0] & documents[1]


def test_questions_about_one_document_are_too_few(corpus):
    for question in list(ASKED)[:2]:
        add(corpus, question, *ASKED[question])
    with pytest.raises(NoAcceptedPairs, match="of others"):
        split_asked(corpus.store, "default", held_out=0.3, seed=0)


def test_hard_negatives_neither_answer_nor_come_too_near(corpus):
    corpus.write({"copy.md": "# Copy\n\nIt is told that in 1872 a town was founded somewhere in California.\n"})
    for question, (answer, words) in ASKED.items():
        add(corpus, question, answer, words)
    train, held = split_asked(corpus.store, "default", held_out=0.3, seed=0)
    embedder = HashingEmbedder()
    contrasts = mine(corpus.store, corpus.retriever, embedder, train + held, lambda _: None, collection="default")
    assert len(contrasts) == len(ASKED)
    assert any(each.negatives for each in contrasts)
    for each in contrasts:
        answer, words = ASKED[each.question]
        assert words in each.positive
        assert each.positive in each.answering
        assert not any(answer in text for text in each.negatives)
        vectors = embedder.embed_queries([each.question, each.positive, *each.negatives])
        scores = vectors[1:] @ vectors[0]
        assert all(score <= 0.95 * scores[0] + 1e-6 for score in scores[1:])
