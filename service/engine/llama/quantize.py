"""Write a GGUF with other weights."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import llama_cpp
import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from data.errors import InvalidModel, InvalidRequest
from data.model_files import FILE_TYPES
from service.engine.llama.backend import check_magic, clear_log, load_error

QUANTIZATIONS = tuple(FILE_TYPES)


def quantize_file(
    source: Path, target: Path, quantization: str, n_threads: int, importance: Path | None = None
) -> None:
    """Write ``source`` to ``target`` with other weights.

    ``importance`` is a safetensors file of mean squared inputs by tensor, as ``finetune.importance`` makes it.

    Raises:
        InvalidModel: ``source`` or ``importance`` is damaged, or they do not belong together.
        InvalidRequest: ``quantization`` is unknown.
    """
    if quantization not in FILE_TYPES:
        raise InvalidRequest("Unknown quantization", got=quantization, wanted=", ".join(FILE_TYPES))
    check_magic(source)
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = FILE_TYPES[quantization]
    parameters.nthread = n_threads
    parameters.allow_requantize = True
    entries = None if importance is None else _Entries(importance)
    if entries is not None:
        parameters.imatrix = ctypes.cast(entries.array, ctypes.POINTER(llama_cpp.llama_model_imatrix_data))
    clear_log()
    if llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(parameters)):
        raise load_error(source)


class _Entries:
    """An importance matrix as llama.cpp takes it: an array that ends with a nameless entry (src/llama-quant.cpp)."""

    def __init__(self, path: Path) -> None:
        try:
            found = load_file(path)
        except (SafetensorError, OSError) as error:
            raise InvalidModel(f"The importance matrix cannot be read: {error}", got=path) from error
        self._kept = {name: np.ascontiguousarray(values, dtype=np.float32) for name, values in found.items()}
        self.array = (llama_cpp.llama_model_imatrix_data * (len(self._kept) + 1))()
        for entry, (name, values) in zip(self.array, self._kept.items(), strict=False):
            entry.name = name.encode()
            entry.data = values.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
            entry.size = values.size
