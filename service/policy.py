"""The promotion policy: what must have been measured of an adapter before it serves, and the decision it leads to.

``decide`` is a pure function of the evidence and the policy. Knows nothing of where evidence is kept or of what a
decision changes.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

from data.errors import PolicyInvalid
from finetune.recipe import nearest_names

Measure = Literal["containment", "f1"]
Gain = Literal["facts", "style"]
PACKAGED = Path(__file__).parent / "policy.toml"


@dataclass(frozen=True, slots=True)
class EvaluationRule:
    """Whether a comparison is needed, and which counts."""

    required: bool = False
    min_questions: int = 20
    max_leaked: int = 0


@dataclass(frozen=True, slots=True)
class FactsRule:
    """Non-inferiority on facts; ``margin`` in points (0-100)."""

    measure: Measure = "containment"
    margin: float = 5.0


@dataclass(frozen=True, slots=True)
class BetterRule:
    """In what the adapter has to be better, any of them."""

    on: tuple[Gain, ...] = ("facts", "style")


@dataclass(frozen=True, slots=True)
class ForgettingRule:
    """Whether the general questions must have been asked."""

    required: bool = False


@dataclass(frozen=True, slots=True)
class LatencyRule:
    """Latency budget: median relative to what is replaced, and an absolute 95th percentile in milliseconds.

    A median that is slower by ``tolerance_ms`` or less is within the budget whatever its ratio.
    """

    max_ratio: float = 1.5
    tolerance_ms: float = 50.0
    max_p95_ms: float = math.inf


@dataclass(frozen=True, slots=True)
class ShadowRule:
    """How the shadow is filled, and what it must have shown; rates and shares are 0-1."""

    share: float = 0.1
    min_answers: int = 0
    max_failure_rate: float = 0.02
    max_more_abstentions: float = 0.05


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules, one section each."""

    evaluation: EvaluationRule = field(default_factory=EvaluationRule)
    facts: FactsRule = field(default_factory=FactsRule)
    better: BetterRule = field(default_factory=BetterRule)
    forgetting: ForgettingRule = field(default_factory=ForgettingRule)
    latency: LatencyRule = field(default_factory=LatencyRule)
    shadow: ShadowRule = field(default_factory=ShadowRule)


@dataclass(frozen=True, slots=True)
class Paired:
    """A paired difference, candidate minus what it replaces, with its 95 % interval, in points over ``n`` questions."""

    difference: float
    low: float
    high: float
    n: int


@dataclass(frozen=True, slots=True)
class Compared:
    """What a comparison showed of the candidate beside ``incumbent`` (an adapter, or the bare model over passages)."""

    evaluation: str
    incumbent: str
    questions: int
    containment: Paired | None
    f1: Paired | None
    style: Paired | None
    p50_ms: float
    p95_ms: float
    incumbent_p50_ms: float
    leaked: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shadowed:
    """What the shadow showed: rates are 0-1 over ``answers``."""

    answers: int
    failure_rate: float
    abstentions: float
    live_abstentions: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of a candidate; None is what was not measured.

    ``parity`` and ``forgetting`` are as ``finetune.parity`` and ``finetune.probe`` measured them; ``packaged``: it came
    with ragtune, and its parity was measured when it was made.
    """

    candidate: str
    incumbent: str
    packaged: bool = False
    parity: Mapping[str, Any] | None = None
    forgetting: Mapping[str, Any] | None = None
    compared: Compared | None = None
    shadow: Shadowed | None = None


@dataclass(frozen=True, slots=True)
class Reason:
    """One rule: ``passed`` is None where nothing was measured and nothing had to be; figure and bound in words."""

    rule: str
    passed: bool | None
    figure: str
    bound: str

    def __str__(self) -> str:
        mark = {True: "holds", False: "fails", None: "not measured"}[self.passed]
        return f"{self.rule} {mark}: {self.figure} (wanted: {self.bound})"


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a candidate may serve, and why: every rule with its figure and its bound."""

    candidate: str
    incumbent: str
    promote: bool
    reasons: tuple[Reason, ...]

    @property
    def failed(self) -> tuple[Reason, ...]:
        """Return the rules that speak against it."""
        return tuple(reason for reason in self.reasons if reason.passed is False)

    def view(self) -> dict[str, Any]:
        """Return it as JSON."""
        return asdict(self)


