"""Writes a registered adapter as a GGUF file, alone or merged into its base, and keeps how it compares.

Knows nothing of HTTP or of the command line.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import InvalidRequest, ParityFailed
from data.protocols import Report
from data.records import Adapter
from data.state import make_folder, map_os_error, sha256_file, sync_folder
from service.adapter_files import ADAPTER_WEIGHTS
from service.arms import adapter_label
from service.merging import merge as merge_model
from service.parity import measure_parity, probe_examples
from service.promotion import check_base, is_dora

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
    """Write ``adapter`` as GGUF; return its file, size in bytes and sha256, and the ``parity`` of a merged model.

    An adapter whose parity was never measured here (an imported one) is compared first. A merged model is compared
    with what was trained, in the form in which it is served; what was measured is kept with the adapter, under
    ``quantizations`` in its metrics, whether it passed or not.

    Args:
        workspace: where the adapter and its base model are.
        adapter: a registered adapter.
        out: the file to write; by default in the adapter's folder.
        merge: write the base model with the adapter merged in.
        quantize: of a merged model: one of ``QUANTIZATIONS``; None leaves it at f16. Under 8 bits, errors are weighed
            by an importance matrix computed from the rows that the adapter was trained on, where it has them.
        report: receives the progress of the comparison.

    Raises:
        BaseModelMismatch: the adapter was trained for another base model.
        InvalidModel: it is a DoRA, and not to be merged.
        InvalidRequest: ``quantize`` is unknown, or given without ``merge``.
        ParityFailed: the GGUF does not answer like the adapter.
        InsufficientStorage: the disk is full.
    """
    if quantize is not None and (quantize.lower() not in QUANTIZATIONS or not merge):
        detail = "Only a merged model is quantized" if not merge else "No such quantization"
        raise InvalidRequest(detail, got=quantize, wanted=", ".join(QUANTIZATIONS))
    check_base(adapter, workspace.model)
    if merge and is_dora(adapter):  # which has no GGUF of its own
        written = workspace.adapter_file(adapter, ADAPTER_WEIGHTS)
    else:
        written = workspace.adapter_gguf(adapter)
        if not adapter.metrics.get("parity"):
            _measure(workspace, adapter, written.parent, report)
    kind, merged = (quantize or "f16").lower(), None
    try:
        if merge:
            target = out or written.with_name(f"merged-{kind}.gguf")
            make_folder(target.parent)
            merged = _merged(workspace, adapter, written.parent, target, kind=kind, report=report)
            written = target
        elif out is not None:
            make_folder(out.parent)
            written = _copied(written, out)
        size = written.stat().st_size
    except OSError as error:
        raise map_os_error(error, out or written) from error
    done = {"adapter": adapter_label(adapter), "file": str(written), "bytes": size, "sha256": sha256_file(written)}
    return done | ({"parity": merged} if merged else {})


def _copied(source: Path, out: Path) -> Path:
    """Copy a file so that it stands under its new name whole and on the disk, or not at all."""
    partial = out.with_name(f".{out.name}.partial")
    try:
        shutil.copyfile(source, partial)
        sync_folder(partial)
        partial.replace(out)
        sync_folder(out.parent)
    finally:
        partial.unlink(missing_ok=True)
    return out


def _measure(workspace: Workspace, adapter: Adapter, folder: Path, report: Report) -> None:
    measured = measure_parity(workspace, folder, probe_examples(), report, adapter.attention)
    metrics = {**adapter.metrics, "parity": measured}
    workspace.store.adapters.update(adapter.name, adapter.version, metrics=metrics)


def _merged(
    workspace: Workspace, adapter: Adapter, adapter_dir: Path, target: Path, *, kind: str, report: Report
) -> dict[str, Any]:
    """Merge, and keep with the adapter how the result compares."""
    try:
        measured = merge_model(workspace, adapter, adapter_dir, target, kind=kind, report=report)
    except ParityFailed as error:
        _keep(workspace, adapter, kind, {"passed": False, "got": error.got, "wanted": error.wanted})
        raise
    _keep(workspace, adapter, kind, measured)
    return measured


def _keep(workspace: Workspace, adapter: Adapter, kind: str, measured: dict[str, Any]) -> None:
    metrics = dict(workspace.store.adapters.get(adapter.name, adapter.version).metrics)
    metrics["quantizations"] = {**metrics.get("quantizations", {}), kind: measured}
    workspace.store.adapters.update(adapter.name, adapter.version, metrics=metrics)
