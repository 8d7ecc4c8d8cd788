"""Small GGUF files for the tests: adapters, and models that cannot be served."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

N_EMBD, N_FF = 576, 1536  # SmolLM2-135M


def write_lora(path: Path, strength: float, *, architecture: str = "llama", n_in: int = N_FF) -> Path:
    """Write a rank-2 LoRA on ffn_down of block 0; ``strength`` 0 makes it inert."""
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 2.0)
    for block in range(4):
        name = f"blk.{block}.ffn_down.weight"
        writer.add_tensor(f"{name}.lora_a", random.standard_normal((2, n_in)).astype(np.float32))
        writer.add_tensor(f"{name}.lora_b", (strength * random.standard_normal((N_EMBD, 2))).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_alien(path: Path, architecture: str) -> Path:
    """Write a well-formed GGUF of another architecture."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_tensor("token_embd.weight", np.zeros((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
