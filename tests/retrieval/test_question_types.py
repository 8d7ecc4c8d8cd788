"""Types of questions: told by their words, offered by what a passage holds, varied within each document."""

from __future__ import annotations

from collections import Counter

import pytest

from retrieval.question_types import askable, count_types, plan_types, question_type


@pytest.mark.parametrize(
    ("question", "type_"),
    [
        ("Who founded Fresno?", "who"),
        ("To whom were the theses sent?", "who"),
        ("In which year was Fresno founded?", "which"),
        ("When was it founded and why?", "when"),
        ("How much oxygen does smelting consume?", "how many"),
        ("How do you add a dependency?", "how"),
        ("Is Fresno hot?", "other"),
        ("弗雷斯诺是在哪一年建立的？", "when"),
        ("弗雷斯诺位于哪里？", "where"),
        ("为什么要使用依赖项？", "why"),
        ("该公司有多少员工？", "how many"),
        ("谁创立了该公司？", "who"),
        ("如何添加依赖项？", "how"),
        ("依赖项是什么？", "what"),
        ("哪个函数返回列表？", "which"),
    ],
)
def test_a_question_is_of_the_type_of_its_question_word(question: str, type_: str) -> None:
    assert question_type(question) == type_


def test_a_passage_offers_what_it_holds() -> None:
    told = "The lighthouse was built in 1842 by Mara Venn because three ships were lost near Orrin."
    assert set(askable(told)) >= {"who", "what", "when", "where", "why", "how many"}
    assert "how" not in askable(told)
    steps = "To install it:\n\n1. Run the script.\n2. Restart."
    assert "how" in askable(steps)
    assert set(askable("It is a gas.")) == {"what"}
    assert set(askable("弗雷斯诺于1872年建立，位于加州，因为铁路经过这里。")) >= {"when", "where", "why"}


def test_a_documents_questions_differ_and_plans_repeat() -> None:
    offered = {1: askable("Built in 1842 by Mara Venn because of fog."), 2: ("what",)}
    source_of = {1: "a", 2: "b"}
    places = [(1, sample) for sample in range(8)] + [(2, 0), (2, 1)]
    planned = plan_types(places, offered, source_of)
    assert planned == plan_types(places, offered, source_of)
    counts = Counter(planned[:8])
    assert set(counts) == set(offered[1])
    assert max(counts.values()) - min(counts.values()) <= 1
    assert planned[8:] == ["what", "what"]


def test_counts_leave_out_what_none_is() -> None:
    assert count_types(["Who is it?", "Who was it?", "Is it?"]) == {"who": 2, "other": 1}
