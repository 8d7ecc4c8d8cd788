"""The gate before an adapter serves, the shadow before the gate, and the way back.

Every change, and every refusal, leaves a line in the log: who, what, why. Knows nothing of HTTP or of the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data.errors import (
    BaseModelMismatch,
    ForgettingExceeded,
    InvalidRequest,
    ParityFailed,
    PromotionRefused,
    RagtuneError,
)
from data.records import Adapter, Model, StageNote
from data.store import scope_of
from service.arms import adapter_label, find_adapter
from service.evidence import STARTER_ORIGIN, gather
from service.lineage import check_fresh
from service.policy import Decision, Policy, decide, load_policy

if TYPE_CHECKING:
    from data.store import Store

_REFUSALS = ("parity-failed", "base-model-mismatch", "forgetting-exceeded", "stale-adapter", "promotion-refused")


@dataclass(frozen=True, slots=True)
class Promotion:
    """What a promotion changed: the adapter that is live, the one that was, and the decision (None at a rollback)."""

    live: Adapter
    before: Adapter | None
    decision: Decision | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """How strict a promotion is, and who asks for it.

    Attributes:
        policy: what must have been measured; the packaged one for None.
        refuse_stale: refuse an adapter whose documents were edited or deleted since.
        force: promote it though the policy says no; only base model, parity and staleness are never passed over.
        actor: a key's name or a user's, for the log.
        reason: why, in the words of who forces it.
    """

    policy: Policy | None = None
    refuse_stale: bool = False
    force: bool = False
    actor: str = ""
    reason: str = ""


def check_base(adapter: Adapter, model: Model) -> None:
    """Refuse an adapter that was trained for another base model than ``model``.

    Raises:
        BaseModelMismatch: it was.
    """
    if adapter.base_sha256 != model.sha256:
        raise BaseModelMismatch(
            f"The adapter {adapter_label(adapter)} was trained for another base model",
            got=adapter.base_model,
            wanted=f"an adapter trained for {model.name}",
            hint="Choose its base model with RAGTUNE_MODEL, or train one for this base: ragtune train",
        )


def is_dora(adapter: Adapter) -> bool:
    """Tell whether ``adapter`` has magnitudes, for which a GGUF adapter has no place: it is served merged."""
    return bool(adapter.recipe.get("use_dora"))


def check_promotable(adapter: Adapter, model: Model) -> None:
    """Refuse an adapter that cannot serve ``model``.

    Raises:
        BaseModelMismatch: it was trained for another base model.
        ParityFailed: its GGUF was never compared with what was trained, or answers differently.
    """
    check_base(adapter, model)
    parity: Mapping[str, Any] | None = adapter.metrics.get("parity")
    if adapter.lineage.get("origin") == STARTER_ORIGIN:
        return
    if is_dora(adapter):
        raise ParityFailed(
            f"{adapter_label(adapter)} is a DoRA, which llama.cpp can serve merged into its base only",
            hint=f"ragtune export {adapter_label(adapter)} --merge --quantize q8_0, then ragtune models add FILE.",
        )
    if not parity:
        raise ParityFailed(
            f"The GGUF of {adapter_label(adapter)} was never compared with the adapter that was trained",
            hint=f"Measure it with: ragtune export {adapter_label(adapter)}, or import it again.",
        )
    if parity.get("passed") is False:
        raise ParityFailed(
            f"The GGUF of {adapter_label(adapter)} does not answer like the adapter that was trained",
            got=f"greedy agreement {parity.get('greedy_agreement')}, KL {parity.get('kl')}",
            hint="Train it again; if it fails again, report it with the adapter's recipe.",
        )


def decision_on(store: Store, adapter: Adapter, policy: Policy | None = None) -> Decision:
    """Return what the policy says about ``adapter`` now; nothing changes."""
    return decide(gather(store, adapter), policy or load_policy())


def check_decision(decision: Decision) -> None:
    """Refuse what the policy refuses.

    Raises:
        ForgettingExceeded: the interval of its loss reaches beyond the margin.
        PromotionRefused: another rule fails; every failed rule is named with its figure and its bound.
    """
    failed = decision.failed
    if not failed:
        return
    force = "or promote it anyway with --force --reason WHY"
    first = failed[0]
    if first.rule == "forgetting":
        raise ForgettingExceeded(
            f"Under {decision.candidate} the model was not shown to keep its general knowledge",
            got=first.figure,
            wanted=first.bound,
            hint=f"Train with fewer epochs, a lower learning_rate or a smaller r; {force}.",
        )
    command = f"ragtune compare --arms {_arms(decision)} --questions FILE"
    raise PromotionRefused(
        f"The policy does not let {decision.candidate} take the place of {decision.incumbent}",
        got="; ".join(f"{reason.rule}: {reason.figure}" for reason in failed),
        wanted="; ".join(f"{reason.rule}: {reason.bound}" for reason in failed),
        hint=f"Measure it with: {command}; {force}.",
    )


def _arms(decision: Decision) -> str:
    return ",".join(dict.fromkeys(("rag", decision.incumbent, decision.candidate)))


def promote(
    store: Store, model: Model, name: str, version: int | None = None, *, gate: Gate | None = None
) -> Promotion:
    """Make an adapter the live one of ``model`` in its collection if the policy lets it; the one before is retired.

    One that was trained in no collection (a packaged one) serves every collection that has none of its own.

    The change and its line of the log are one transaction. A refusal is logged too.

    Args:
        store: where adapters are kept.
        model: the base model served.
        name: ``name`` (its newest version, as in a comparison) or ``name@version``.
        version: instead of ``@version``.
        gate: the packaged policy, nothing forced, for None.

    Raises:
        UnknownAdapter: there is none.
        InvalidRequest: ``name`` and ``version`` name two versions.
        StaleAdapter: it is stale, and such adapters are refused.
        Everything ``check_promotable`` raises, and without ``force`` what ``check_decision`` raises.
    """
    gate = gate or Gate()
    adapter = _named(store, name, version)
    decision = decision_on(store, adapter, gate.policy)
    try:
        check_promotable(adapter, model)
        if gate.refuse_stale:
            check_fresh(store, adapter)
        if not gate.force:
            check_decision(decision)
    except RagtuneError as error:
        if error.type in _REFUSALS:
            note = StageNote(gate.actor, str(error), decision.view())
            label = adapter_label(adapter)
            store.stages.add("adapter", label, "refused", between=(adapter.stage, adapter.stage), note=note)
        raise
    forced = not decision.promote
    why = f"forced: {gate.reason or 'no reason given'}" if forced else gate.reason or "the policy lets it serve"
    before = store.adapters.live(model.sha256, scope_of(adapter))
    live = store.adapters.promote(adapter.name, adapter.version, StageNote(gate.actor, why, decision.view()))
    return Promotion(live, before, decision)


def _named(store: Store, name: str, version: int | None) -> Adapter:
    adapter = find_adapter(store, name if version is None or "@" in name else f"{name}@{version}")
    if version not in (None, adapter.version):
        raise InvalidRequest("Two versions of the adapter are named", got=f"{name} and {version}", wanted="one of them")
    return adapter


def rollback(
    store: Store, model: Model, collection: str = "default", *, actor: str = "", reason: str = ""
) -> Promotion:
    """Make the adapter live again that answered in a collection before the present one.

    Raises:
        NoLiveAdapter: none is live, or none was before.
    """
    before = store.adapters.live(model.sha256, collection)
    return Promotion(store.adapters.rollback(model.sha256, collection, StageNote(actor, reason)), before)


def shadow(store: Store, model: Model, name: str, *, actor: str = "", reason: str = "") -> Adapter:
    """Let an adapter answer real questions in the shadow; the one that did so before is a candidate again.

    Raises:
        UnknownAdapter: there is none.
        IllegalTransition: it is live.
        Everything ``check_promotable`` raises.
    """
    adapter = find_adapter(store, name)
    check_promotable(adapter, model)
    return store.adapters.shadow(adapter.name, adapter.version, StageNote(actor, reason))


def retire(store: Store, name: str, *, actor: str = "", reason: str = "") -> Adapter:
    """Take an adapter out of service; if it was live, answers come without an adapter afterwards.

    Raises:
        UnknownAdapter: there is none.
        IllegalTransition: it is retired already.
    """
    adapter = find_adapter(store, name)
    return store.adapters.leave(adapter.name, adapter.version, "retired", StageNote(actor, reason))
