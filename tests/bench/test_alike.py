from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bench.alike import decisions, read, shuffled

REPORT = Path(__file__).parents[2] / "bench" / "reports" / "squad2" / "answers.csv"


def test_a_shuffle_keeps_each_questions_scores_and_gives_them_to_other_arms():
    questions, arms = read(REPORT)
    assert len(questions) == 50
    assert {question.answerable for question in questions} == {True, False}
    found = shuffled(arms, np.random.default_rng(1))
    assert list(found) == list(arms)
    assert found != arms
    for place, question in enumerate(questions):
        before, after = (sorted(rows[place].f1 for rows in side.values()) for side in (arms, found))
        assert before == after, question.id
    assert all(row.arm == name for name, rows in found.items() for row in rows)


@pytest.mark.slow
def test_alike_arms_are_seldom_called_different():
    found = decisions(REPORT, 40)
    assert found["main_ci"][0] <= 0.05
    assert found["others_ci"][0] <= 0.05
