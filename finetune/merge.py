"""Merge an adapter into the GGUF of its base model: one file that needs no adapter.

Works on what llama.cpp serves (names and row order included), so the result answers as base and
adapter do together. A LoRA is merged from its GGUF: what was compared is what is merged. A DoRA, which has none, is
merged from peft's files. Knows nothing of how either was trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.errors import BaseModelMismatch, InvalidModel
from finetune.export import read_config, read_pairs, scale
from finetune.gguf_tensors import Dtype, GgufFile, LazyTensor, write_gguf

_A, _B = ".lora_a", ".lora_b"

MIN_KEPT = 0.6
"""Share of the change that merging made which quantizing must leave. Measured on the packaged reader alone
(bench/RESULTS.md, *Parity by quantization*): 0.98 in Q8_0 and Q6_K, 0.83 in Q4_K_M, 0.76 in Q4_0; 0.46 in Q5_K_M and
0.29 in Q4_1, where the base's weights stand on the very grid that they are rounded to, so that what is less than half a
step goes back to it."""


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
    return _write(base, out, dtype, {name: partial(_merged, base, adapter, name) for name in updated})


def merge_dora_to_gguf(adapter_dir: Path | str, base_gguf: Path | str, out: Path | str, dtype: Dtype = "f16") -> Path:
    """Write the base model with a DoRA's updates and magnitudes in its weights.

    Its rows are those of W + s B A, each scaled to the length that was learned for it (Liu et al., 2024,
    arXiv:2402.09353).

    Args:
        adapter_dir: peft's files of the DoRA.
        base_gguf: what it was trained on, in the best precision there is: the lengths are relative to it.
        out: the merged model; it appears complete or not at all.
        dtype: type of the matrices; quantize the result for serving.

    Raises:
        InvalidModel: a file is damaged, or the adapter is no DoRA or has more to it.
        BaseModelMismatch: the adapter does not fit the base model's tensors.
        UnsupportedArchitecture: the base model's family is not one whose tensors are known.
        InsufficientStorage: the disk is full.
    """
    base, config = GgufFile(base_gguf), read_config(Path(adapter_dir))
    pairs = read_pairs(Path(adapter_dir), base)
    for name, pair in pairs.items():
        length = pair.get("magnitude", np.empty(0)).shape
        if length != pair["B"].shape[:1]:
            raise InvalidModel("The adapter's magnitudes do not fit it", got=f"{name}: {length}", wanted="one a row")
    scaled = {
        f"{name}.weight": partial(_with_magnitude, base, f"{name}.weight", pair, scale(config, pair))
        for name, pair in pairs.items()
    }
    return _write(base, Path(out), dtype, scaled)


def kept_share(
    adapter_dir: Path | str, base_gguf: Path | str, merged_gguf: Path | str, quantized_gguf: Path | str
) -> float:
    """Return how much of what merging changed is left after quantizing: 1 for all of it, 0 where the base came back.

    It is the projection of what quantizing left on what merging did, over all weights that the adapter changes: errors
    of rounding that have nothing to do with it add to neither. One tensor at a time is in memory, three times.

    Args:
        adapter_dir: peft's files: which weights it changes.
        base_gguf: without the adapter.
        merged_gguf: with it, as it was before quantizing.
        quantized_gguf: made of that.

    Raises:
        InvalidModel: a file is damaged.
    """
    base, merged, quantized = GgufFile(base_gguf), GgufFile(merged_gguf), GgufFile(quantized_gguf)
    left = whole = 0.0
    for name in read_pairs(Path(adapter_dir), base):
        before = base.tensor(f"{name}.weight")
        change, stayed = merged.tensor(f"{name}.weight") - before, quantized.tensor(f"{name}.weight") - before
        left += float(np.vdot(stayed, change))
        whole += float(np.vdot(change, change))
    return left / whole if whole else 1.0


def _write(base: GgufFile, out: Path, dtype: Dtype, changed: Mapping[str, Callable[[], NDArray[np.float32]]]) -> Path:
    tensors = [
        LazyTensor(name, shape, changed.get(name, partial(base.tensor, name))) for name, shape in base.shapes.items()
    ]
    write_gguf(out, base.architecture, base.metadata(), tensors, dtype)
    return out


def _with_magnitude(
    base: GgufFile, name: str, pair: Mapping[str, NDArray[np.float32]], factor: float
) -> NDArray[np.float32]:
    rows = base.tensor(name) + factor * (pair["B"] @ pair["A"])
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows * (pair["magnitude"][:, None] / lengths), dtype=np.float32)


def _merged(base: GgufFile, adapter: GgufFile, name: str) -> NDArray[np.float32]:
    a, b = adapter.tensor(name + _A), adapter.tensor(name + _B)
    scale = float(adapter.value("adapter.lora.alpha")) / a.shape[0]
    return np.asarray(base.tensor(name) + scale * (b @ a), dtype=np.float32)
