"""Whether a model fits into memory before it is loaded, with the arithmetic.

Knows nothing of llama.cpp: it adds up what the file and the settings say.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from data.errors import InsufficientMemory
from data.records import Model
from service.engine.engine import EngineOptions

KV_BYTES = {"f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32}
"""Bytes of one number of a key or value; a q8_0 block is 32 numbers and a 16-bit scale (ggml-common.h)."""

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Demand:
    """What serving a model takes, in bytes.

    Attributes:
        weights: the file, which is laid out anew for the CPU.
        kv: keys and values of all sequences.
        kept: of prompts and passages read before.
        batch: what one batch computes with: its logits and, without flash attention, its attention weights.
        arithmetic: how ``kv`` comes about.
    """

    weights: int
    kv: int
    kept: int
    batch: int
    arithmetic: str

    @property
    def total(self) -> int:
        """The sum."""
        return self.weights + self.kv + self.kept + self.batch

    def __str__(self) -> str:
        parts = (
            f"weights {_mb(self.weights)}",
            f"keys and values {_mb(self.kv)} ({self.arithmetic})",
            f"kept passages up to {_mb(self.kept)}",
            f"one batch {_mb(self.batch)}",
        )
        return f"{' + '.join(parts)} = {_mb(self.total)}"


def demand(model: Model, options: EngineOptions) -> Demand:
    """Add up what serving ``model`` takes; 0 for keys and values whose size the model's file does not tell."""
    n_ctx = min(options.n_ctx, int(model.meta.get("n_ctx_train") or options.n_ctx))
    token = int(int(model.meta.get("kv_width") or 0) * KV_BYTES[options.kv_type])
    attended = 0 if options.flash_attention else n_ctx * int(model.meta.get("heads") or 0)
    return Demand(
        weights=int(model.meta.get("gguf_bytes") or 0),
        kv=options.sequences * n_ctx * token,
        kept=options.kv_memory_mb * 2**20,
        batch=options.n_batch * (int(model.meta.get("n_vocab") or 0) + attended) * 4,
        arithmetic=f"{options.sequences} sequences x {n_ctx} tokens x {token / 1e3:.1f} kB in {options.kv_type}",
    )


def smaller_if_needed(model: Model, options: EngineOptions, available: int | None = None) -> EngineOptions:
    """Return ``options`` with keys and values in 8 bits where only those fit into memory, else as they are.

    That costs blockwise adapters their path (keys of 8 bits cannot be turned), so it is never done without need.
    """
    free = available_bytes() if available is None else available
    small = replace(options, kv_type="q8_0", flash_attention=True)  # llama.cpp has 8-bit values only with it
    needed = free is not None and demand(model, small).total <= free < demand(model, options).total
    return small if needed else options


def check_memory(name: str, wanted: Demand, available: int | None = None) -> None:
    """Raise unless ``wanted`` fits into memory.

    Args:
        name: the model's, for the message.
        wanted: what it takes.
        available: bytes; measured where it is None.

    Raises:
        InsufficientMemory: it does not fit, with the sum.
    """
    free = available_bytes() if available is None else available
    if free is not None and wanted.total > free:
        raise InsufficientMemory(
            f"{name} does not fit into memory",
            got=str(wanted),
            wanted=f"at most {_mb(free)}, what is available now",
            hint="Lower RAGTUNE_SEQUENCES, RAGTUNE_N_CTX or RAGTUNE_KV_MEMORY_MB, or take a smaller quantization.",
        )


def available_bytes() -> int | None:
    """Return how much memory this process may still take, None where the system does not tell.

    On Linux the kernel's own estimate (``MemAvailable``), at most what the control group leaves.
    """
    with suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        free = int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]) * 1024
        with suppress(OSError, ValueError, KeyError):  # no limit reads "max"; without cgroups there is no file
            limit = int((_CGROUP / "memory.max").read_text(encoding="ascii"))
            used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
            stat = dict(line.split() for line in (_CGROUP / "memory.stat").read_text(encoding="ascii").splitlines())
            # Cached files count as used there, and are given up when memory is wanted.
            free = min(free, limit - used + int(stat["inactive_file"]) + int(stat["active_file"]))
        return free
    with suppress(ValueError, OSError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def _mb(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
