"""Prove that a served GGUF adapter answers like the adapter that was trained, token by token.

Both sides read the same conversation and the same completion; their logits are compared at every
completion token. The trained side runs in float32 through transformers; the served side is whatever
``scorer`` asks. Knows nothing of how either was made, nor of the engine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import InvalidRequest, ParityFailed
from data.protocols import Report, TokenScores
from data.records import Message, Model, Progress
from finetune.recipe import Attention
from finetune.rows import Example

Scorer = Callable[[tuple[Message, ...], str], TokenScores]
"""Scores a completion after messages, with the adapter under test."""

MAX_DISAGREEMENT = 0.1
"""Share of tokens whose most likely token may differ (one token more is allowed, for few tokens).

Measured on the starter, dequantized Q4_1 in float32 against Q8_0 in llama.cpp, 1,200 tokens of plain
text, three random adapters: 0.045 to 0.052, all near ties; 0.14 with unpermuted Q and K, 0.26 without
the adapter (the strongest of the three).
"""

MAX_KL = 0.03
"""Mean KL divergence, in nats per token, that quantization alone may cause.

Measured as above: 0.005 with the right adapter at every strength; 0.05 with unpermuted Q and K, 0.25
without the adapter.
"""

MAX_KL_SHARE = 0.1
"""Share of the adapter's own effect (KL of tuned against base) that may be lost, where that is more.

A trained adapter moves its completions by a nat per token and more; serving in 4 bits costs a small
model up to 0.1, which is not the adapter's fault.
"""


@dataclass(frozen=True, slots=True)
class Limits:
    """What serving may cost: share of tokens whose likeliest token differs, and mean KL in nats per token."""

    disagreement: float = MAX_DISAGREEMENT
    kl: float = MAX_KL


MERGED = {
    "f16": Limits(0.005, 0.005),
    "bf16": Limits(0.02, 0.01),
    "q8_0": Limits(0.02, 0.03),
    "q6_k": Limits(0.03, 0.03),
    "q5_k_m": Limits(0.05, 0.05),
    "q4_k_m": Limits(0.07, 0.1),
    "q4_1": Limits(0.1, 0.1),
    "q4_0": Limits(0.1, 0.1),
}
"""Of a merged model by its type. Greedy agreement of f16, q8_0 and q4_k_m is what we promise; the others lie between.
The KL of 4 bits is that of ``MAX_KL_SHARE``'s remark, on a small model; larger ones lose less."""


@dataclass(frozen=True, slots=True)
class Trained:
    """What the trained side says: ``scores`` with the adapter, ``base_logits()`` (same shape) without.

    The latter costs as much again, and is asked for only where the verdict depends on it.
    """

    scores: TokenScores
    base_logits: Callable[[], NDArray[np.float32]]


def parity(
    model: Model,
    adapter_dir: Path | str,
    examples: Sequence[Example],
    scorer: Scorer,
    *,
    attention: Attention = "full",
    limits: Limits = Limits(),
    report: Report | None = None,
) -> dict[str, Any]:
    """Compare a trained LoRA with its served form on ``examples``.

    Args:
        model: the base model; ``model.weights`` is loaded in float32, so a few examples are enough.
        adapter_dir: the peft adapter's folder.
        examples: conversations and completions, as trained on.
        scorer: the served side.
        attention: how the adapter was trained to read passages.
        limits: what serving may cost.
        report: told after each example.

    Returns:
        As ``compare``.

    Raises:
        ParityFailed: they tokenize or predict differently.
        InvalidRequest: there are no examples.
        JobCancelled: ``report`` asked to stop.
    """
    # Here, because comparing needs neither torch nor a model.
    from finetune.trained import TrainedSide

    trained = TrainedSide(model, adapter_dir, attention)

    def sides() -> Iterator[tuple[Trained, TokenScores]]:
        for done, example in enumerate(examples, 1):
            yield trained.score(example), scorer(example.messages, example.completion)
            if report is not None:
                report(Progress(done, len(examples), "examples", stage="parity"))

    return compare(sides(), limits)


