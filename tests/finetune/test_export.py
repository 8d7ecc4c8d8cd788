"""A LoRA becomes a GGUF adapter that llama.cpp applies as peft does, or is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from data.errors import BaseModelMismatch, InvalidModel, UnsupportedArchitecture
from finetune.export import lora_to_gguf
from finetune.gguf_tensors import GgufFile, LazyTensor, permute_rows, write_gguf

HEADS, SHARED, HEAD_DIM, HIDDEN, R = 4, 2, 6, 24, 3
SHAPES = {"self_attn.q_proj": (HEADS * HEAD_DIM, HIDDEN), "self_attn.k_proj": (SHARED * HEAD_DIM, HIDDEN)}
NAMES = {"self_attn.q_proj": "blk.0.attn_q", "self_attn.k_proj": "blk.0.attn_k"}


def write_base(path: Path, architecture: str = "llama", **heads: int) -> Path:
    counts = {"head_count": HEADS, "head_count_kv": SHARED, **heads}
    metadata = {f"{architecture}.attention.{key}": value for key, value in counts.items()}
    tensors = [
        LazyTensor(f"{NAMES[module]}.weight", shape, lambda shape=shape: np.zeros(shape, np.float32))
        for module, shape in SHAPES.items()
    ]
    write_gguf(path, architecture, metadata, tensors)
    return path


def adapter_tensors() -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    tensors = {}
    for module, (rows, columns) in SHAPES.items():
        prefix = f"base_model.model.model.layers.0.{module}.lora_"
        tensors[f"{prefix}A.weight"] = random.normal(size=(R, columns)).astype(np.float32)
        tensors[f"{prefix}B.weight"] = random.normal(size=(rows, R)).astype(np.float32)
    return tensors


def write_adapter(folder: Path, tensors: dict[str, np.ndarray] | None = None, **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    config = {"peft_type": "LORA", "r": R, "lora_alpha": 12, "bias": "none", **settings}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    save_file(adapter_tensors() if tensors is None else tensors, folder / "adapter_model.safetensors")
    return folder


@pytest.mark.parametrize("architecture", ["llama", "qwen2", "qwen3"])
def test_the_adapter_names_alpha_and_the_updates(tmp_path: Path, architecture: str) -> None:
    base = write_base(tmp_path / "base.gguf", architecture)
    adapter = GgufFile(lora_to_gguf(write_adapter(tmp_path / "a"), base, tmp_path / "adapter.gguf"))
    assert adapter.architecture == architecture
    assert (adapter.get("general.type"), adapter.get("adapter.type")) == ("adapter", "lora")
    assert adapter.get("adapter.lora.alpha") == 12.0
    tensors = adapter_tensors()
    for module, heads in (("self_attn.q_proj", HEADS), ("self_attn.k_proj", SHARED)):
        a, b = (tensors[f"base_model.model.model.layers.0.{module}.lora_{side}.weight"] for side in "AB")
        name = f"{NAMES[module]}.weight"
        written = adapter.tensor(f"{name}.lora_b") @ adapter.tensor(f"{name}.lora_a")
        wanted = permute_rows(b @ a, heads) if architecture == "llama" else b @ a
        np.testing.assert_allclose(written, wanted, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_dora": True},
        {"init_lora_weights": "pissa"},
        {"init_lora_weights": "olora"},
        {"alora_invocation_tokens": [1, 2]},
        {"r": None, "use_rslora": True},
        {"modules_to_save": ["lm_head"]},
        {"bias": "lora_only"},
        {"alpha_pattern": {"q_proj": 4}},
        {"peft_type": "IA3"},
        {"lora_alpha": None},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_what_gguf_cannot_express_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    base = write_base(tmp_path / "base.gguf")
    with pytest.raises(InvalidModel, match=next(iter(settings))):
        lora_to_gguf(write_adapter(tmp_path / "a", **settings), base, tmp_path / "adapter.gguf")
    assert not (tmp_path / "adapter.gguf").exists()


def test_the_scale_of_rslora_is_folded_into_alpha(tmp_path: Path) -> None:
    """The factor is alpha / rank where GGUF is read, lora_alpha / sqrt(rank) where rsLoRA was trained."""
    base = write_base(tmp_path / "base.gguf")
    folder = write_adapter(tmp_path / "a", use_rslora=True)
    adapter = GgufFile(lora_to_gguf(folder, base, tmp_path / "adapter.gguf"))
    assert adapter.value("adapter.lora.alpha") / R == pytest.approx(12 / R**0.5)
    plain = GgufFile(lora_to_gguf(write_adapter(tmp_path / "b"), base, tmp_path / "plain.gguf"))
    for name in plain.shapes:
        np.testing.assert_array_equal(adapter.tensor(name), plain.tensor(name))


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf")
    tensors = adapter_tensors()
    name = "base_model.model.model.layers.0.self_attn.k_proj.lora_B.weight"
    tensors[name] = np.zeros((SHARED * HEAD_DIM * 2, R), np.float32)
    with pytest.raises(BaseModelMismatch, match="trained for another base model") as raised:
        lora_to_gguf(write_adapter(tmp_path / "a", tensors), base, tmp_path / "adapter.gguf")
    assert "(24, 24)" in str(raised.value)
    assert "(12, 24)" in str(raised.value)
    deeper = {key.replace("layers.0", "layers.7"): value for key, value in adapter_tensors().items()}
    with pytest.raises(BaseModelMismatch, match="no such tensor"):
        lora_to_gguf(write_adapter(tmp_path / "b", deeper), base, tmp_path / "adapter.gguf")


def test_heads_that_do_not_divide_the_rows_are_refused(tmp_path: Path) -> None:
    base = write_base(tmp_path / "base.gguf", head_count=5)
    with pytest.raises(InvalidModel, match="heads of an even size"):
        lora_to_gguf(write_adapter(tmp_path / "a"), base, tmp_path / "adapter.gguf")


def test_unknown_families_tensors_and_halves_are_refused(tmp_path: Path) -> None:
    folder = write_adapter(tmp_path / "a")
    with pytest.raises(UnsupportedArchitecture, match="gemma"):
        lora_to_gguf(folder, write_base(tmp_path / "gemma.gguf", "gemma"), tmp_path / "adapter.gguf")
    base = write_base(tmp_path / "base.gguf")
    tensors = adapter_tensors()
    half = dict(list(tensors.items())[1:])
    with pytest.raises(InvalidModel, match="do not belong together"):
        lora_to_gguf(write_adapter(tmp_path / "b", half), base, tmp_path / "adapter.gguf")
    embedding = {"base_model.model.model.embed_tokens.lora_embedding_A": np.zeros((R, 5), np.float32)}
    with pytest.raises(InvalidModel, match="lora_embedding_A"):
        lora_to_gguf(write_adapter(tmp_path / "c", tensors | embedding), base, tmp_path / "adapter.gguf")
    (folder / "adapter_model.safetensors").write_bytes(b"\x01" * 50)
    with pytest.raises(InvalidModel, match="cannot be read"):
        lora_to_gguf(folder, base, tmp_path / "adapter.gguf")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
@pytest.mark.parametrize("use_rslora", [False, True], ids=["lora", "rslora"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
def test_llama_cpp_computes_what_peft_computes(tmp_path: Path, family: str, use_rslora: bool) -> None:
    from finetune.convert import hf_to_gguf
    from tests.finetune.served import llama
    from tests.finetune.tiny import hf_logits, save_adapter, save_model

    folder = save_model(tmp_path / "model", family)
    base = hf_to_gguf(folder, tmp_path / "base.gguf", "f32")
    # Ranks may differ by layer: llama.cpp, like peft, divides alpha by the rank of each tensor.
    trained = save_adapter(tmp_path / "adapter", folder, rank_pattern={"k_proj": 2}, use_rslora=use_rslora)
    adapter = lora_to_gguf(trained, base, tmp_path / "adapter.gguf")
    ids = np.random.default_rng(0).integers(0, 700, 100).tolist()
    with_adapter, without = hf_logits(folder, ids, trained), hf_logits(folder, ids)
    assert np.abs(with_adapter - without).max() > 1, "the adapter must matter for the comparison to mean anything"
    with llama(base, adapter) as served:
        np.testing.assert_allclose(served.logits(ids), with_adapter, atol=2e-3 if family == "gemma3" else 5e-4)


@pytest.mark.parametrize("alpha", [0, -1, float("nan"), float("inf"), 10**400, True, "12"])
def test_an_alpha_that_scales_nothing_is_refused(tmp_path: Path, alpha: Any) -> None:
    base = write_base(tmp_path / "base.gguf")
    with pytest.raises(InvalidModel, match="lacks a number"):
        lora_to_gguf(write_adapter(tmp_path / "a", lora_alpha=alpha), base, tmp_path / "adapter.gguf")


@pytest.mark.parametrize("r", [0, -3, float("nan")])
def test_a_rank_that_has_no_root_is_refused(tmp_path: Path, r: Any) -> None:
    base = write_base(tmp_path / "base.gguf")
    with pytest.raises(InvalidModel, match="lacks a number"):
        lora_to_gguf(write_adapter(tmp_path / "a", r=r, use_rslora=True), base, tmp_path / "adapter.gguf")


@pytest.mark.parametrize("spoilt", [np.float32(1), np.full((24, R), np.nan, np.float32)], ids=["no matrix", "nan"])
def test_weights_that_are_no_matrix_of_numbers_are_refused(tmp_path: Path, spoilt: Any) -> None:
    tensors = adapter_tensors()
    tensors["base_model.model.model.layers.0.self_attn.q_proj.lora_B.weight"] = np.asarray(spoilt)
    base = write_base(tmp_path / "base.gguf")
    with pytest.raises(InvalidModel):
        lora_to_gguf(write_adapter(tmp_path / "a", tensors), base, tmp_path / "adapter.gguf")
