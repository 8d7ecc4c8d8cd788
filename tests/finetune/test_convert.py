"""A Hugging Face folder becomes a GGUF with transformers' logits and tokens, or is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from data.errors import InvalidModel, UnsupportedArchitecture
from finetune.convert import hf_to_gguf, llama3_factors
from finetune.gguf_config import config_overrides
from finetune.gguf_tensors import GgufFile
from tests.finetune.tiny import (
    TEMPLATE,
    TEXTS,
    hf_logits,
    save_model,
    tabulate_gelu,
    train_sentencepiece,
    train_tokenizer,
)

LLAMA3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "rope_theta": 1e6, "factor": 4.0}
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama-tied-wide-heads": ("llama", {"tie_word_embeddings": True, "head_dim": 24}),
    "llama-biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-3.1": ("llama", {"rope_parameters": LLAMA3 | {"original_max_position_embeddings": 64}}),
    "llama-linear": ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 4.0}}),
    "qwen2": ("qwen2", {"rope_parameters": {"rope_type": "default", "rope_theta": 1e6}}),
    "qwen2-tied-yarn": (
        "qwen2",
        {"tie_word_embeddings": True, "rope_parameters": YARN | {"original_max_position_embeddings": 64}},
    ),
    "qwen3": ("qwen3", {"head_dim": 32}),
    "gemma3": ("gemma3", {}),
    "gemma3-linear-untied": (
        "gemma3",
        {
            "tie_word_embeddings": False,
            "layer_types": ["full_attention", "sliding_attention"],
            "num_hidden_layers": 2,
            "rope_parameters": {
                "full_attention": {"rope_type": "linear", "rope_theta": 1e6, "factor": 8.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 5e3},
            },
        },
    ),
    "gemma3-without-windows": ("gemma3", {"layer_types": ["full_attention"] * 2, "num_hidden_layers": 2}),
}
CONFIG = {
    "architectures": ["Qwen2ForCausalLM"], "hidden_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1,
    "intermediate_size": 16, "max_position_embeddings": 64, "tie_word_embeddings": True,
}  # fmt: skip


def ids() -> list[int]:
    found: list[int] = np.random.default_rng(0).integers(0, 700, 120).tolist()
    return found


def write_folder(folder: Path, tensors: dict[str, np.ndarray] | None = None, **settings: Any) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({**CONFIG, **settings}))
    tokenizer = train_tokenizer("qwen2", 300)
    tokenizer.save(str(folder / "tokenizer.json"))
    size = tokenizer.get_vocab_size()
    save_file(tensors or {"model.embed_tokens.weight": np.zeros((size, 8), np.float32)}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize(
    "settings",
    [
        {"architectures": ["GemmaForCausalLM"]},
        {"architectures": []},
        {"quantization_config": {"quant_method": "awq"}},
        {"use_sliding_window": True, "sliding_window": 16},
        {"hidden_act": "gelu"},
        {"rope_scaling": {"type": "dynamic", "factor": 2.0}},
        {"rope_scaling": {"type": "yarn", "factor": 2.0, "beta_fast": 16}},
    ],
    ids=str,
)
def test_what_cannot_be_carried_over_is_refused(tmp_path: Path, settings: dict[str, Any]) -> None:
    with pytest.raises(UnsupportedArchitecture) as caught:
        hf_to_gguf(write_folder(tmp_path / "m", **settings), tmp_path / "out.gguf")
    assert f"convert_hf_to_gguf.py {tmp_path / 'm'} --outtype f16 --outfile m.gguf" in caught.value.hint
    assert not (tmp_path / "out.gguf").exists()


def test_damaged_folders_are_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidModel, match=r"config\.json"):
        hf_to_gguf(tmp_path, tmp_path / "out.gguf")
    folder = write_folder(tmp_path / "m")
    with pytest.raises(InvalidModel, match="lack 9 tensors"):
        hf_to_gguf(folder, tmp_path / "out.gguf")
    untied = write_folder(tmp_path / "untied", tie_word_embeddings=False)
    with pytest.raises(InvalidModel, match=r"lm_head\.weight"):
        hf_to_gguf(untied, tmp_path / "out.gguf")
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:50])
    with pytest.raises(InvalidModel, match="cannot be read"):
        hf_to_gguf(folder, tmp_path / "out.gguf")
    weights.unlink()
    with pytest.raises(InvalidModel, match="safetensors version"):
        hf_to_gguf(folder, tmp_path / "out.gguf")


def test_llama3_factors_keep_short_waves_and_stretch_long_ones() -> None:
    factors = llama3_factors(LLAMA3 | {"original_max_position_embeddings": 8192}, 128)
    assert factors.shape == (64,)
    assert factors[0] == 1.0
    assert factors[-1] == 8.0
    assert (np.diff(factors) >= 0).all()
    assert ((factors > 1) & (factors < 8)).any(), "those between are blended"


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_llama_cpp_computes_what_transformers_computes(tmp_path: Path, case: str) -> None:
    from tests.finetune.served import llama

    family, settings = CASES[case]
    folder = save_model(tmp_path / "model", family, **settings)
    wanted = hf_logits(folder, ids())
    for dtype, tolerance in (("f32", 1e-3 if family == "gemma3" else 5e-4), ("f16", 0.2)):
        with llama(hf_to_gguf(folder, tmp_path / f"{dtype}.gguf", dtype)) as served:
            np.testing.assert_allclose(served.logits(ids()), wanted, atol=tolerance)


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_transformers_trains_from_our_gguf(tmp_path: Path, case: str) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    family, settings = CASES[case]
    folder = save_model(tmp_path / "model", family, **settings)
    path = hf_to_gguf(folder, tmp_path / "model.gguf", "f32")
    config = AutoConfig.from_pretrained(tmp_path, gguf_file=path.name)
    for name, value in config_overrides(GgufFile(path)).items():
        setattr(config, name, value)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=path.name, config=config, dtype=torch.float32)
    tabulate_gelu(model)
    with torch.no_grad():
        found = model.eval()(torch.tensor([ids()])).logits[0].numpy()
    np.testing.assert_allclose(found, hf_logits(folder, ids()), atol=5e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "pre"),
    [("qwen2", "qwen2"), ("llama", "smollm"), ("llama", "llama-bpe"), ("gemma3", "sentencepiece")],
)
def test_llama_cpp_makes_the_tokens_that_transformers_makes(tmp_path: Path, family: str, pre: str) -> None:
    from tests.finetune.served import llama

    tokenizer = train_sentencepiece() if pre == "sentencepiece" else train_tokenizer(pre)
    path = hf_to_gguf(save_model(tmp_path / "model", family, tokenizer=tokenizer), tmp_path / "model.gguf")
    assert GgufFile(path).get("tokenizer.chat_template") == TEMPLATE
    with llama(path) as served:
        for markup in (True, False):
            tokenizer.encode_special_tokens = not markup
            for text in TEXTS:
                assert served.tokenize(text, special=markup) == tokenizer.encode(text, add_special_tokens=False).ids


@pytest.mark.slow
def test_a_sharded_bfloat16_model_converts(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    from tests.finetune.served import llama

    folder = save_model(tmp_path / "model", "qwen2", tie_word_embeddings=True)
    sharded = tmp_path / "sharded"
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(sharded, max_shard_size="50KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (sharded / name).write_bytes((folder / name).read_bytes())
    assert len(list(sharded.glob("model-*.safetensors"))) > 1
    with llama(hf_to_gguf(sharded, tmp_path / "model.gguf", "f32")) as served:
        np.testing.assert_allclose(served.logits(ids()), hf_logits(sharded, ids()), atol=5e-4)
