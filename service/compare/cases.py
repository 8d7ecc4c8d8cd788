"""The cases that teach most: questions on which the arms part, half of them won by the recommended arm, half lost.

Knows nothing of how they are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from data.records import Question
from service.compare.outcomes import Outcome

MOST_CASES = 20
RIGHT = 50.0
"""F1 from which an answer is shown as right."""


@dataclass(frozen=True, slots=True)
class Case:
    """A question with every arm's outcome, and what it shows in a few words."""

    question: Question
    outcomes: tuple[Outcome, ...]
    lesson: str
    spread: float


def instructive(
    questions: Sequence[Question], outcomes: Mapping[str, Sequence[Outcome]], favoured: str, limit: int = MOST_CASES
) -> list[Case]:
    """Return at most ``limit`` cases: where ``favoured`` gains most over the best other arm, where it loses most.

    What is left of the limit goes to questions that no arm answers, then to the widest spreads.
    """
    cases = [
        _case(question, tuple(rows[place] for rows in outcomes.values()), favoured)
        for place, question in enumerate(questions)
    ]
    edge = {case.question.id: _edge(case, favoured) for case in cases}
    won = sorted((case for case in cases if edge[case.question.id] > 0), key=lambda case: -edge[case.question.id])
    lost = sorted((case for case in cases if edge[case.question.id] < 0), key=lambda case: edge[case.question.id])
    nobody = [case for case in cases if all(outcome.f1 < RIGHT for outcome in case.outcomes)]
    half = max(limit // 2, limit - len(won))
    chosen = [*won[: limit - min(len(lost), half)], *lost[:half]]
    known = {case.question.id for case in chosen}
    rest = [case for case in (*nobody, *sorted(cases, key=lambda case: -case.spread)) if case.question.id not in known]
    return (chosen + list({case.question.id: case for case in rest}.values()))[:limit]


def _case(question: Question, given: tuple[Outcome, ...], favoured: str) -> Case:
    scores = [outcome.f1 for outcome in given]
    return Case(question, given, _lesson(given, favoured), max(scores) - min(scores))


def _edge(case: Case, favoured: str) -> float:
    own = next(outcome.f1 for outcome in case.outcomes if outcome.arm == favoured)
    others = [outcome.f1 for outcome in case.outcomes if outcome.arm != favoured]
    return own - max(others) if others else 0.0


def _lesson(given: Sequence[Outcome], favoured: str) -> str:
    right = [outcome.arm for outcome in given if outcome.f1 >= RIGHT]
    if not right:
        return "no arm is right"
    if len(right) == len(given):
        return "every arm is right"
    if right == [favoured]:
        return f"only {favoured} is right"
    return f"{', '.join(right)} right" + ("" if favoured in right else f", {favoured} wrong")
