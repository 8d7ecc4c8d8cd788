"""Makes one GGUF of a base model and an adapter, quantized by what the adapter's own rows show to matter.

Knows nothing of HTTP or of the command line, and of the registry only what it is handed.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import ParityFailed
from data.formats import read_rows
from data.protocols import Report
from data.records import Adapter, Message
from data.state import sha256_file, sync_folder
from service.adapter_files import ADAPTER_GGUF
from service.parity import probe_examples

if TYPE_CHECKING:
    from finetune.rows import Example
    from service.workspace import Workspace

TRAIN_ROWS = "train.jsonl"
WEIGHED = ("q6_k", "q5_k_m", "q4_k_m", "q4_1", "q4_0")
"""Types whose quantization takes an importance matrix into account; 8 bits and more do not."""

IMPORTANCE_EXAMPLES = 64
"""Examples that the importance matrix is computed from: some ten thousand tokens over passages; llama.cpp's own
default text has few more."""

_FINER = {"q6_k": "q8_0 or f16", "q8_0": "f16", "bf16": "f16"}

PARITY_EXAMPLES = 24
"""Examples on which a merged model is compared with what was trained."""


def own_examples(workspace: Workspace, adapter: Adapter) -> list[Example]:
    """Return the rows that the adapter was trained on; none for one that brought no rows along."""
    from finetune.rows import Example

    if TRAIN_ROWS not in adapter.files or not workspace.adapter_file(adapter, TRAIN_ROWS).is_file():
        return []
    found = []
    for row in read_rows(workspace.adapter_file(adapter, TRAIN_ROWS)):
        *before, last = row["messages"]
        messages = tuple(Message(turn["role"], (turn["content"],)) for turn in before)
        found.append(Example(messages, last["content"]))
    return found


def spread(examples: Sequence[Example], count: int) -> list[Example]:
    """Return ``count`` examples spread over all, or all where there are fewer."""
    taken = min(count, len(examples))
    return [examples[number * len(examples) // taken] for number in range(taken)]


def merge(
    workspace: Workspace, adapter: Adapter, adapter_dir: Path, target: Path, *, kind: str, report: Report
) -> dict[str, Any]:
    """Write the base merged with the adapter in ``adapter_dir`` to ``target``; compare it with what was trained.

    Returns:
        What ``finetune.parity.compare`` measured, ``importance_examples``, the rows that weighed the errors, and
        ``adapter_kept`` where it was quantized: the share of the adapter that is left (``finetune.merge.kept_share``).

    Raises:
        ParityFailed: quantizing undoes the adapter, or the merged model does not predict like it; ``target`` is as it
            was.
        InsufficientMemory: the merged model cannot be served here, and so not be compared.
        As ``finetune.merge`` and ``service.engine.quantize.quantize``.
    """
    from service.engine.quantize import quantize

    examples = own_examples(workspace, adapter)
    weighed = spread(examples, IMPORTANCE_EXAMPLES) if kind in WEIGHED else []
    with tempfile.TemporaryDirectory(prefix=".merge-", dir=target.parent) as scratch:
        folder = Path(scratch)
        base = _base(workspace, folder)
        made = whole = _whole(adapter_dir, base, folder / "whole.gguf")
        kept = {}
        if kind != "f16":
            matrix = _importance(workspace, adapter_dir, weighed, folder, report) if weighed else None
            threads = workspace.settings.n_threads
            made = quantize(made, folder / f"{kind}.gguf", kind, n_threads=threads, importance=matrix)
            kept = {"adapter_kept": _check_kept(adapter_dir, base, whole, made, kind=kind)}
        shown = examples or probe_examples()
        measured = _compare(workspace, adapter_dir, made, shown, kind=kind, report=report)
        made.replace(target)
        sync_folder(target.parent)
    return {**measured, **kept, "importance_examples": len(weighed)}


def _check_kept(adapter_dir: Path, base: Path, whole: Path, quantized: Path, *, kind: str) -> float:
    """Return the share of the adapter that is left; a base whose weights stand on this type's grid pulls it back."""
    from finetune.merge import MIN_KEPT, kept_share

    kept = kept_share(adapter_dir, base, whole, quantized)
    if not kept >= MIN_KEPT:  # a share that is no number fails
        raise ParityFailed(
            f"Quantizing to {kind} undoes the adapter: its changes are smaller than the base's own rounding steps",
            got=f"{kept:.0%} of the adapter is left",
            wanted=f"at least {MIN_KEPT:.0%}",
            hint=f"Take {_FINER.get(kind, 'q6_k or q8_0')}, or serve the adapter beside its base.",
        )
    return round(kept, 3)


def _whole(adapter_dir: Path, base: Path, out: Path) -> Path:
    from finetune.export import is_dora
    from finetune.merge import merge_dora_to_gguf, merge_to_gguf

    if is_dora(adapter_dir):
        return merge_dora_to_gguf(adapter_dir, base, out)
    return merge_to_gguf(adapter_dir / ADAPTER_GGUF, base, out)


def _base(workspace: Workspace, scratch: Path) -> Path:
    """Return the most precise GGUF there is of the base: its own file, or its folder converted to 16 bits."""
    weights = Path(workspace.model.weights)
    if weights.is_dir():
        from finetune.convert import hf_to_gguf

        return hf_to_gguf(weights, scratch / "base.gguf")
    return weights


def _importance(
    workspace: Workspace, adapter_dir: Path, examples: Sequence[Example], scratch: Path, report: Report
) -> Path:
    from finetune.importance import importance, save_importance

    found = importance(workspace.model, adapter_dir, examples, report=report)
    return save_importance(found, scratch / "importance.safetensors")


def _compare(
    workspace: Workspace, adapter_dir: Path, merged: Path, examples: Sequence[Example], *, kind: str, report: Report
) -> dict[str, Any]:
    """Compare token by token. A merged model has no adapter to tell how it reads, so it reads with full attention."""
    from finetune.parity import MERGED, parity
    from service.engine import Engine
    from service.engine.memory import check_memory, demand

    base, options = workspace.model, workspace.engine_options(workspace.model)
    meta = {**base.meta, "gguf_bytes": merged.stat().st_size}
    # Another model: nothing that was kept of the base's reading may be taken for its.
    model = replace(base, gguf=str(merged), sha256=sha256_file(merged), meta=meta)
    check_memory(merged.name, demand(model, options))
    with Engine(model, options) as engine:
        return parity(
            workspace.model,
            adapter_dir,
            spread(examples, PARITY_EXAMPLES),
            engine.score,
            limits=MERGED[kind],
            report=report,
        )
