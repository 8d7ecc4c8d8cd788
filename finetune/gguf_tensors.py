"""Read and write GGUF files, and name the tensors of the model families that ragtune tunes.

The only importer of ``gguf``. Knows the file format, the tensor names of the Llama, Qwen and Gemma families and
how llama.cpp orders their rows; knows nothing of tokenizers, of LoRA, or of what a file is for.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gguf
import numpy as np
from numpy.typing import NDArray

from data.errors import InvalidModel
from data.state import map_os_error, sync_folder

Dtype = Literal["f32", "f16", "bf16"]
Value = bool | int | float | str | list[str] | list[int] | list[float]

# Hugging Face module -> GGUF tensor, from llama.cpp's gguf-py/gguf/tensor_mapping.py.
_MODULES = {
    "model.embed_tokens": "token_embd",
    "model.norm": "output_norm",
    "lm_head": "output",
}
_LAYER_MODULES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
# Gemma 3 has four norms in a layer, and what follows the attention is not what precedes the feed-forward part.
_GEMMA3_MODULES = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_LAYER = re.compile(r"model\.layers\.(\d+)\.(.+)")

FAMILIES = ("llama", "qwen2", "qwen3", "gemma3")
"""GGUF architectures whose tensors ``tensor_name`` names."""

# general.file_type, from enum llama_ftype in llama.h.
_FILE_TYPES = {"f32": 0, "f16": 1, "bf16": 32}
_WRITTEN = ("general.architecture", "general.file_type", "general.quantization_version")
# What the reader raises on damaged files: it checks little, and fails wherever numpy or struct does.
_DAMAGE = (ValueError, IndexError, KeyError, TypeError, OverflowError, MemoryError)


def tensor_name(module: str, architecture: str = "") -> str | None:
    """Return the GGUF name of a Hugging Face module ("model.layers.0.mlp.up_proj"), None if it has none.

    Of linear layers it is the same in all ``FAMILIES``; norms have other names in "gemma3".
    """
    if layer := _LAYER.fullmatch(module):
        name = _LAYER_MODULES.get(layer[2])
        if architecture == "gemma3":
            name = _GEMMA3_MODULES.get(layer[2], name)
        return f"blk.{layer[1]}.{name}" if name else None
    return _MODULES.get(module)


def heads_to_permute(architecture: str, tensor: str, n_head: int, n_head_kv: int) -> int:
    """Return the number of heads whose rows llama.cpp reorders in ``tensor``, 0 where it keeps the order.

    llama.cpp rotates neighbouring rows in the "llama" architecture, Hugging Face rotates row i with row
    i + head_dim / 2; so the rows of Q and K (and whatever is added to them) change places.
    """
    if architecture != "llama":
        return 0
    return {"attn_q": n_head, "attn_k": n_head_kv}.get(tensor.rsplit(".", 1)[-1], 0)


def permute_rows(rows: NDArray[Any], heads: int) -> NDArray[Any]:
    """Reorder Q or K rows from Hugging Face's rotary layout to llama.cpp's.

    Args:
        rows: shape (heads * head_dim, ...), a weight, a bias, or a LoRA B matrix.
        heads: number of attention heads in ``rows``.

    Raises:
        InvalidModel: the rows do not divide into heads of an even size.
    """
    if rows.shape[0] % (2 * heads):
        raise InvalidModel(
            "Query or key rows do not divide into heads of an even size",
            got=rows.shape[0],
            wanted=f"a multiple of {2 * heads} ({heads} heads)",
            hint="The head counts in the model's metadata do not belong to these weights.",
        )
    return rows.reshape(heads, 2, -1, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)


@dataclass(frozen=True, slots=True)
class LazyTensor:
    """A tensor to write: ``load`` returns it in float32 with ``shape``, when its turn comes."""

    name: str
    shape: tuple[int, ...]
    load: Callable[[], NDArray[np.float32]]


class GgufFile:
    """The metadata and tensors of a GGUF file, memory-mapped."""

    def __init__(self, path: Path | str) -> None:
        """Open ``path``.

        Raises:
            InvalidModel: there is no such file, or it is truncated, damaged or not GGUF.
        """
        self.path = Path(path)
        try:
            self._reader = gguf.GGUFReader(self.path)
        except OSError as error:
            raise InvalidModel(f"The model file cannot be read: {error.strerror}", got=self.path) from error
        except _DAMAGE as error:
            raise InvalidModel(
                f"The file is not a complete GGUF file: {error}", got=self.path, hint="Download or convert it again."
            ) from error
        self._tensors = {tensor.name: tensor for tensor in self._reader.tensors}
        self.shapes: dict[str, tuple[int, ...]] = {
            name: tuple(int(size) for size in reversed(tensor.shape)) for name, tensor in self._tensors.items()
        }

    @property
    def architecture(self) -> str:
        """The model's family in llama.cpp's words, such as "llama" or "qwen2"."""
        return str(self.value("general.architecture"))

    @property
    def quantization(self) -> str:
        """The type that most of the weights have, in llama.cpp's words, such as "Q4_K" or "F16"."""
        numbers: Counter[str] = Counter()
        for tensor in self._tensors.values():
            numbers[tensor.tensor_type.name] += int(tensor.n_elements)
        return numbers.most_common(1)[0][0] if numbers else "no type"

    def get(self, key: str) -> Any:
        """Return a metadata value, None if the file has no such key."""
        field = self._reader.fields.get(key)
        return None if field is None else field.contents()

    def value(self, key: str) -> Any:
        """Return a metadata value that must be there.

        Raises:
            InvalidModel: the file has no such key.
        """
        found = self.get(key)
        if found is None:
            raise InvalidModel("The GGUF file lacks a metadata key", got=self.path, wanted=key)
        return found

    def metadata(self) -> dict[str, Value]:
        """Return every metadata value except those that ``write_gguf`` writes itself."""
        kept = [key for key in self._reader.fields if not key.startswith("GGUF.") and key not in _WRITTEN]
        return {key: self.get(key) for key in kept}

    def tensor(self, name: str) -> NDArray[np.float32]:
        """Return a tensor dequantized to float32, rows first.

        Raises:
            InvalidModel: the file has no such tensor, or its type cannot be dequantized.
        """
        found = self._tensors.get(name)
        if found is None:
            raise InvalidModel("The GGUF file lacks a tensor", got=self.path, wanted=name)
        try:
            return np.asarray(gguf.dequantize(found.data, found.tensor_type), dtype=np.float32)
        except NotImplementedError as error:
            raise InvalidModel(
                "A tensor has a type that cannot be dequantized", got=f"{name}: {found.tensor_type.name}"
            ) from error

    def attention_heads(self) -> tuple[int, int]:
        """Return the numbers of query heads and of key-value heads."""
        heads = self.value(f"{self.architecture}.attention.head_count")
        shared = self.get(f"{self.architecture}.attention.head_count_kv")
        return int(heads), int(heads if shared is None else shared)


