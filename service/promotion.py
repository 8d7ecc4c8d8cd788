"""The gate before an adapter serves, and the way back.

Knows nothing of HTTP or of the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data.errors import BaseModelMismatch, ForgettingExceeded, InvalidRequest, ParityFailed
from data.records import Adapter, Model
from service.arms import adapter_label, find_adapter
from service.lineage import check_fresh

if TYPE_CHECKING:
    from data.store import Store

STARTER_ORIGIN = "starter"
"""Lineage of packaged adapters, whose parity was measured when they were made."""


@dataclass(frozen=True, slots=True)
class Promotion:
    """What a promotion changed: the adapter that is live, and the one that was."""

    live: Adapter
    before: Adapter | None


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


def check_remembers(adapter: Adapter) -> None:
    """Refuse an adapter that was measured to make its base model forget.

    One that was not measured passes: it is older than the probe, or packaged.

    Raises:
        ForgettingExceeded: the interval of its loss reaches beyond the margin.
    """
    measured: Mapping[str, Any] = adapter.metrics.get("forgetting") or {}
    if measured.get("passed") is False:
        low, high = measured["ci"]
        raise ForgettingExceeded(
            f"Under {adapter_label(adapter)} the model was not shown to keep its general knowledge",
            got=f"right answers less probable by {measured['drop']:.3f} (95 % interval {low:.3f} to {high:.3f})",
            wanted=f"an interval that ends within {measured['margin']:g}",
            hint="Train with fewer epochs, a lower learning_rate or a smaller r; or promote it anyway with --force.",
        )


def promote(
    store: Store,
    model: Model,
    name: str,
    version: int | None = None,
    *,
    refuse_stale: bool = False,
    force: bool = False,
) -> Promotion:
    """Make an adapter the live one of ``model``; the one before it is retired.

    Args:
        store: where adapters are kept.
        model: the base model served.
        name: ``name`` (its newest version, as in a comparison) or ``name@version``.
        version: instead of ``@version``.
        refuse_stale: refuse an adapter whose documents were edited or deleted since.
        force: promote it though it forgets; nothing else is passed over.

    Raises:
        UnknownAdapter: there is none.
        InvalidRequest: ``name`` and ``version`` name two versions.
        StaleAdapter: it is stale, and ``refuse_stale``.
        ForgettingExceeded: as ``check_remembers`` raises, without ``force``.
        Everything ``check_promotable`` raises.
    """
    adapter = find_adapter(store, name if version is None or "@" in name else f"{name}@{version}")
    if version not in (None, adapter.version):
        raise InvalidRequest("Two versions of the adapter are named", got=f"{name} and {version}", wanted="one of them")
    check_promotable(adapter, model)
    if refuse_stale:
        check_fresh(store, adapter)
    if not force:
        check_remembers(adapter)
    before = store.adapters.live(model.sha256)
    return Promotion(store.adapters.promote(adapter.name, adapter.version), before)


def rollback(store: Store, model: Model) -> Promotion:
    """Make the adapter live again that was live before the present one.

    Raises:
        NoLiveAdapter: none is live, or none was before.
    """
    before = store.adapters.live(model.sha256)
    return Promotion(store.adapters.rollback(model.sha256), before)
