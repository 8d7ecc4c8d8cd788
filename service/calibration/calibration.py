"""A fitted confidence with all that it was fitted for, and how it is fitted.

``fit`` makes one from answers whose truth is known: a logistic regression gives the confidence, and the confidences
of the unanswerable questions that got an answer give the thresholds. Those are computed by models that have not seen
the question's document (cross-fitting), because the served model has seen them all and would flatter itself. Knows
nothing of how answers are made or where calibrations are kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import CalibrationTooSmall
from data.protocols import GenerationResult
from data.records import content_id
from service.calibration.conformal import threshold
from service.calibration.logistic import LogisticModel, fit_logistic, rows_of

ANSWER_TOKENS = 48
"""Most tokens of an answer while calibrating, as in a comparison."""
FEWEST = 10
"""Right and not-right answers that a fit needs, of each: with fewer a weight is mostly chance."""
FOLDS = 5
RIDGE = 10.0
"""Penalty of the fit: between 1 and 50 little depends on it, see bench/RESULTS.md."""


@dataclass(frozen=True, slots=True)
class Point:
    """One answered question of known truth.

    Attributes:
        question_id: of the question.
        group: what it must not share with those that judge it: its document, else itself.
        answerable: whether the documents hold an answer.
        answered: whether the model gave one.
        right: whether that was right; False where it gave none.
        signals: what the confidence is computed from, by name; {} where the model gave no answer.
    """

    question_id: str
    group: str
    answerable: bool
    answered: bool
    right: bool
    signals: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class FittedFor:
    """What a calibration holds for; anything else makes it stale.

    ``adapters`` are labels ``name@version`` with their scales; ``signals`` is the version of ``signals.NAMES``.
    """

    mode: str
    collection: str
    adapters: Mapping[str, float]
    model: str
    model_sha256: str
    embedder: str
    prompt: str
    signals: int
    top_k: int
    method: str
    rerank: str

    def differences(self, now: FittedFor) -> list[str]:
        """Name what is different now, with both values."""
        then, today = asdict(self), asdict(now)
        return [f"{name} was {then[name]}, is {today[name]}" for name in then if then[name] != today[name]]


@dataclass(frozen=True, slots=True)
class Calibration:
    """How an arm's confidence is computed, and which confidences false answers had.

    Attributes:
        fitted_for: what it holds for.
        model: gives the confidence.
        false_confidences: of unanswerable questions that got an answer, highest first, each by a model that had not
            seen its document.
        unanswerable: how many unanswerable questions were asked.
        made: whether they were made unanswerable by hiding the passages that hold their answers.
        report: n, AUROC, ECE and so on, as ``calibrate`` prints them.
        created_at: Unix seconds.
        max_tokens: most tokens of the answers it was fitted on, at which longer ones were cut.
    """

    fitted_for: FittedFor
    model: LogisticModel
    false_confidences: tuple[float, ...]
    unanswerable: int
    made: bool = False
    report: Mapping[str, Any] = field(default_factory=dict)
    created_at: float = 0.0
    max_tokens: int = ANSWER_TOKENS

    def saw(self, result: GenerationResult, max_tokens: int) -> bool:
        """Tell whether answers of such a length were fitted on: ended by themselves within it, or cut just there.

        Args:
            result: what was generated.
            max_tokens: at which it would have been cut.
        """
        if result.finish_reason == "length":
            return max_tokens == self.max_tokens
        return result.usage.completion_tokens <= self.max_tokens

    @property
    def id(self) -> str:
        """Return what names it: equal fits have equal ids."""
        numbers = [*self.model.weights, self.model.intercept, *self.false_confidences]
        return content_id(repr(asdict(self.fitted_for)), repr(numbers))

    def confidence(self, signals: Mapping[str, float]) -> float:
        """Return the probability, 0 to 1, that an answer with these signals is right."""
        return self.model.probability(signals)

    def threshold(self, rate: float) -> float:
        """Return the confidence above which an answer is given, for a share of false answers of at most ``rate``.

        Raises:
            InvalidRequest, CalibrationTooSmall: as ``conformal.threshold`` raises.
        """
        return threshold(self.false_confidences, self.unanswerable, rate)

    def to_json(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {**asdict(self), "model": self.model.to_json(), "id": self.id}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> Calibration:
        """Read it back.

        Raises:
            KeyError, TypeError, ValueError: it is none.
        """
        return cls(
            fitted_for=FittedFor(**stored["fitted_for"]),
            model=LogisticModel.from_json(stored["model"]),
            false_confidences=tuple(map(float, stored["false_confidences"])),
            unanswerable=int(stored["unanswerable"]),
            made=bool(stored["made"]),
            report=dict(stored["report"]),
            created_at=float(stored["created_at"]),
            max_tokens=int(stored.get("max_tokens", ANSWER_TOKENS)),
        )


@dataclass(frozen=True, slots=True)
class Fit:
    """A fit over points: the model of all, and each answer's confidence by a model that had not seen its group.

    ``confidences`` has an entry for each point that was answered, by question id.
    """

    model: LogisticModel
    confidences: Mapping[str, float]
    false_confidences: tuple[float, ...]
    unanswerable: int


def check_points(points: Sequence[Point]) -> None:
    """Raise ``CalibrationTooSmall`` where there are too few answers of a kind to fit a confidence."""
    right = sum(point.right for point in points)
    wrong = sum(point.answered and not point.right for point in points)
    if right < FEWEST or wrong < FEWEST:
        silent = f", {len(points) - right - wrong} without an answer" if len(points) > right + wrong else ""
        raise CalibrationTooSmall(
            "Too few answers to calibrate on",
            got=f"{right} right and {wrong} wrong answers to {len(points)} questions{silent}",
            wanted=f"at least {FEWEST} right ones and {FEWEST} wrong ones or answers to unanswerable questions",
            hint=_more(right, wrong, len(points)),
        )


def _more(right: int, wrong: int, asked: int) -> str:
    """Return what to ask where there are too few right or wrong answers."""
    if asked and not right + wrong:
        return "This arm gave no answer at all, and there is no confidence in none: calibrate another arm."
    if not right or not wrong:
        what = "right" if wrong else "wrong"
        kinds = "Ask more questions, both answerable and unanswerable ones; about 200 give a useful calibration."
        return f"So far not one answer was {what}. {kinds}" if asked else kinds
    needed = math.ceil(asked * FEWEST / min(right, wrong))
    return f"Ask more: at this rate about {needed} such questions are enough; about 200 give a useful calibration."


def fit(points: Sequence[Point], names: Sequence[str], *, folds: int = FOLDS, ridge: float = RIDGE) -> Fit:
    """Fit the confidence and the thresholds' data.

    Args:
        points: of known truth.
        names: the signals to use.
        folds: parts for cross-fitting, whole groups each.
        ridge: penalty of the regression.

    Raises:
        CalibrationTooSmall: too few answers that are right, or too few that are not.
    """
    check_points(points)
    answered = [point for point in points if point.answered]
    rows = rows_of([point.signals for point in answered], names)
    right = np.array([point.right for point in answered])
    unseen = _cross_fitted(answered, names, rows, right, folds=folds, ridge=ridge)
    confidences = {point.question_id: float(value) for point, value in zip(answered, unseen, strict=True)}
    false = (confidences[point.question_id] for point in answered if not point.answerable)
    return Fit(
        model=fit_logistic(names, rows, right.tolist(), ridge),
        confidences=confidences,
        false_confidences=tuple(sorted(false, reverse=True)),
        unanswerable=sum(not point.answerable for point in points),
    )


def _cross_fitted(
    answered: Sequence[Point],
    names: Sequence[str],
    rows: NDArray[np.float64],
    right: NDArray[np.bool_],
    *,
    folds: int,
    ridge: float,
) -> NDArray[np.float64]:
    """Return each answer's confidence by the model of the other folds."""
    places = fold_numbers([point.group for point in answered], folds)
    found = np.full(len(answered), right.mean())
    for fold in range(folds):
        inside = places == fold
        kinds = set(right[~inside].tolist())
        if inside.any() and len(kinds) == 2:
            found[inside] = fit_logistic(names, rows[~inside], right[~inside].tolist(), ridge).probabilities(
                rows[inside]
            )
    return found


def fold_numbers(groups: Sequence[str], folds: int) -> NDArray[np.int64]:
    """Return the fold of each place, groups kept whole and the folds about equal in size.

    The largest group goes first, each to the fold that has least so far; equal ones in the order of their hashes.
    """
    sizes: dict[str, int] = {}
    for group in groups:
        sizes[group] = sizes.get(group, 0) + 1
    filled, chosen = [0] * folds, {}
    for group in sorted(sizes, key=lambda each: (-sizes[each], content_id(each))):
        chosen[group] = filled.index(min(filled))
        filled[chosen[group]] += sizes[group]
    return np.array([chosen[group] for group in groups], dtype=np.int64)
