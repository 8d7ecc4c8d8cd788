"""A merged model answers in llama.cpp as its base does with the adapter."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from data.errors import BaseModelMismatch, InvalidModel
from finetune.convert import hf_to_gguf
from finetune.export import lora_to_gguf
from finetune.gguf_tensors import GgufFile, LazyTensor, write_gguf
from finetune.merge import kept_share, merge_dora_to_gguf, merge_to_gguf
from tests.finetune import tiny

NAME = "blk.0.attn_q.weight"


def write(path: Path, architecture: str, metadata: dict, tensors: dict[str, np.ndarray]) -> Path:
    lazy = [LazyTensor(name, values.shape, lambda values=values: values) for name, values in tensors.items()]
    write_gguf(path, architecture, metadata, lazy, "f32")
    return path


def parts(folder: Path, *, rows: int = 6, architecture: str = "llama") -> tuple[Path, Path, np.ndarray]:
    random = np.random.default_rng(5)
    weight, a, b = (random.normal(size=shape).astype(np.float32) for shape in ((6, 4), (2, 4), (rows, 2)))
    tokens = {"tokenizer.ggml.tokens": ["a", "ß"], "tokenizer.ggml.add_bos_token": False, "llama.rope.freq_base": 1e4}
    base = write(folder / "base.gguf", "llama", tokens, {NAME: weight, "output_norm.weight": weight[0]})
    kind = {"general.type": "adapter", "adapter.type": "lora", "adapter.lora.alpha": 6.0}
    adapter = write(folder / "adapter.gguf", architecture, kind, {f"{NAME}.lora_a": a, f"{NAME}.lora_b": b})
    return base, adapter, weight + (6.0 / 2) * (b[:6] @ a)


def test_the_update_is_added_and_everything_else_kept(tmp_path: Path) -> None:
    base, adapter, expected = parts(tmp_path)
    merged = GgufFile(merge_to_gguf(adapter, base, tmp_path / "merged.gguf", "f32"))
    np.testing.assert_allclose(merged.tensor(NAME), expected, rtol=1e-6)
    np.testing.assert_array_equal(merged.tensor("output_norm.weight"), GgufFile(base).tensor("output_norm.weight"))
    assert merged.metadata() == GgufFile(base).metadata()
    assert merged.get("tokenizer.ggml.tokens") == ["a", "ß"]


def test_an_adapter_of_another_base_is_refused(tmp_path: Path) -> None:
    base, adapter, _ = parts(tmp_path, rows=8)
    with pytest.raises(BaseModelMismatch):
        merge_to_gguf(adapter, base, tmp_path / "merged.gguf")
    assert not (tmp_path / "merged.gguf").exists()
    base, adapter, _ = parts(tmp_path, architecture="qwen2")
    with pytest.raises(BaseModelMismatch):
        merge_to_gguf(adapter, base, tmp_path / "merged.gguf")


def test_a_model_is_no_adapter(tmp_path: Path) -> None:
    base, _, _ = parts(tmp_path)
    with pytest.raises(InvalidModel, match="no GGUF LoRA"):
        merge_to_gguf(base, base, tmp_path / "merged.gguf")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
@pytest.mark.parametrize(
    ("family", "settings"),
    [("llama", {}), ("qwen2", {}), ("llama", {"use_rslora": True, "rank_pattern": {"v_proj": 2}}), ("gemma3", {})],
    ids=["llama", "qwen2", "rslora", "gemma3"],
)
def test_llama_cpp_computes_the_same_logits(tmp_path: Path, family: str, settings: dict) -> None:
    from tests.finetune.served import Llama

    folder = tiny.save_model(tmp_path / "model", family)
    base = hf_to_gguf(folder, tmp_path / "base.gguf", "f32")
    adapter = lora_to_gguf(tiny.save_adapter(tmp_path / "lora", folder, **settings), base, tmp_path / "adapter.gguf")
    merged = merge_to_gguf(adapter, base, tmp_path / "merged.gguf", "f32")
    ids = [5, 90, 17, 200, 41]
    together = Llama(base, adapter).logits(ids)
    np.testing.assert_allclose(Llama(merged).logits(ids), together, atol=2e-3)
    assert np.abs(Llama(base).logits(ids) - together).max() > 0.1


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma3"])
@pytest.mark.parametrize("settings", [{}, {"use_rslora": True, "rank_pattern": {"v_proj": 2}}], ids=["dora", "rsdora"])
def test_a_merged_dora_has_the_logits_of_peft(tmp_path: Path, family: str, settings: dict) -> None:
    from tests.finetune.served import llama

    folder = tiny.save_model(tmp_path / "model", family)
    base = hf_to_gguf(folder, tmp_path / "base.gguf", "f32")
    trained = tiny.save_adapter(tmp_path / "dora", folder, use_dora=True, **settings)
    merged = merge_dora_to_gguf(trained, base, tmp_path / "merged.gguf", "f32")
    ids = [5, 90, 17, 200, 41] * 8
    wanted, bare = tiny.hf_logits(folder, ids, trained), tiny.hf_logits(folder, ids)
    assert np.abs(wanted - bare).max() > 0.5, "the adapter must matter"
    with llama(merged) as served:
        np.testing.assert_allclose(served.logits(ids), wanted, atol=1e-3)
    with pytest.raises(InvalidModel, match="use_dora = True") as caught:
        lora_to_gguf(trained, base, tmp_path / "adapter.gguf")
    assert "--merge" in caught.value.hint


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
def test_a_dora_without_magnitudes_is_refused(tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "model", "llama")
    base = hf_to_gguf(folder, tmp_path / "base.gguf", "f32")
    plain = tiny.save_adapter(tmp_path / "lora", folder)
    with pytest.raises(InvalidModel, match="magnitudes do not fit"):
        merge_dora_to_gguf(plain, base, tmp_path / "merged.gguf")
    assert not (tmp_path / "merged.gguf").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
def test_how_much_of_an_adapter_quantizing_leaves(tmp_path: Path) -> None:
    folder = tiny.save_model(tmp_path / "model", "llama")
    base = hf_to_gguf(folder, tmp_path / "base.gguf", "f32")
    trained = tiny.save_adapter(tmp_path / "lora", folder)
    merged = merge_to_gguf(
        lora_to_gguf(trained, base, tmp_path / "adapter.gguf"), base, tmp_path / "merged.gguf", "f32"
    )
    files = {name: GgufFile(path) for name, path in (("base", base), ("merged", merged))}
    middle = {name: (files["base"].tensor(name) + files["merged"].tensor(name)) / 2 for name in files["base"].shapes}
    half = write(tmp_path / "half.gguf", "llama", files["base"].metadata(), middle)
    left = [kept_share(trained, base, merged, quantized) for quantized in (base, half, merged)]
    assert left == pytest.approx([0, 0.5, 1], abs=1e-4)
