"""Write a GGUF with other weights, in a child process that a damaged file may crash."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from data.errors import InsufficientStorage, InvalidModel
from data.state import map_os_error, sync_folder
from service.engine.child import run_once

QUANTIZE_TIMEOUT_S = 3600.0
_FULL_BYTES = 16 * 2**20


def quantize(
    src_gguf: str | Path,
    dst_gguf: str | Path,
    type: str = "q8_0",
    *,
    n_threads: int | None = None,
    importance: Path | None = None,
) -> Path:
    """Quantize ``src_gguf`` (again, if it was quantized already) and return the new file.

    The new file appears whole: it is written beside its place and renamed.

    Args:
        src_gguf: any GGUF that llama.cpp reads.
        dst_gguf: replaced if it exists.
        type: llama.cpp's name: f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m, q4_1, q4_0.
        n_threads: all CPUs by default.
        importance: weighs the errors by what the inputs are (``finetune.importance``); k-quants gain by it.

    Raises:
        InvalidModel: the source is truncated or damaged.
        InvalidRequest: the type is unknown.
        InsufficientStorage: the disk is full.
    """
    source, target = Path(src_gguf).resolve(), Path(dst_gguf).resolve()
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    order = {
        "op": "quantize",
        "source": str(source),
        "target": str(partial),
        "type": type,
        "n_threads": n_threads or os.cpu_count() or 1,
        "importance": None if importance is None else str(importance.resolve()),
    }
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _run(order, source, target)
        _make_durable(partial)
        partial.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        raise map_os_error(error, target) from error
    finally:
        partial.unlink(missing_ok=True)
    return target


def _run(order: dict[str, Any], source: Path, target: Path) -> None:
    try:
        run_once(order, path=source, timeout_s=QUANTIZE_TIMEOUT_S, writable=(target.parent,))
    except InvalidModel as error:
        if shutil.disk_usage(target.parent).free < _FULL_BYTES:  # llama.cpp does not say why a write failed
            raise InsufficientStorage(
                "The disk is full", got=str(target.parent), hint="Free some disk space, then try again."
            ) from error
        raise


def _make_durable(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())
