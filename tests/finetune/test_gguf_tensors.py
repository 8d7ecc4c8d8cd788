"""GGUF files are written whole or not at all, and read back as they were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.errors import InvalidModel, StateError
from finetune.gguf_tensors import GgufFile, LazyTensor, heads_to_permute, permute_rows, tensor_name, write_gguf

MATRIX = np.linspace(-3, 3, 64 * 32, dtype=np.float32).reshape(64, 32)
VECTOR = np.linspace(0, 1, 32, dtype=np.float32)


def lazy(name: str, values: np.ndarray) -> LazyTensor:
    return LazyTensor(name, values.shape, lambda: values)


@pytest.mark.parametrize(("dtype", "error"), [("f32", 0.0), ("f16", 2e-3), ("bf16", 2e-2)])
def test_tensors_and_metadata_read_back(tmp_path: Path, dtype: str, error: float) -> None:
    metadata = {
        "llama.block_count": 1,
        "llama.rope.freq_base": 1e6,
        "general.name": "é",
        "a.flag": True,
        "a.list": ["x"],
    }
    out = tmp_path / "model.gguf"
    write_gguf(out, "llama", metadata, [lazy("token_embd.weight", MATRIX), lazy("output_norm.weight", VECTOR)], dtype)
    model = GgufFile(out)
    assert model.architecture == "llama"
    assert {key: model.get(key) for key in metadata} == metadata
    assert model.shapes == {"token_embd.weight": (64, 32), "output_norm.weight": (32,)}
    assert np.abs(model.tensor("token_embd.weight") - MATRIX).max() <= error
    assert (model.tensor("output_norm.weight") == VECTOR).all(), "vectors stay float32"
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_a_weight_beyond_float16_is_refused_and_leaves_the_old_file(tmp_path: Path) -> None:
    out = tmp_path / "model.gguf"
    write_gguf(out, "llama", {}, [lazy("token_embd.weight", MATRIX)])
    before = out.read_bytes()
    with pytest.raises(InvalidModel, match="too large for float16"):
        write_gguf(out, "llama", {}, [lazy("token_embd.weight", MATRIX * 1e6)])
    assert out.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["model.gguf"]


def test_a_missing_folder_is_a_state_error(tmp_path: Path) -> None:
    with pytest.raises(StateError):
        write_gguf(tmp_path / "absent" / "model.gguf", "llama", {}, [lazy("token_embd.weight", MATRIX)])


@pytest.mark.parametrize("keep", [0, 3, 40, 200, 5000])
def test_a_truncated_file_is_an_invalid_model(tmp_path: Path, keep: int) -> None:
    out = tmp_path / "model.gguf"
    write_gguf(out, "llama", {"general.name": "x" * 100}, [lazy("token_embd.weight", MATRIX)], "f32")
    out.write_bytes(out.read_bytes()[:keep])
    with pytest.raises(InvalidModel, match="not a complete GGUF"):
        GgufFile(out)


def test_absent_files_keys_and_tensors_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match="cannot be read"):
        GgufFile(tmp_path / "absent.gguf")
    out = tmp_path / "model.gguf"
    write_gguf(out, "llama", {}, [lazy("token_embd.weight", MATRIX)])
    model = GgufFile(out)
    with pytest.raises(InvalidModel, match=r"llama\.attention\.head_count"):
        model.attention_heads()
    with pytest.raises(InvalidModel, match=r"output\.weight"):
        model.tensor("output.weight")


def test_permuting_brings_the_rows_that_rotate_together_side_by_side() -> None:
    heads, head_dim = 3, 8
    rows = np.array([(head, i) for head in range(heads) for i in range(head_dim)])
    permuted = permute_rows(rows, heads)
    for head in range(heads):
        for pair in range(head_dim // 2):
            first, second = permuted[head * head_dim + 2 * pair], permuted[head * head_dim + 2 * pair + 1]
            assert tuple(first) == (head, pair)
            assert tuple(second) == (head, pair + head_dim // 2)


def test_rows_that_do_not_divide_into_heads_are_refused() -> None:
    with pytest.raises(InvalidModel, match="multiple of 6"):
        permute_rows(np.zeros((8, 2)), 3)


def test_only_llama_queries_and_keys_are_permuted() -> None:
    assert heads_to_permute("llama", "blk.3.attn_q", 8, 2) == 8
    assert heads_to_permute("llama", "blk.3.attn_k", 8, 2) == 2
    assert heads_to_permute("llama", "blk.3.attn_v", 8, 2) == 0
    assert heads_to_permute("qwen2", "blk.3.attn_q", 8, 2) == 0


def test_names_follow_llama_cpp() -> None:
    assert tensor_name("model.layers.12.self_attn.o_proj") == "blk.12.attn_output"
    assert tensor_name("model.embed_tokens") == "token_embd"
    assert tensor_name("model.layers.0.mlp.experts") is None
