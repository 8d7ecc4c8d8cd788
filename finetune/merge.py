"""Merge a GGUF adapter into the GGUF of its base model: one file that needs no adapter.

Works on what llama.cpp serves (names and row order included), so the result answers as base and
adapter do together. Knows nothing of peft, and of tensors only that an update is B @ A.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.errors import BaseModelMismatch, InvalidModel
from finetune.gguf_tensors import Dtype, GgufFile, LazyTensor, write_gguf

_A, _B = ".lora_a", ".lora_b"


def merge_to_gguf(adapter_gguf: Path | str, base_gguf: Path | str, out: Path | str, dtype: Dtype = "f16") -> Path:
    """Write the base model with the adapter's updates added to its weights.

    Args:
        adapter_gguf: as ``lora_to_gguf`` writes it.
        base_gguf: of any quantization; the better its precision, the better the result.
        out: the merged model; it appears complete or not at all.
        dtype: type of the matrices; quantize the result for serving.

    Raises:
        InvalidModel: a file is damaged, or the adapter is no GGUF LoRA.
        BaseModelMismatch: the adapter does not fit the base model's tensors.
        InsufficientStorage: the disk is full.
    """
    adapter, base, out = GgufFile(adapter_gguf), GgufFile(base_gguf), Path(out)
    if adapter.get("adapter.type") != "lora":
        raise InvalidModel("The file is no GGUF LoRA", got=adapter.path, hint="Export the adapter again.")
    updated = {name.removesuffix(_A) for name in adapter.shapes if name.endswith(_A)}
    for name in sorted(updated):
        update = adapter.shapes[name + _B][0], adapter.shapes[name + _A][1]
        if base.shapes.get(name) != update or adapter.architecture != base.architecture:
            raise BaseModelMismatch(
                "The adapter was trained for another base model",
                got=f"{adapter.architecture}, {name}: {update}",
                wanted=f"{base.architecture}, {base.shapes.get(name, 'no such tensor')}",
            )
    tensors = [
        LazyTensor(
            name, shape, partial(_merged, base, adapter, name) if name in updated else partial(base.tensor, name)
        )
        for name, shape in base.shapes.items()
    ]
    write_gguf(out, base.architecture, base.metadata(), tensors, dtype)
    return out


def _merged(base: GgufFile, adapter: GgufFile, name: str) -> NDArray[np.float32]:
    a, b = adapter.tensor(name + _A), adapter.tensor(name + _B)
    scale = float(adapter.value("adapter.lora.alpha")) / a.shape[0]
    return np.asarray(base.tensor(name) + scale * (b @ a), dtype=np.float32)
