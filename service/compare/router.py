"""Which of two arms answers a question, by their calibrated confidences: small enough to be read.

One arm answers first. Where its confidence is under a switch the second is asked too, and the more confident of the
two answers is given. The switch is found on one half of an evaluation's questions and judged on the other, both ways;
a router that is not measured to be at least as good as the best single arm is off. Knows nothing of how arms answer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.records import Question
from service.calibration.calibration import fold_numbers
from service.compare.outcomes import Outcome
from service.compare.statistics import FEWEST_QUESTIONS, bootstrap_interval

ROUTED = ("base", "rag", "tuned", "combined")
"""Arms that ``auto`` can take: others are adapters of one comparison."""
_SWITCHES = np.linspace(0, 1, 21)

Numbers = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Router:
    """``second`` is asked where ``first``'s confidence is under ``switch``; the more confident answer is given."""

    first: str
    second: str
    switch: float
    calibrations: Mapping[str, str]

    def takes_second(self, first: float | None, second: float | None) -> bool:
        """Tell whether the second arm's answer is given; an abstention (None) has no confidence."""
        return (first or 0.0) < self.switch and (second or 0.0) > (first or 0.0)


def router_of(result: Mapping[str, Any]) -> Router | None:
    """Return the router of an evaluation's result, None where there is none or it is off."""
    found = result.get("router") or {}
    if not found.get("enabled"):
        return None
    return Router(found["first"], found["second"], float(found["switch"]), dict(found["calibrations"]))


def fit_router(
    outcomes: Mapping[str, Sequence[Outcome]], questions: Sequence[Question], calibrations: Mapping[str, str]
) -> dict[str, Any]:
    """Return the router that an evaluation supports, as JSON, and what it was measured to gain.

    ``held_out`` has mean F1 (0-100) of the router, of the best single arm and of an oracle that takes each question's
    best answer, and the router's gain, each with its 95 % interval (``f1_ci`` and so on). ``enabled`` is False, with a
    ``reason``, unless the gain's interval leaves out any loss.

    Args:
        outcomes: every arm's outcomes, in the order of ``questions``.
        questions: those that were asked.
        calibrations: the id of each arm's calibration, of those that have one.
    """
    arms = [arm for arm in ROUTED if arm in outcomes and arm in calibrations]
    if any(row.abstained_by == "confidence" for arm in arms for row in outcomes[arm]):
        return _off("answers were withheld, and a router answers all: compare without max_false_answer_rate")
    if len(arms) < 2:
        return _off(f"a router needs two calibrated arms, and {len(arms)} of these is: ragtune calibrate --mode MODE")
    if len(questions) < 2 * FEWEST_QUESTIONS:
        return _off(f"too few questions: a router needs {2 * FEWEST_QUESTIONS}")
    f1 = {arm: np.array([row.f1 for row in outcomes[arm]]) for arm in outcomes}
    sure = {arm: np.array([row.confidence or 0.0 for row in outcomes[arm]]) for arm in arms}
    halves = fold_numbers([question.document or question.id for question in questions], 2)
    routed = np.zeros(len(questions))
    for half in (0, 1):
        chosen = _best(arms, f1, sure, halves != half)
        routed[halves == half] = _routed(chosen, f1, sure)[halves == half]
    best = max(outcomes, key=lambda arm: f1[arm].mean())
    first, second, switch = _best(arms, f1, sure, np.ones(len(questions), dtype=bool))
    held_out = _held_out(f1, routed, best)
    enabled = held_out["gain_ci"][0] >= 0 and held_out["gain"] > 0
    found = {
        "enabled": enabled,
        "reason": "" if enabled else f"not measured to be better than {best} alone on questions it had not seen",
        "first": first,
        "second": second,
        "switch": switch,
        "calibrations": {arm: calibrations[arm] for arm in (first, second)},
        "asked_twice": float(np.mean(sure[first] < switch)),
    }
    return {**found, "held_out": held_out}


def _held_out(f1: Mapping[str, Numbers], routed: Numbers, best: str) -> dict[str, Any]:
    """Return the means of router, best single arm, oracle and gain, each with its interval."""
    possible = np.max(list(f1.values()), axis=0)
    measured = {"f1": routed, "best_single_f1": f1[best], "oracle_f1": possible, "gain": routed - f1[best]}
    found: dict[str, Any] = {"best_single": best}
    for name, scores in measured.items():
        found |= {name: float(scores.mean()), f"{name}_ci": list(bootstrap_interval(scores.tolist()))}
    return found


def oracle(outcomes: Mapping[str, Sequence[Outcome]]) -> dict[str, Any]:
    """Return how much a perfect router could gain: mean F1 (0-100) of the best single arm, and of each question's best.

    Args:
        outcomes: every arm's outcomes over the same questions.
    """
    f1 = {arm: np.array([row.f1 for row in rows]) for arm, rows in outcomes.items()}
    best = max(f1, key=lambda arm: float(f1[arm].mean()))
    means = float(f1[best].mean()), float(np.max(list(f1.values()), axis=0).mean())
    return {"best_single": best, "best_single_f1": means[0], "f1": means[1]}


def _off(reason: str) -> dict[str, Any]:
    return {"enabled": False, "reason": reason, "held_out": None}


def _best(
    arms: Sequence[str], f1: Mapping[str, Numbers], sure: Mapping[str, Numbers], among: Flags
) -> tuple[str, str, float]:
    """Return first, second and switch of the highest mean F1 on some questions; of equals, what asks twice least."""
    choices = [(a, b, float(switch)) for switch in _SWITCHES for a, b in permutations(arms, 2)]
    return max(choices, key=lambda choice: float(_routed(choice, f1, sure)[among].mean()))


def _routed(choice: tuple[str, str, float], f1: Mapping[str, Numbers], sure: Mapping[str, Numbers]) -> Numbers:
    first, second, switch = choice
    taken = (sure[first] < switch) & (sure[second] > sure[first])
    return np.asarray(np.where(taken, f1[second], f1[first]), dtype=np.float64)