def compare(sides: Iterable[tuple[Trained, TokenScores]], limits: Limits = Limits()) -> dict[str, Any]:
    """Return how well the served side follows the trained one, over all completion tokens.

    Returns:
        ``greedy_agreement`` (0 to 1), ``kl`` (trained against served, mean nats per token),
        ``adapter_kl`` (trained against its base model; None where ``kl`` passes without it), ``tokens``,
        ``examples``, ``ids_equal`` and ``passed``, the last two always true.

    Raises:
        ParityFailed: the two sides tokenize or predict differently.
        InvalidRequest: there is nothing to compare.
    """
    seen: list[tuple[Trained, NDArray[np.float64]]] = []
    divergences: list[NDArray[np.float64]] = []
    agreements: list[NDArray[np.bool_]] = []
    for trained, served in sides:
        _check_same_tokens(trained.scores, served)
        tuned = _log_softmax(trained.scores.logits)
        seen.append((trained, tuned))
        divergences.append(_kl(tuned, _log_softmax(served.logits)))
        agreements.append(tuned.argmax(axis=1) == served.logits.argmax(axis=1))
    if not seen:
        raise InvalidRequest("Parity needs examples to compare on", wanted="at least one example")
    agreed, kl = np.concatenate(agreements), float(np.concatenate(divergences).mean())
    adapter_kl = None
    if kl > limits.kl:
        effects = [_kl(tuned, _log_softmax(trained.base_logits())) for trained, tuned in seen]
        adapter_kl = float(np.concatenate(effects).mean())
    _judge(agreed, kl, adapter_kl, limits)
    return {
        "greedy_agreement": float(agreed.mean()),
        "kl": kl,
        "adapter_kl": adapter_kl,
        "tokens": int(agreed.size),
        "examples": len(seen),
        "ids_equal": True,
        "passed": True,
    }


def _judge(agreed: NDArray[np.bool_], kl: float, adapter_kl: float | None, limits: Limits) -> None:
    disagreeing = int((~agreed).sum())
    allowed = math.ceil(limits.disagreement * agreed.size) + 1
    allowed_kl = max(limits.kl, MAX_KL_SHARE * (adapter_kl or 0.0))
    # Written so that a KL that is not a number fails.
    if disagreeing <= allowed and kl <= allowed_kl:
        return
    raise ParityFailed(
        "The served adapter does not predict like the adapter that was trained",
        got=f"{disagreeing} of {agreed.size} tokens differ, KL {kl:.4f}",
        wanted=f"at most {allowed} tokens and KL {allowed_kl:.4f}",
        hint="Export the adapter again from the model it was trained on, or serve that model less quantized.",
    )


def _check_same_tokens(trained: TokenScores, served: TokenScores) -> None:
    for what, ours, theirs in (
        ("prompt", trained.prompt_ids, served.prompt_ids),
        ("completion", trained.completion_ids, served.completion_ids),
    ):
        if ours != theirs:
            where = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), -1)
            place = f"token {where}: {theirs[where]}" if where >= 0 else f"{len(theirs)} tokens"
            right = f"{ours[where]}" if where >= 0 else f"{len(ours)} tokens"
            raise ParityFailed(
                f"Training and serving tokenize the {what} differently",
                got=place,
                wanted=right,
                hint="The served GGUF's tokenizer is not the one the adapter was trained with.",
            )
    if trained.logits.shape != served.logits.shape:
        raise ParityFailed(
            "Training and serving have vocabularies of different size",
            got=served.logits.shape[-1],
            wanted=str(trained.logits.shape[-1]),
        )


def _log_softmax(logits: NDArray[np.float32]) -> NDArray[np.float64]:
    shifted = logits.astype(np.float64) - logits.max(axis=1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True)))


def _kl(reference: NDArray[np.float64], other: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray((np.exp(reference) * (reference - other)).sum(axis=1))