def write_gguf(
    out: Path,
    architecture: str,
    metadata: Mapping[str, Value],
    tensors: Sequence[LazyTensor],
    dtype: Dtype = "f16",
    *,
    file_type: bool = True,
) -> None:
    """Write a GGUF file that appears complete under its name, or not at all; one tensor is in memory at a time.

    Args:
        out: the file to write; its folder must exist.
        architecture: llama.cpp's name of the family.
        metadata: full keys; ints are written as uint32, floats as float32. Empty strings and lists are left out.
        tensors: in file order.
        dtype: type of the matrices; vectors (norms, biases) are always float32, as llama.cpp wants them.
        file_type: whether to record ``dtype`` as the file's type, as models do and adapters do not.

    Raises:
        InvalidModel: a matrix has a value that float16 cannot hold.
        InsufficientStorage: the disk is full.
    """
    with _replacing(out) as partial, _writer(partial, architecture) as writer:
        if file_type:
            writer.add_file_type(_FILE_TYPES[dtype])
            writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
        for key, value in metadata.items():
            _add(writer, key, value)
        types: list[Dtype] = ["f32" if len(tensor.shape) == 1 else dtype for tensor in tensors]
        for tensor, kind in zip(tensors, types, strict=True):
            _announce(writer, tensor, kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor, kind in zip(tensors, types, strict=True):
            writer.write_tensor_data(_encode(tensor, kind))


@contextmanager
def _replacing(out: Path) -> Iterator[Path]:
    """Yield a path beside ``out``; what was written there is synced and renamed to ``out``, or removed."""
    partial = out.with_name(f".{out.name}.partial")
    try:
        yield partial
        with partial.open("rb") as written:
            os.fsync(written.fileno())
        partial.replace(out)
        sync_folder(out.parent)
    except OSError as error:
        raise map_os_error(error, out) from error
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def _writer(path: Path, architecture: str) -> Iterator[Any]:
    writer = gguf.GGUFWriter(path, architecture)
    try:
        yield writer
    finally:
        writer.close()


def _add(writer: Any, key: str, value: Value) -> None:
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, value)


def _announce(writer: Any, tensor: LazyTensor, kind: Dtype) -> None:
    count = int(np.prod(tensor.shape))
    if kind == "bf16":
        # numpy has no bfloat16: the writer takes bytes and derives the shape from them.
        shape = (*tensor.shape[:-1], 2 * tensor.shape[-1])
        writer.add_tensor_info(tensor.name, shape, np.dtype(np.uint8), 2 * count, gguf.GGMLQuantizationType.BF16)
        return
    numpy_type = np.dtype(np.float32 if kind == "f32" else np.float16)
    writer.add_tensor_info(tensor.name, tensor.shape, numpy_type, count * numpy_type.itemsize)


def _encode(tensor: LazyTensor, kind: Dtype) -> NDArray[Any]:
    values = np.ascontiguousarray(tensor.load(), dtype=np.float32)
    if kind == "f32":
        return values
    if kind == "bf16":
        return np.asarray(gguf.quants.quantize(values, gguf.GGMLQuantizationType.BF16))
    largest = float(np.abs(values).max(initial=0.0))
    if largest > float(np.finfo(np.float16).max):
        raise InvalidModel(
            "A weight is too large for float16", got=f"{largest} in {tensor.name}", hint="Convert with dtype='bf16'."
        )
    return values.astype(np.float16)