def decide(evidence: Evidence, policy: Policy) -> Decision:
    """Return whether ``policy`` lets the candidate serve; it does if no rule fails."""
    reasons = (
        _parity(evidence),
        _forgetting(evidence, policy),
        *_compared(evidence, policy),
        *_shadow(evidence, policy),
    )
    passed = all(reason.passed is not False for reason in reasons)
    return Decision(evidence.candidate, evidence.incumbent, passed, reasons)


def _parity(evidence: Evidence) -> Reason:
    bound = "the GGUF answers like what was trained"
    if evidence.packaged:
        return Reason("parity", True, "measured when it was packaged", bound)
    if not evidence.parity:
        return Reason("parity", False, "never compared", bound)
    found = evidence.parity
    figure = f"greedy agreement {found.get('greedy_agreement')}, KL {found.get('kl')}"
    return Reason("parity", found.get("passed") is not False, figure, bound)


def _forgetting(evidence: Evidence, policy: Policy) -> Reason:
    found = evidence.forgetting
    if not found:
        missing = False if policy.forgetting.required and not evidence.packaged else None
        return Reason("forgetting", missing, "the general questions were not asked", "they are answered as before")
    low, high = found["ci"]
    figure = f"right answers less probable by {found['drop']:.3f} (95 % interval {low:.3f} to {high:.3f})"
    return Reason("forgetting", bool(found["passed"]), figure, f"an interval that ends within {found['margin']:g}")


def _compared(evidence: Evidence, policy: Policy) -> Sequence[Reason]:
    found, rule = evidence.compared, policy.evaluation
    bound = f"compared with {evidence.incumbent} on {rule.min_questions} questions or more"
    if found is None or found.questions < rule.min_questions:
        figure = f"{found.questions} questions" if found else "no comparison with it"
        return (Reason("evaluation", False if rule.required else None, figure, bound),)
    return (
        Reason("evaluation", True, f"{found.questions} questions", bound),
        _leaked(found, rule),
        _facts(found, policy.facts),
        _better(found, policy),
        *_latency(found, policy.latency),
    )


def _leaked(found: Compared, rule: EvaluationRule) -> Reason:
    names = f" ({', '.join(found.leaked[:5])})" if found.leaked else ""
    figure = f"{len(found.leaked)} questions that it was trained on{names}"
    return Reason("leaked questions", len(found.leaked) <= rule.max_leaked, figure, f"at most {rule.max_leaked}")


def _facts(found: Compared, rule: FactsRule) -> Reason:
    bound = f"{rule.measure} within {rule.margin:g} points: an interval that begins above {-rule.margin:g}"
    paired = _facts_of(found, rule.measure)
    if paired is None:
        return Reason("facts", None, f"no paired {rule.measure} in this comparison", bound)
    if paired.low >= -rule.margin:
        return Reason("facts", True, _interval(paired), bound)
    more = questions_for(paired, rule.margin)
    hint = f"; about {more} questions would tell" if more is not None else ""
    return Reason("facts", False, _interval(paired) + hint, bound)


def questions_for(paired: Paired, margin: float) -> int | None:
    """Return how many questions would prove non-inferiority if the difference stays, None if none would."""
    room = paired.difference + margin
    if room <= 0 or paired.difference <= paired.low:
        return None
    return math.ceil(paired.n * ((paired.difference - paired.low) / room) ** 2)


def _facts_of(found: Compared, measure: Measure) -> Paired | None:
    return found.containment if measure == "containment" else found.f1


def _better(found: Compared, policy: Policy) -> Reason:
    measured = {"facts": _facts_of(found, policy.facts.measure), "style": found.style}
    wanted = {name: measured[name] for name in policy.better.on}
    shown = "; ".join(f"{name} {_interval(each) if each else 'not measured'}" for name, each in wanted.items())
    above = any(each is not None and each.low > 0 for each in wanted.values())
    return Reason("better", above, shown, f"an interval above zero for {' or '.join(policy.better.on)}")


def _latency(found: Compared, rule: LatencyRule) -> Sequence[Reason]:
    ratio = found.p50_ms / found.incumbent_p50_ms if found.incumbent_p50_ms else 1.0
    figure = f"median {found.p50_ms:.0f} ms, {ratio:.2f} times {found.incumbent}'s {found.incumbent_p50_ms:.0f} ms"
    near = found.p50_ms - found.incumbent_p50_ms <= rule.tolerance_ms
    bound = f"at most {rule.max_ratio:g} times, or {rule.tolerance_ms:g} ms more"
    relative = Reason("latency", near or ratio <= rule.max_ratio, figure, bound)
    if math.isinf(rule.max_p95_ms):
        return (relative,)
    slow = f"95 % of the answers within {found.p95_ms:.0f} ms"
    return (relative, Reason("latency p95", found.p95_ms <= rule.max_p95_ms, slow, f"{rule.max_p95_ms:g} ms"))


