"""Questions that mean the same are found by their vectors, their answers and their numbers."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np

from data.protocols import Vectors
from data.records import Chunk, Passage
from retrieval.candidates import Context, SourceCap, parse_candidate
from retrieval.curate import check
from retrieval.meaning import SAME_MEANING, MeaningIndex

TEXT = "Fresno was founded in 1872 by the Central Pacific Railroad. Write to mayor@fresno.gov for more."


def at(cosine: float) -> Vectors:
    return np.array([cosine, (1 - cosine**2) ** 0.5], dtype=np.float32)


def embed(texts: Sequence[str]) -> Vectors:
    """Give each text the cosine that it ends with: "How so? 0.9"; a text without is the first axis."""
    return np.stack([at(COSINES.get(text, 1.0)) for text in texts])


near, far = SAME_MEANING + 0.01, SAME_MEANING - 0.01
COSINES = {"near?": near, "far?": far, "near in 2020?": near}


def test_a_paraphrase_with_a_like_answer_is_found() -> None:
    index = MeaningIndex(embed)
    assert index.match("near?", "1872") is None
    index.add([("first?", "the year 1872")])
    found = index.match("near?", "year 1872")
    assert found is not None
    assert found[0] == "first?"
    assert abs(found[1] - near) < 1e-5
    assert index.match("near?", "a railroad") is None
    assert index.match("near?", "") is None
    assert index.match("far?", "year 1872") is None
    assert index.match("as good as the same?", "a railroad") is None
    assert index.match("near in 2020?", "year 1872") is None


def test_the_index_grows() -> None:
    index = MeaningIndex(embed)
    for number in range(0, 700, 7):
        index.add([(f"far? {number + i}", "x") for i in range(7)])
    index.add([])
    assert len(index) == 700
    assert index.match("far? 699", "x") == ("far? 699", 1.0)


def outcome(question: str, answer: str, context: Context) -> str:
    passage = Passage(Chunk("c", "doc", TEXT, 0, len(TEXT)), 1.0, 1, "hybrid")
    raw = json.dumps({"question": question, "answer": answer})
    last = check(parse_candidate(raw, "span", passage), context)[-1]
    assert last.passed or last.reason
    return "accepted" if last.passed else last.name


def test_the_checks_refuse_paraphrases_private_data_and_full_documents() -> None:
    passage = Passage(Chunk("c", "doc", TEXT, 0, len(TEXT)), 1.0, 1, "hybrid")

    def same(texts: Sequence[str]) -> Vectors:
        return np.stack([at(1.0) for _ in texts])

    context = Context(lambda _question: [passage], embed=same, cap=SourceCap({"doc": 1}, 4, 0.5))
    assert outcome("Who can be asked about Fresno?", "mayor@fresno.gov", context) == "no_personal_data"
    assert outcome("What is the password: hunter2hunter2 of Fresno?", "1872", context) == "no_secrets"
    assert outcome("Which year saw the founding of Fresno?", "1872", context) == "accepted"
    context.accept("Which year saw the founding of Fresno?", "1872", "other")
    assert outcome("When did a railroad first build Fresno?", "1872", context) == "not_same_meaning"
    context.accept("Who?", "", "doc")
    assert outcome("When did a railroad first build Fresno?", "1872", context) == "within_source_cap"
