"""Writes a registered adapter as a GGUF file: alone, or merged into its base and quantized.

Knows nothing of HTTP or of the command line.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import InvalidRequest
from data.protocols import Report
from data.records import Adapter, Model
from data.state import map_os_error, sha256_file
from service.arms import adapter_label
from service.parity import measure_parity, probe_examples
from service.promotion import check_base

if TYPE_CHECKING:
    from service.workspace import Workspace

QUANTIZATIONS = ("f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m", "q4_1", "q4_0")


def export_adapter(
    workspace: Workspace,
    adapter: Adapter,
    out: Path | None = None,
    *,
    merge: bool = False,
    quantize: str | None = None,
    report: Report,
) -> dict[str, Any]:
    """Write ``adapter`` as GGUF; return its file, size in bytes and sha256.

    An adapter whose parity was never measured here (an imported one) is compared first.

    Args:
        workspace: where the adapter and its base model are.
        adapter: a registered adapter.
        out: the file to write; by default in the adapter's folder.
        merge: write the base model with the adapter merged in.
        quantize: of a merged model: one of ``QUANTIZATIONS``; None leaves it at f16.
        report: receives the progress of the comparison.

    Raises:
        BaseModelMismatch: the adapter was trained for another base model.
        InvalidRequest: ``quantize`` is unknown, or given without ``merge``.
        ParityFailed: the GGUF does not answer like the adapter.
        InsufficientStorage: the disk is full.
    """
    if quantize is not None and (quantize.lower() not in QUANTIZATIONS or not merge):
        detail = "Only a merged model is quantized" if not merge else "No such quantization"
        raise InvalidRequest(detail, got=quantize, wanted=", ".join(QUANTIZATIONS))
    check_base(adapter, workspace.model)
    written = workspace.adapter_gguf(adapter)
    if not adapter.metrics.get("parity"):
        measured = measure_parity(workspace, written.parent, probe_examples(), report, adapter.attention)
        metrics = {**adapter.metrics, "parity": measured}
        workspace.store.adapters.update(adapter.name, adapter.version, metrics=metrics)
    kind = (quantize or "f16").lower()
    try:
        if merge:
            target = out or written.with_name(f"merged-{kind}.gguf")
            target.parent.mkdir(parents=True, exist_ok=True)
            written = _merge(written, workspace.model, target, kind)
        elif out is not None:
            out.parent.mkdir(parents=True, exist_ok=True)
            written = Path(shutil.copyfile(written, out))
        size = written.stat().st_size
    except OSError as error:
        raise map_os_error(error, out or written) from error
    return {"adapter": adapter_label(adapter), "file": str(written), "bytes": size, "sha256": sha256_file(written)}


def _merge(adapter_gguf: Path, model: Model, target: Path, kind: str) -> Path:
    """Merge into the most precise GGUF there is of the base, then quantize."""
    from finetune.merge import merge_to_gguf
    from service.engine.quantize import quantize

    base = model.weights if model.weights.endswith(".gguf") else model.gguf
    if kind == "f16":
        return merge_to_gguf(adapter_gguf, base, target)
    whole = target.with_name(f".{target.name}.f16")
    try:
        merge_to_gguf(adapter_gguf, base, whole)
        return quantize(whole, target, kind)
    finally:
        whole.unlink(missing_ok=True)
