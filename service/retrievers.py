"""The gate before a tuned embedder is searched with, and how one is shown.

Knows nothing of HTTP or of the command line.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from data.errors import GainUnproven, InvalidRequest
from data.state import check_name

if TYPE_CHECKING:
    from retrieval.tuned import TunedEmbedder, TunedEmbedders

BASE = "base"
"""Names the configured embedder where a tuned one could be named."""
_FORCE = "Tune on more pairs, or promote it all the same with --force."


def check_new_name(name: str) -> str:
    """Return ``name`` if a tuned embedder may be called so.

    Raises:
        InvalidRequest: it cannot name a folder, or is the configured embedder's.
    """
    if name == BASE:
        raise InvalidRequest("This names the configured embedder.", got=name, wanted="another name")
    return check_name(name, "retriever name")


def check_gain(one: TunedEmbedder, collection: str, live: str) -> None:
    """Refuse a tuned embedder that was not measured to find more than ``live``, a fingerprint.

    The 95 % interval of its gain in nDCG@10 on held-out questions lies above zero for dense or hybrid
    search, and below zero for neither.

    Raises:
        GainUnproven: it was not.
    """
    if one.collection != collection:
        raise GainUnproven(
            "The retriever was measured on another collection.", got=one.collection, wanted=collection, hint=_FORCE
        )
    if one.compared_with != live:
        raise GainUnproven(
            "The retriever was measured against another embedder than the one in use.",
            got=one.compared_with,
            wanted=live,
            hint="Tune again, or promote it all the same with --force.",
        )
    intervals = {method: one.metrics["held_out"][method]["gain"]["ndcg@10"]["ci"] for method in ("dense", "hybrid")}
    if max(low for low, _ in intervals.values()) <= 0 or min(high for _, high in intervals.values()) < 0:
        raise GainUnproven(
            f"{one.label} was not shown to find more on {one.metrics['held_out']['questions']} held-out questions.",
            got=", ".join(f"{method} nDCG@10 {low:+.3f} to {high:+.3f}" for method, (low, high) in intervals.items()),
            wanted="one interval above zero, none below",
            hint=_FORCE,
        )


def gain_of(one: TunedEmbedder) -> dict[str, Any]:
    """Return the measured gain in nDCG@10 that decides, with its intervals, for the log."""
    held = one.metrics["held_out"]
    gains = {method: held[method]["gain"]["ndcg@10"] for method in ("dense", "hybrid")}
    return {"questions": held["questions"], "compared_with": one.compared_with, "ndcg@10": gains}


def retriever_view(tuned: TunedEmbedders, one: TunedEmbedder) -> dict[str, Any]:
    """Return a tuned embedder in the shape of ``retriever show --json``."""
    return {**asdict(one), "stage": tuned.stage(one), "live_in": tuned.collections(one)}