def _shadow(evidence: Evidence, policy: Policy) -> Sequence[Reason]:
    found, rule = evidence.shadow, policy.shadow
    if found is None or found.answers < max(rule.min_answers, 1):
        if not rule.min_answers:
            return ()
        answers = found.answers if found else 0
        return (Reason("shadow", False, f"{answers} answers in the shadow", f"{rule.min_answers} or more"),)
    if not rule.min_answers:
        return ()
    more = found.abstentions - found.live_abstentions
    return (
        Reason("shadow", True, f"{found.answers} answers in the shadow", f"{rule.min_answers} or more"),
        Reason(
            "shadow failures",
            found.failure_rate <= rule.max_failure_rate,
            f"{found.failure_rate:.1%} failed",
            f"at most {rule.max_failure_rate:.1%}",
        ),
        Reason(
            "shadow abstentions",
            more <= rule.max_more_abstentions,
            f"{found.abstentions:.1%}, against {found.live_abstentions:.1%} of what was answered",
            f"at most {rule.max_more_abstentions:.1%} more",
        ),
    )


def _interval(paired: Paired) -> str:
    shown = f"{paired.difference:+.1f} points (95 % interval {paired.low:+.1f} to {paired.high:+.1f}"
    return f"{shown}, {paired.n} questions)"


def load_policy(path: Path | None = None) -> Policy:
    """Return the policy of a TOML file, the packaged one for None; what the file leaves out keeps its default.

    Raises:
        PolicyInvalid: the file cannot be read, or has an unknown key or an impossible value.
    """
    try:
        values = tomllib.loads((path or PACKAGED).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise PolicyInvalid(f"The policy cannot be read: {error}", got=path, wanted="a TOML file") from error
    return policy_from(values)


@lru_cache(maxsize=1)
def _sections() -> dict[str, Any]:
    return {section.name: getattr(Policy(), section.name) for section in dataclasses.fields(Policy)}


def policy_from(values: Mapping[str, Any]) -> Policy:
    """Return the policy that nested ``values`` describe.

    Raises:
        PolicyInvalid: an unknown key (the hint names the nearest), a value of another type, or an impossible one.
    """
    _refuse_unknown(values, _sections(), "")
    made = {}
    for name, default in _sections().items():
        given = values.get(name, {})
        if not isinstance(given, Mapping):
            raise PolicyInvalid("A section of the policy is a table", got=f"{name} = {given!r}", wanted=f"[{name}]")
        known = {each.name: getattr(default, each.name) for each in dataclasses.fields(default)}
        _refuse_unknown(given, known, name)
        made[name] = type(default)(
            **{key: _checked(f"{name}.{key}", given.get(key, old), old) for key, old in known.items()}
        )
    return Policy(**made)


def _refuse_unknown(values: Mapping[str, Any], known: Mapping[str, Any], section: str) -> None:
    unknown = sorted(set(values) - set(known))
    if unknown:
        where = f"[{section}] of the policy has" if section else "The policy has"
        raise PolicyInvalid(
            f"{where} an unknown key",
            got=", ".join(unknown),
            wanted=", ".join(known),
            hint=nearest_names(unknown, known),
        )


def _checked(name: str, value: Any, default: Any) -> Any:
    choices = {"facts.measure": get_args(Measure), "better.on": get_args(Gain)}.get(name)
    if choices is not None:
        given = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list | tuple) else ()
        one = name == "facts.measure"
        if not given or set(given) - set(choices) or (one and not isinstance(value, str)):
            wanted = f"{'one' if one else 'some'} of {', '.join(choices)}"
            raise PolicyInvalid(f"{name} has an impossible value", got=repr(value), wanted=wanted)
        return value if one else given
    if isinstance(default, bool) or isinstance(value, bool):
        fits = isinstance(default, bool) and isinstance(value, bool)
    elif isinstance(default, int):
        fits = isinstance(value, int) and value >= 0
    else:
        fits = isinstance(value, int | float) and value >= 0 and (name != "shadow.share" or value <= 1)
    if not fits:
        wanted = "true or false" if isinstance(default, bool) else "a number that is not negative, a share within 1"
        raise PolicyInvalid(f"{name} has an impossible value", got=repr(value), wanted=wanted)
    return value if isinstance(default, bool | int) else float(value)
