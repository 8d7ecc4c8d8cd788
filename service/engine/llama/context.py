"""A model's working memory in llama.cpp: streams of tokens, batches over them, their state as bytes."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from data.errors import ContextOverflow, EngineError
from service.engine.llama.backend import log_tail
from service.engine.llama.model import LlamaAdapter, LlamaModel

_KV_TYPES = {"f32": 0, "f16": 1, "q8_0": 8, "bf16": 30}  # enum ggml_type in ggml.h
KV_TYPES = tuple(_KV_TYPES)

State = NDArray[np.uint8]
"""What llama.cpp writes of one sequence, shape (bytes,)."""


@dataclass(frozen=True, slots=True)
class ContextOptions:
    """How a context is made.

    Attributes:
        n_ctx: tokens in each sequence.
        n_threads: threads of llama.cpp.
        sequences: sequences that can be in memory at a time.
        n_batch: most tokens in one call of ``decode``.
        kv_type: of keys and values, one of ``KV_TYPES``.
        flash_attention: reads a prompt faster, and on some CPUs writes slower.
    """

    n_ctx: int
    n_threads: int
    sequences: int
    n_batch: int = 128
    kv_type: str = "f16"
    flash_attention: bool = False


@dataclass(frozen=True, slots=True)
class Run:
    """Neighbouring tokens of one sequence, the first at ``position``; everything before it is in memory.

    ``logits_from`` is the index of the first token whose logits are wanted; none are by default.
    """

    sequence: int
    position: int
    tokens: Sequence[int]
    logits_from: int | None = None


class LlamaContext:
    """A model's working memory: ``sequences`` independent sequences of ``n_ctx`` tokens each.

    Every sequence has a memory stream of its own (``kv_unified`` off), so what one holds changes
    neither the speed nor the rounding of another. ``computed_s`` is the time that llama.cpp took so far, in seconds.
    """

    def __init__(self, model: LlamaModel, options: ContextOptions) -> None:
        """Allocate the memory.

        Raises:
            EngineError: llama.cpp cannot make the context (memory, mostly).
        """
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = options.n_ctx * options.sequences
        parameters.n_seq_max = options.sequences
        parameters.n_batch = parameters.n_ubatch = options.n_batch
        parameters.n_threads = parameters.n_threads_batch = options.n_threads
        parameters.kv_unified = False
        parameters.flash_attn_type = int(options.flash_attention)  # enum llama_flash_attn_type
        parameters.type_k = parameters.type_v = _KV_TYPES[options.kv_type]
        parameters.no_perf = True
        self._handle = llama_cpp.llama_init_from_model(model.handle, parameters)
        if not self._handle:
            raise EngineError(
                "llama.cpp cannot allocate the context",
                got=f"{options.sequences} x {options.n_ctx} tokens; {log_tail()}",
                hint="Lower n_ctx or the number of sequences.",
            )
        self._n_vocab = model.n_vocab
        self._memory = llama_cpp.llama_get_memory(self._handle)
        self._batch = _Batch(options.n_batch)
        self._adapters: tuple[tuple[int, float], ...] = ()
        self.n_ctx = int(llama_cpp.llama_n_ctx_seq(self._handle))
        self.n_batch = options.n_batch
        self.computed_s = 0.0

    def decode(self, runs: Sequence[Run]) -> NDArray[np.float32]:
        """Run tokens (at most ``n_batch``) through the model, one run for each sequence.

        Returns:
            Logits, shape (wanted, n_vocab), in the order of the runs: a view that the next call overwrites.

        Raises:
            ContextOverflow: a sequence is full.
            EngineError: llama.cpp failed.
        """
        count, wanted = self._batch.fill(runs)
        started = time.perf_counter()
        status = llama_cpp.llama_decode(self._handle, self._batch.struct)
        if not status:
            llama_cpp.llama_synchronize(self._handle)
        self.computed_s += time.perf_counter() - started
        if status == 1:
            full = max(run.position + len(run.tokens) for run in runs)
            raise ContextOverflow("The context is full", got=full, wanted=f"at most {self.n_ctx} tokens")
        if status:
            raise EngineError("llama.cpp failed to decode", got=f"{count} tokens, status {status}; {log_tail()}")
        if not wanted:
            return np.empty((0, self._n_vocab), np.float32)
        pointer = llama_cpp.llama_get_logits(self._handle)
        return np.ctypeslib.as_array(pointer, shape=(wanted, self._n_vocab))

    def keep(self, sequence: int, length: int) -> None:
        """Forget everything in ``sequence`` from position ``length`` on.

        Raises:
            EngineError: the model's memory cannot be cut (a recurrent model).
        """
        if not llama_cpp.llama_memory_seq_rm(self._memory, sequence, length, -1):
            raise EngineError("This model's memory cannot be cut", got=f"position {length}")

    def length(self, sequence: int) -> int:
        """Return the position after the last token that ``sequence`` holds."""
        return int(llama_cpp.llama_memory_seq_pos_max(self._memory, sequence)) + 1

    def free(self) -> None:
        """Release the memory."""
        llama_cpp.llama_free(self._handle)

    def save(self, sequence: int) -> State:
        """Return the state of ``sequence``.

        Raises:
            EngineError: llama.cpp cannot write it.
        """
        size = int(llama_cpp.llama_state_seq_get_size(self._handle, sequence))
        state = np.empty(size, np.uint8)
        if llama_cpp.llama_state_seq_get_data(self._handle, _bytes(state), size, sequence) != size:
            raise EngineError("llama.cpp cannot write a sequence's state", got=log_tail())
        return state

    def restore(self, sequence: int, state: State) -> None:
        """Put ``state`` in the place of what ``sequence`` holds.

        Raises:
            EngineError: the state is not of a context like this one.
        """
        if not llama_cpp.llama_state_seq_set_data(self._handle, _bytes(state), len(state), sequence):
            raise EngineError("llama.cpp refused a sequence's state", got=log_tail())

    def set_adapters(self, adapters: Sequence[tuple[LlamaAdapter, float]]) -> bool:
        """Decode with the sum of these adapters, each times its scale, from now on; tell whether that is a change.

        Raises:
            EngineError: llama.cpp refused.
        """
        wanted = tuple((id(adapter), scale) for adapter, scale in adapters)
        if wanted == self._adapters:
            return False
        count = len(adapters)
        handles = (llama_cpp.llama_adapter_lora_p_ctypes * max(1, count))(*(adapter.handle for adapter, _ in adapters))
        scales = (ctypes.c_float * max(1, count))(*(scale for _, scale in adapters))
        if llama_cpp.llama_set_adapters_lora(self._handle, handles, count, scales):
            raise EngineError("llama.cpp refused the adapter", got=log_tail())
        self._adapters = wanted
        return True


class _Batch:
    """The arrays of a ``llama_batch``, filled through numpy."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._token, self._pos, self._sequence = (np.zeros(size, np.int32) for _ in range(3))
        self._n_seq_id = np.ones(size, np.int32)
        self._logits = np.zeros(size, np.int8)
        pointer = ctypes.POINTER(llama_cpp.llama_seq_id)
        first = self._sequence.ctypes.data
        self._sequences = (pointer * size)(
            *(ctypes.cast(first + i * self._sequence.itemsize, pointer) for i in range(size))
        )
        self.struct = llama_cpp.llama_batch(
            n_tokens=0,
            token=_pointer(self._token, llama_cpp.llama_token),
            embd=None,
            pos=_pointer(self._pos, llama_cpp.llama_pos),
            n_seq_id=_pointer(self._n_seq_id, ctypes.c_int32),
            seq_id=ctypes.cast(self._sequences, ctypes.POINTER(pointer)),
            logits=_pointer(self._logits, ctypes.c_int8),
        )

    def fill(self, runs: Sequence[Run]) -> tuple[int, int]:
        """Write the runs; return how many tokens they have, and how many of their logits are wanted."""
        count = sum(len(run.tokens) for run in runs)
        if not 0 < count <= self._size:
            raise EngineError("A batch of the wrong size", got=count, wanted=f"1 to {self._size} tokens")
        start = 0
        for run in runs:
            end = start + len(run.tokens)
            self._token[start:end] = run.tokens
            self._pos[start:end] = np.arange(run.position, run.position + end - start)
            self._sequence[start:end] = run.sequence
            self._logits[start:end] = 0
            if run.logits_from is not None:
                self._logits[start + run.logits_from : end] = 1
            start = end
        self.struct.n_tokens = count
        return count, int(self._logits[:count].sum())


def _pointer(array: NDArray[Any], kind: Any) -> Any:
    return array.ctypes.data_as(ctypes.POINTER(kind))


def _bytes(state: State) -> Any:
    return _pointer(state, ctypes.c_uint8)
