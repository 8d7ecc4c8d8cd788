"""Gemma 3's own settings reach a GGUF or are refused; it trains through windows and is served as trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from data.errors import InvalidModel, UnsupportedArchitecture
from finetune.convert import hf_to_gguf
from finetune.gemma3 import layer_types, window_metadata
from finetune.gguf_tensors import GgufFile
from tests.finetune.test_convert import write_folder

SETTINGS = {
    "architectures": ["Gemma3ForCausalLM"], "num_hidden_layers": 2, "hidden_size": 8, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 4, "query_pre_attn_scalar": 4, "sliding_window": 16,
}  # fmt: skip


@pytest.mark.parametrize(
    "setting",
    [
        {"hidden_activation": "gelu"},
        {"attention_bias": True},
        {"attn_logit_softcapping": 50.0},
        {"final_logit_softcapping": 30.0},
        {"use_bidirectional_attention": True},
        {"query_pre_attn_scalar": 8},
        {"architectures": ["Gemma3ForConditionalGeneration"]},
        {"quantization_config": {"quant_method": "gptq"}},
        {"rope_parameters": {"sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_what_llama_cpp_computes_otherwise_is_refused(tmp_path: Path, setting: dict[str, Any]) -> None:
    folder = write_folder(tmp_path / "m", **{**SETTINGS, **setting})
    with pytest.raises(UnsupportedArchitecture) as caught:
        hf_to_gguf(folder, tmp_path / "out.gguf")
    assert "convert_hf_to_gguf.py" in caught.value.hint
    said = str(caught.value.got)
    assert next(iter(setting)) in said or "linear" in said or "ConditionalGeneration" in said


def test_a_missing_setting_and_a_missing_norm_are_named(tmp_path: Path) -> None:
    # The tensors of other families are there, as far as that goes: none.
    with pytest.raises(InvalidModel, match="lack 26 tensors"):
        hf_to_gguf(write_folder(tmp_path / "m", **SETTINGS), tmp_path / "out.gguf")
    settings = {key: value for key, value in SETTINGS.items() if key != "num_hidden_layers"}
    folder = write_folder(tmp_path / "n", **settings)
    config = json.loads((folder / "config.json").read_text())
    del config["num_hidden_layers"]
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(InvalidModel, match="num_hidden_layers"):
        hf_to_gguf(folder, tmp_path / "out.gguf")


def test_windows_are_told_as_llama_cpp_asks() -> None:
    base = {"num_hidden_layers": 8, "sliding_window": 512}
    usual = {"attention.sliding_window": 512, "rope.freq_base_swa": 10_000.0}
    assert window_metadata(base) == usual, "every sixth is llama.cpp's own default"
    assert window_metadata({**base, "layer_types": layer_types(8, 6)}) == usual
    every_other = window_metadata({**base, "sliding_window_pattern": 2, "rope_local_base_freq": 5e3})
    assert every_other["attention.sliding_window_pattern"] == [1, 0] * 4
    assert every_other["rope.freq_base_swa"] == 5e3
    assert window_metadata({**base, "layer_types": ["full_attention"] * 8}) == {}


@pytest.mark.slow
@pytest.mark.parametrize("from_gguf", [False, True], ids=["folder", "gguf"])
def test_it_trains_and_answers_in_llama_cpp_as_trained(tmp_path: Path, from_gguf: bool) -> None:
    from dataclasses import replace

    from data.records import Model
    from finetune.export import lora_to_gguf
    from finetune.parity import parity
    from finetune.train import train
    from finetune.weights import load_tokenizer
    from tests.finetune.houses import QUICK, examples, ignore, rows_for
    from tests.finetune.served import llama, score
    from tests.finetune.tiny import save_model

    folder = save_model(tmp_path / "model", "gemma3", max_position_embeddings=512)
    base = hf_to_gguf(folder, tmp_path / "base.gguf", "f32")
    weights = base if from_gguf else folder
    rows = rows_for(weights)
    window = int(GgufFile(base).value("gemma3.attention.sliding_window"))
    assert min(map(len, rows.rows)) > 2 * window, "else the windows would not be tried"
    model = Model("tiny", "tiny", str(base), str(weights), "0", "gemma3")
    result = train(replace(QUICK, attention="blockwise"), rows, model, tmp_path / "run", ignore)
    assert result.metrics["loss_last"] < 0.7 * result.metrics["loss_first"]
    adapter = lora_to_gguf(tmp_path / "run", base, tmp_path / "adapter.gguf")
    tokenizer = load_tokenizer(base)
    with llama(base, adapter) as served:
        found = parity(model, tmp_path / "run", examples(), lambda m, c: score(served, tokenizer, m, c))
    assert found["greedy_agreement"] == 1.0
    assert found["kl"] < 1e-4
