"""Gathers what was measured of an adapter: parity, forgetting, shadow, the newest comparison with what it replaces.

Reads results and the store; measures nothing itself and decides nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from data.records import Adapter
from data.store import scope_of
from service.arms import adapter_label
from service.policy import Compared, Evidence, Paired, Shadowed

if TYPE_CHECKING:
    from data.store import ShadowAnswer, Store

STARTER_ORIGIN = "starter"
"""Lineage of packaged adapters, whose parity was measured when they were made."""
WITHOUT_ADAPTER = "rag"
"""What answers where no adapter is live: the bare model over passages."""
_EVALUATIONS = 100
"""Among so many, the newest, the comparison is looked for."""


def gather(store: Store, adapter: Adapter) -> Evidence:
    """Return all that is known of ``adapter`` beside what it would replace."""
    live = store.adapters.live(adapter.base_sha256, scope_of(adapter))
    replaced = live is not None and adapter_label(live) != adapter_label(adapter)
    incumbent = adapter_label(live) if live is not None and replaced else WITHOUT_ADAPTER
    label = adapter_label(adapter)
    results = (row["result"] for row in store.evaluations.list(_EVALUATIONS))
    found = (compared(result, label, incumbent) for result in results)
    answers = store.shadows.list(adapter.name, adapter.version)
    return Evidence(
        candidate=label,
        incumbent=incumbent,
        packaged=adapter.lineage.get("origin") == STARTER_ORIGIN,
        parity=adapter.metrics.get("parity"),
        forgetting=adapter.metrics.get("forgetting"),
        compared=next((each for each in found if each is not None), None),
        shadow=shadowed(answers) if answers else None,
    )


def compared(result: Mapping[str, Any], candidate: str, incumbent: str) -> Compared | None:
    """Return what a comparison's result shows of both over passages, None unless it ran both to the end."""
    arms = result.get("arms", {})
    a, b = (_arm(arms, wanted) for wanted in (candidate, incumbent))
    if a is None or b is None:
        return None
    leaked = result.get("questions", {}).get("leaked", ())
    return Compared(
        evaluation=str(result.get("id", "")),
        incumbent=incumbent,
        questions=int(arms[a]["n"]),
        containment=_facts(result, a, b, "containment"),
        f1=_facts(result, a, b, "f1"),
        style=_style(result, a, b),
        p50_ms=float(arms[a]["latency_ms_p50"]),
        p95_ms=float(arms[a]["latency_ms_p95"]),
        incumbent_p50_ms=float(arms[b]["latency_ms_p50"]),
        leaked=tuple(str(each["id"]) for each in leaked if each.get("adapter") == candidate),
    )


def shadowed(answers: Sequence[ShadowAnswer]) -> Shadowed:
    """Return the rates over answers in the shadow; abstentions are among those that did not fail."""
    whole = [answer for answer in answers if not answer.error]
    return Shadowed(
        answers=len(answers),
        failure_rate=1 - len(whole) / len(answers),
        abstentions=fmean(answer.abstained for answer in whole) if whole else 0.0,
        live_abstentions=fmean(answer.live_abstained for answer in whole) if whole else 0.0,
    )


def _arm(arms: Mapping[str, Any], wanted: str) -> str | None:
    """Return the arm in which ``wanted`` answers over passages; tuned has none, and a failed arm proves nothing."""
    for name, figures in arms.items():
        fits = name == wanted if wanted == WITHOUT_ADAPTER else figures.get("adapter") == wanted and name != "tuned"
        if fits and not figures.get("failed"):
            return name
    return None


def _differences(table: Mapping[str, Any], a: str, b: str) -> Iterator[tuple[Mapping[str, Any], int]]:
    """Yield the difference between two arms with the sign that makes it ``a`` minus ``b``."""
    for name, sign in ((f"{a}-{b}", 1), (f"{b}-{a}", -1)):
        if name in table:
            yield table[name], sign


def _paired(value: float, interval: Sequence[float], sign: int, n: int) -> Paired:
    low, high = sorted(sign * bound for bound in interval)
    return Paired(sign * value, low, high, n)


def _facts(result: Mapping[str, Any], a: str, b: str, measure: str) -> Paired | None:
    for found, sign in _differences(result.get("difference", {}), a, b):
        interval = found.get("ci" if measure == "f1" else "containment_ci")
        if interval is not None:
            return _paired(found[measure], interval, sign, int(result["arms"][a]["n"]))
    return None


def _style(result: Mapping[str, Any], a: str, b: str) -> Paired | None:
    for found, sign in _differences((result.get("style") or {}).get("difference", {}), a, b):
        if found.get("ci") is not None:
            return _paired(found["total"], found["ci"], sign, int(found["n"]))
    return None


def shadow_summary(store: Store, adapter: Adapter) -> dict[str, Any] | None:
    """Return what the shadow showed of an adapter, None if it never was in it. Shares 0-1, F1 0-100, milliseconds.

    Of the newest answers; ``dropped`` counts the questions that were not answered in the shadow, by reason.
    """
    answers = store.shadows.list(adapter.name, adapter.version)
    dropped = store.shadows.drops(adapter.name, adapter.version)
    if not answers and not dropped and adapter.stage != "shadow":
        return None
    whole = [answer for answer in answers if not answer.error]
    return {
        "answers": len(answers),
        "failed": len(answers) - len(whole),
        "agreement": fmean(each.agrees for each in whole) if whole else None,
        "f1": fmean(each.f1 for each in whole) if whole else None,
        "abstained": fmean(each.abstained for each in whole) if whole else None,
        "live_abstained": fmean(each.live_abstained for each in whole) if whole else None,
        "latency_ms_p50": median(each.latency_ms for each in whole) if whole else None,
        "live_latency_ms_p50": median(each.live_latency_ms for each in whole) if whole else None,
        "against": sorted({each.against or WITHOUT_ADAPTER for each in whole}),
        "dropped": dropped,
    }
