"""What transformers drops from a GGUF's configuration is named; test_convert proves the result on real models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from data.errors import InvalidModel, UnsupportedArchitecture
from finetune.gguf_config import config_overrides
from finetune.gguf_tensors import GgufFile, LazyTensor, write_gguf


def model(path: Path, architecture: str, tensors: tuple[str, ...] = (), **values: Any) -> GgufFile:
    metadata = {f"{architecture}.context_length": 512}
    metadata |= {f"{architecture}.{key.replace('__', '.')}": value for key, value in values.items()}
    factors = np.array([1.0, 4.0], np.float32)
    names = ("token_embd.weight", *tensors)
    write_gguf(path, architecture, metadata, [LazyTensor(name, (2,), lambda: factors) for name in names])
    return GgufFile(path)


def test_a_plain_model_needs_nothing(tmp_path: Path) -> None:
    assert config_overrides(model(tmp_path / "m.gguf", "llama", rope__freq_base=5e5)) == {}


def test_head_size_biases_and_llama3_factors(tmp_path: Path) -> None:
    tensors = ("blk.0.attn_q.bias", "rope_freqs.weight")
    found = config_overrides(
        model(tmp_path / "m.gguf", "llama", tensors, attention__key_length=32, rope__freq_base=5e5)
    )
    rope = found.pop("rope_parameters")
    assert found == {"head_dim": 32, "attention_bias": True}
    assert (rope["rope_theta"], rope["short_factor"], rope["long_factor"]) == (5e5, [1.0, 4.0], [1.0, 4.0])


def test_qwen2s_biases_have_no_switch(tmp_path: Path) -> None:
    assert config_overrides(model(tmp_path / "m.gguf", "qwen2", ("blk.0.attn_q.bias",))) == {}


def test_unknown_or_incomplete_scaling_is_refused(tmp_path: Path) -> None:
    scaling = {"rope__scaling__type": "longrope", "rope__scaling__factor": 2.0}
    with pytest.raises(UnsupportedArchitecture, match="longrope"):
        config_overrides(model(tmp_path / "a.gguf", "qwen2", **scaling))
    with pytest.raises(InvalidModel, match="original_context_length"):
        config_overrides(model(tmp_path / "b.gguf", "qwen2", **scaling | {"rope__scaling__type": "yarn"}))
