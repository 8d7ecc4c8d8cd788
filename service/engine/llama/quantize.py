"""Write a GGUF with other weights."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import llama_cpp

from data.errors import InvalidRequest
from service.engine.llama.backend import check_magic, clear_log, load_error

_FTYPES = {  # enum llama_ftype in llama.h
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q8_0": 7,
    "q4_k_m": 15,
    "q5_k_m": 17,
    "q6_k": 18,
    "bf16": 32,
}
QUANTIZATIONS = tuple(_FTYPES)


def quantize_file(source: Path, target: Path, quantization: str, n_threads: int) -> None:
    """Write ``source`` to ``target`` with other weights.

    Raises:
        InvalidModel: ``source`` is damaged.
        InvalidRequest: ``quantization`` is unknown.
    """
    if quantization not in _FTYPES:
        raise InvalidRequest("Unknown quantization", got=quantization, wanted=", ".join(_FTYPES))
    check_magic(source)
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = _FTYPES[quantization]
    parameters.nthread = n_threads
    parameters.allow_requantize = True
    clear_log()
    if llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(parameters)):
        raise load_error(source)
