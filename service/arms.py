"""The arms a question can take: with or without passages, with or without an adapter.

Resolves the name a caller gives (a mode, an adapter, the base model) to an arm. A bare adapter name is
its newest version wherever versions are worked on (compare, evaluate, promote, show, export, train), so
that what was compared is what is promoted; only an answer prefers the version that is live. Knows
nothing of how an arm is run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from data.errors import InvalidRequest, NoLiveAdapter, UnknownAdapter, UnknownMode
from data.numbers import whole_number
from data.records import MODES, Adapter, Method, Mode, Model

if TYPE_CHECKING:
    from data.store import Store

MOST_SCALE = 4.0
"""Largest factor on an adapter's effect, either way: our choice."""

AdapterFinder = Callable[["Store", str], Adapter]
"""``find_adapter`` or ``serving_adapter``: what a bare name means."""


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to answer.

    Attributes:
        name: what a table shows.
        passages: whether the prompt has any.
        adapter: ``name@version``, None for the bare model.
        scale: factor on that adapter's effect.
        added: further adapters, ``name@version`` and scale, summed onto it.
        method: how passages are searched.
        quantization: the type that the base model's weights are served in, "" for the one that serves.
    """

    name: str
    passages: bool
    adapter: str | None = None
    scale: float = 1.0
    added: tuple[tuple[str, float], ...] = ()
    method: Method = "hybrid"
    quantization: str = ""

    @property
    def mode(self) -> Mode:
        """Return the mode this arm amounts to."""
        if self.adapter is None:
            return "rag" if self.passages else "base"
        return "combined" if self.passages else "tuned"

    @property
    def adapters(self) -> dict[str, float]:
        """Return all adapters, ``name@version``, with their scales."""
        return {} if self.adapter is None else {self.adapter: self.scale, **dict(self.added)}


def did_you_mean(got: str, names: Iterable[str]) -> str:
    """Return "Did you mean x?" if a name is close to ``got``, else "" (nothing is close)."""
    close = get_close_matches(got, list(names), n=1)
    return f"Did you mean {close[0]}?" if close else ""


def adapter_label(adapter: Adapter) -> str:
    """Return ``name@version``, the name under which answers and the engine know an adapter."""
    return f"{adapter.name}@{adapter.version}"


def find_adapter(store: Store, name: str) -> Adapter:
    """Return the adapter ``name@version``, or the newest version of ``name``: to compare, promote, show, export.

    Raises:
        UnknownAdapter: there is none; the hint names the closest.
    """
    bare, version = _split(store, name)
    try:
        return store.adapters.get(bare, version) if version else store.adapters.list(bare)[-1]
    except (UnknownAdapter, IndexError):
        raise _no_such(store, name) from None


def serving_adapter(store: Store, name: str) -> Adapter:
    """Return the adapter ``name@version``, or the version of ``name`` that is live, else its newest: to answer.

    Raises:
        UnknownAdapter: there is none; the hint names the closest.
    """
    try:
        return store.adapters.get(*_split(store, name))
    except UnknownAdapter:
        raise _no_such(store, name) from None


def _split(store: Store, name: str) -> tuple[str, int | None]:
    bare, _, version = name.partition("@")
    if version and whole_number(version) is None:
        raise _no_such(store, name)
    return bare, whole_number(version)


def _no_such(store: Store, name: str) -> UnknownAdapter:
    bare, _, version = name.partition("@")
    found = store.adapters.list()
    known = sorted({adapter.name for adapter in found})
    if version and bare in known:
        known = [adapter_label(adapter) for adapter in found if adapter.name == bare]
    hint = did_you_mean(bare, known) or "List them with: ragtune adapters list"
    return UnknownAdapter("No such adapter", got=name, wanted=", ".join(known) or "none exist yet", hint=hint)


def live_and_latest(
    store: Store, live: Adapter | None, collection: str
) -> tuple[dict[str, Any], str | None, str | None]:
    """Return the latest evaluation ({} before the first), the adapter it measured, and the one that is live."""
    latest = store.evaluations.latest(collection) or {}
    arms = latest.get("arms", {})
    measured = next((arms[arm].get("adapter") for arm in ("combined", "tuned") if arm in arms), None)
    return latest, measured, adapter_label(live) if live is not None else None


def _recommended(store: Store, collection: str, live: Adapter | None) -> Mode:
    """Return what the latest evaluation recommends, if it measured what is live now."""
    latest, measured, current = live_and_latest(store, live, collection)
    possible = ("base", "rag") if live is None else ("base", "rag", "tuned", "combined")
    if latest.get("recommendation") in possible and measured == current:
        return latest["recommendation"]  # type: ignore[no-any-return]
    return "combined" if live is not None else "rag"


def resolve_mode(
    mode: str,
    adapter: str | None,
    store: Store,
    model: Model,
    collection: str = "default",
    *,
    named: AdapterFinder = serving_adapter,
) -> Arm:
    """Return the arm that ``mode`` and ``adapter`` ask for.

    ``auto`` is what the collection's latest evaluation recommends if it measured the adapter that is
    live now (or none, where none is), else combined if an adapter is live, else rag. An adapter that is
    named counts before the live one, and makes ``auto`` combined.

    Args:
        mode: one of ``data.records.MODES``.
        adapter: ``name`` or ``name@version``; None stands for the live adapter.
        store: where adapters and evaluations are looked up.
        model: the base model; a live adapter is live for one base model.
        collection: the collection whose latest evaluation ``auto`` follows.
        named: finds the adapter that is named: ``serving_adapter`` to answer, ``find_adapter`` to compare.

    Raises:
        UnknownMode: ``mode`` is none of the modes.
        UnknownAdapter: no such adapter.
        NoLiveAdapter: tuned or combined without an adapter named or live.
        InvalidRequest: an adapter was named for base or rag.
    """
    if mode not in MODES:
        raise UnknownMode("No such mode", got=mode, wanted=", ".join(MODES), hint=did_you_mean(mode, MODES))
    if adapter is not None:
        if mode in ("base", "rag"):
            raise InvalidRequest(
                f"The mode {mode} uses no adapter",
                got=adapter,
                hint="Ask with mode combined or tuned, or name no adapter.",
            )
        found = named(store, adapter)
        return Arm("combined" if mode == "auto" else mode, mode != "tuned", adapter_label(found))
    live = store.adapters.live(model.sha256, collection)
    chosen = _recommended(store, collection, live) if mode == "auto" else mode
    if chosen in ("base", "rag"):
        return Arm(chosen, chosen == "rag")
    if live is None:
        raise NoLiveAdapter(
            f"The mode {chosen} needs an adapter, and none is live",
            got=chosen,
            hint="Promote one with: ragtune adapters promote NAME, or name one in the request.",
        )
    return Arm(chosen, chosen == "combined", adapter_label(live))


def resolve_arm(
    name: str, store: Store, model: Model, collection: str = "default", *, named: AdapterFinder = serving_adapter
) -> Arm:
    """Return the arm called ``name``: a mode, an adapter (with passages), or the base model itself.

    ``named`` finds an adapter, as for ``resolve_mode``.

    Raises:
        UnknownMode: ``name`` is none of them.
        NoLiveAdapter: tuned or combined, and no adapter is live.
    """
    if name in MODES:
        return resolve_mode(name, None, store, model, collection)
    if name == model.name:
        return Arm(name, passages=False)
    try:
        found = named(store, name)
    except UnknownAdapter as error:
        names = [*MODES, model.name, *(adapter.name for adapter in store.adapters.list())]
        raise UnknownMode(
            "No such arm, adapter or model",
            got=name,
            wanted=", ".join(dict.fromkeys(names)),
            hint=did_you_mean(name, names),
        ) from error
    return Arm(found.name, passages=True, adapter=adapter_label(found))


def resolve_sum(
    mode: str,
    adapter: tuple[str | None, float],
    added: Sequence[tuple[str, float]],
    store: Store,
    model: Model,
    *,
    collection: str = "default",
) -> Arm:
    """Return the arm of ``mode`` with scaled adapters, each named as for ``resolve_mode``.

    Args:
        mode: one of ``data.records.MODES``.
        adapter: name (None stands for the live adapter, or for the first of ``added``) and scale.
        added: names and scales of further adapters.
        store: where adapters and evaluations are looked up.
        model: the base model.
        collection: the collection whose latest evaluation ``auto`` follows.

    Raises:
        As ``resolve_mode``; also InvalidRequest: a scale for no adapter, or one adapter named twice.
    """
    name, scale = adapter
    if name is None and added:
        if scale != 1.0:
            raise InvalidRequest(
                "adapter_scale is the scale of adapter, and none is named",
                got=scale,
                hint="Give each of adapters a scale of its own.",
            )
        (name, scale), *added = added
    arm = resolve_mode(mode, name, store, model, collection)
    if arm.adapter is None:
        if scale != 1.0:
            raise InvalidRequest(
                f"The mode {arm.mode} uses no adapter that could be scaled",
                got=scale,
                hint="Ask with mode combined or tuned, or leave adapter_scale out.",
            )
        return arm
    others = tuple((adapter_label(serving_adapter(store, other)), factor) for other, factor in added)
    labels = [arm.adapter, *(label for label, _ in others)]
    if len(set(labels)) < len(labels):
        raise InvalidRequest(
            "One adapter is named twice", got=", ".join(labels), hint="Name it once, with the sum of the scales."
        )
    return replace(arm, scale=scale, added=others)
