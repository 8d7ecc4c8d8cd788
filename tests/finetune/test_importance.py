"""The importance matrix is the mean squared input of each column, and quantizing weighs its errors by it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.errors import InvalidModel, InvalidRequest
from data.records import Message, Model
from finetune.gguf_tensors import GgufFile
from finetune.importance import importance, save_importance
from finetune.rows import Example
from service.engine.quantize import quantize
from tests.finetune.tiny import save_adapter, save_model

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")]

WIDE = {"hidden_size": 256, "intermediate_size": 256, "num_hidden_layers": 1}
"""Rows of 256, so that k-quants are really used."""
EXAMPLES = [Example((Message("user", (f"What is {n}?",)),), f"It is {n * n}.") for n in range(3)]
MATRICES = ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model(tmp_path_factory.mktemp("tiny") / "model", "llama", **WIDE)


@pytest.fixture(scope="module")
def base(folder: Path) -> Model:
    from finetune.convert import hf_to_gguf

    gguf = hf_to_gguf(folder, folder.parent / "base.gguf", "f32")
    return Model("tiny", "tests", str(gguf), str(folder), "0" * 64, "llama")


def test_it_is_the_mean_of_the_squared_inputs(base: Model, folder: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from finetune.rows import build_rows
    from finetune.weights import load_tokenizer

    # Of one layer, and only its feed-forward part has a LoRA: what the attention reads is the base model's.
    adapter = save_adapter(tmp_path / "lora", folder, target_modules=["up_proj"])
    found = importance(base, adapter, EXAMPLES)
    assert {f"blk.0.{name}.weight" for name in MATRICES} <= set(found)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).model, load_tokenizer(folder)
    squares = []
    for example in EXAMPLES:
        (row,) = build_rows([example], tokenizer, tokenizer.template).rows
        (branch,) = row.branches
        ids = torch.tensor([*row.context_ids, *branch.tail_ids, *branch.completion_ids])
        with torch.no_grad():
            squares.append(model.layers[0].input_layernorm(model.embed_tokens(ids)) ** 2)
    expected = torch.cat(squares).mean(dim=0).numpy()
    for name in ("attn_q", "attn_k", "attn_v"):
        np.testing.assert_allclose(found[f"blk.0.{name}.weight"], expected, rtol=1e-4)
    with pytest.raises(InvalidRequest):
        importance(base, adapter, [])


def test_columns_that_matter_lose_less(base: Model, tmp_path: Path) -> None:
    weights = np.full(256, 1e-3, np.float32)
    weights[::8] = 10.0
    matrix = {f"blk.0.{name}.weight": weights for name in MATRICES}
    whole = GgufFile(base.gguf)

    def loss(importance_file: Path | None) -> float:
        made = GgufFile(quantize(base.gguf, tmp_path / "q.gguf", "q4_k_m", n_threads=1, importance=importance_file))
        name = "blk.0.ffn_gate.weight"
        return float((((made.tensor(name) - whole.tensor(name)) ** 2) * weights).sum())

    assert loss(save_importance(matrix, tmp_path / "i.safetensors")) < 0.8 * loss(None)


def test_a_matrix_of_another_model_or_none_is_refused(base: Model, tmp_path: Path) -> None:
    other = save_importance({"blk.0.ffn_gate.weight": np.ones(128, np.float32)}, tmp_path / "other.safetensors")
    (tmp_path / "damaged.safetensors").write_bytes(b"x")
    for bad in (other, tmp_path / "damaged.safetensors"):
        with pytest.raises(InvalidModel):
            quantize(base.gguf, tmp_path / "q.gguf", "q4_k_m", n_threads=1, importance=bad)
        assert not (tmp_path / "q.gguf").exists()
