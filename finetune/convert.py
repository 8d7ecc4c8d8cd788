"""Convert a Hugging Face model folder (Llama, Mistral, Qwen2, Qwen3, Gemma 3) to GGUF.

What cannot be carried over exactly (sliding windows, partial rotary embeddings, unknown position scaling,
quantized weights) is refused by name. Knows nothing of quantizing, which is llama.cpp's, nor of adapters.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import InvalidModel, UnsupportedArchitecture
from finetune import gemma3
from finetune.gguf_tensors import (
    Dtype,
    LazyTensor,
    Value,
    heads_to_permute,
    permute_rows,
    tensor_name,
    write_gguf,
)
from finetune.vocabulary import load_json, tokenizer_metadata

ARCHITECTURES = {
    "LlamaForCausalLM": "llama",
    "MistralForCausalLM": "llama",
    "Qwen2ForCausalLM": "qwen2",
    "Qwen3ForCausalLM": "qwen3",
    "Gemma3ForCausalLM": "gemma3",
}
"""Hugging Face class -> llama.cpp architecture."""

# Qwen3Config's default; the other families derive it from hidden_size.
_QWEN3_HEAD_DIM = 128


def hf_to_gguf(folder: Path | str, out: Path | str, dtype: Dtype = "f16") -> Path:
    """Convert a Hugging Face folder (config.json, tokenizer.json, *.safetensors) to a GGUF file.

    Args:
        folder: the model folder.
        out: the GGUF file; it appears complete or not at all.
        dtype: type of the matrices. bfloat16 keeps every weight of a bfloat16 model, float16 is served faster.

    Raises:
        UnsupportedArchitecture: the family, the tokenizer or a setting of it cannot be converted exactly; the hint
            is llama.cpp's own command for it.
        InvalidModel: a file is missing or damaged, or tensors do not fit the configuration.
        InsufficientStorage: the disk is full.
    """
    folder, out = Path(folder), Path(out)
    try:
        return _convert(folder, out, dtype)
    except UnsupportedArchitecture as error:
        error.hint = upstream_command(folder)
        raise


def upstream_command(folder: Path) -> str:
    """Return how llama.cpp's own script, which knows all families, converts ``folder``."""
    file = f"{folder.resolve().name}.gguf"
    convert = ["python", "convert_hf_to_gguf.py", str(folder), "--outtype", "f16", "--outfile", file]
    return f"Convert it with llama.cpp: {shlex.join(convert)}; then: {shlex.join(['ragtune', 'models', 'add', file])}"


def _convert(folder: Path, out: Path, dtype: Dtype) -> Path:
    config = load_json(folder / "config.json")
    architecture = _architecture(config)
    if architecture == "gemma3":
        config = {**gemma3.DEFAULTS, **config}
    _refuse_what_differs(config, architecture)
    weights = _open_weights(folder)
    embeddings = weights.get("model.embed_tokens.weight")
    if embeddings is None:
        raise InvalidModel("The weights hold no embeddings", got=folder, wanted="model.embed_tokens.weight")
    metadata: dict[str, Value] = {
        "general.type": "model",
        "general.name": folder.resolve().name,
        **_hyperparameters(config, architecture, embeddings[0][0]),
        **tokenizer_metadata(folder, embeddings[0][0], config),
    }
    write_gguf(out, architecture, metadata, _tensors(config, architecture, weights), dtype)
    return out


def _architecture(config: dict[str, Any]) -> str:
    names = config.get("architectures") or []
    architecture = next((ARCHITECTURES[name] for name in names if name in ARCHITECTURES), None)
    if architecture is None:
        raise UnsupportedArchitecture(
            "This model family cannot be converted here",
            got=", ".join(names) or config.get("model_type"),
            wanted=", ".join(ARCHITECTURES),
        )
    return architecture


def _refuse_what_differs(config: dict[str, Any], architecture: str) -> None:
    if "quantization_config" in config:
        raise UnsupportedArchitecture(
            "A setting of this model cannot be converted", got=f"quantization_config = {config['quantization_config']}"
        )
    if architecture == "gemma3":
        return  # _hyperparameters asks gemma3
    context = config.get("max_position_embeddings", math.inf)
    windowed = config.get("use_sliding_window", "MistralForCausalLM" in config["architectures"])
    refused = {
        "sliding_window": bool(windowed) and (config.get("sliding_window") or math.inf) < context,
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "partial_rotary_factor": config.get("partial_rotary_factor", 1.0) != 1.0,
    }
    for setting, is_set in refused.items():
        if is_set:
            raise UnsupportedArchitecture(
                "A setting of this model cannot be converted",
                got=f"{setting} = {config[setting]}",
            )


def _head_dim(config: dict[str, Any], architecture: str) -> int:
    default = _QWEN3_HEAD_DIM if architecture == "qwen3" else config["hidden_size"] // config["num_attention_heads"]
    return int(config.get("head_dim") or default)


def _hyperparameters(config: dict[str, Any], architecture: str, n_vocab: int) -> dict[str, Value]:
    try:
        if architecture == "gemma3":
            gemma3.refuse_what_differs(config)
        head_dim = _head_dim(config, architecture)
        values: dict[str, Value] = {
            "block_count": int(config["num_hidden_layers"]),
            "context_length": int(config["max_position_embeddings"]),
            "embedding_length": int(config["hidden_size"]),
            "feed_forward_length": int(config["intermediate_size"]),
            "attention.head_count": int(config["num_attention_heads"]),
            "attention.head_count_kv": _kv_heads(config),
            "attention.key_length": head_dim,
            "attention.value_length": head_dim,
            "attention.layer_norm_rms_epsilon": float(config.get("rms_norm_eps", 1e-6)),
            "rope.dimension_count": head_dim,
            "vocab_size": n_vocab,
            **_rope(_rope_parameters(config, architecture), config["max_position_embeddings"]),
            **(gemma3.window_metadata(config) if architecture == "gemma3" else {}),
        }
    except KeyError as error:
        raise InvalidModel("config.json lacks a setting", wanted=str(error.args[0])) from error
    return {f"{architecture}.{key}": value for key, value in values.items()}


def _kv_heads(config: dict[str, Any]) -> int:
    return int(config.get("num_key_value_heads") or config["num_attention_heads"])


def _rope_parameters(config: dict[str, Any], architecture: str) -> dict[str, Any]:
    """Return the position settings, in the words of transformers 5, of a config.json of any age."""
    if architecture == "gemma3":
        return gemma3.rope_parameters(config)["full_attention"]
    found = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    found.setdefault("rope_theta", config.get("rope_theta", 10000.0))
    found["rope_type"] = found.get("rope_type") or found.pop("type", None) or "default"
    return found


def _rope(parameters: dict[str, Any], context: int) -> dict[str, Value]:
    kind = parameters["rope_type"]
    values: dict[str, Value] = {"rope.freq_base": float(parameters["rope_theta"])}
    if kind in {"linear", "yarn"}:
        values["rope.scaling.type"] = kind
        values["rope.scaling.factor"] = float(parameters["factor"])
    if kind == "yarn":
        original = parameters.get("original_max_position_embeddings") or context
        values["rope.scaling.original_context_length"] = int(original)
    known = ("default", "linear", "llama3", "yarn")
    extra = set(parameters) & {"beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate"}
    if kind not in known or (kind == "yarn" and extra):
        raise UnsupportedArchitecture(
            "This scaling of positions cannot be converted",
            got=", ".join([kind, *sorted(extra)]),
            wanted=", ".join(known),
        )
    return values


def llama3_factors(parameters: dict[str, Any], head_dim: int) -> NDArray[np.float32]:
    """Return what llama.cpp divides each rotary frequency by in Llama 3.1's scaling; shape (head_dim / 2,).

    The formula is that of transformers' ``_compute_llama3_parameters``: long waves are stretched by
    ``factor``, short ones kept, those between are blended.
    """
    frequencies = 1.0 / parameters["rope_theta"] ** (np.arange(0, head_dim, 2, dtype=np.float64) / head_dim)
    waves = 2 * math.pi / frequencies
    factor, context = parameters["factor"], parameters["original_max_position_embeddings"]
    low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
    blend = np.clip((context / waves - low) / (high - low), 0.0, 1.0)
    return np.asarray(1.0 / ((1.0 - blend) / factor + blend), dtype=np.float32)


Weights = dict[str, tuple[tuple[int, ...], Callable[[], NDArray[np.float32]]]]
"""Name -> (shape, loader)."""


def _open_weights(folder: Path) -> Weights:
    from safetensors import SafetensorError, safe_open

    files = sorted(folder.glob("model*.safetensors"))
    if not files:
        raise InvalidModel(
            "The model folder holds no model*.safetensors",
            got=folder,
            hint="Weights in pickle files (.bin, .pt) are never loaded; get the safetensors version.",
        )
    weights: Weights = {}
    for file in files:
        try:
            # Torch's view, because numpy has no bfloat16; the file is memory-mapped.
            opened: Any = safe_open(file, framework="pt")
            for name in opened.keys():  # noqa: SIM118 -- not a mapping
                shape = tuple(opened.get_slice(name).get_shape())
                weights[name] = (shape, partial(_load, opened, name))
        except (SafetensorError, OSError) as error:
            raise InvalidModel(f"The weights cannot be read: {error}", got=file) from error
    return weights


def _load(opened: Any, name: str) -> NDArray[np.float32]:
    return np.asarray(opened.get_tensor(name).float().numpy(), dtype=np.float32)


def _tensors(config: dict[str, Any], architecture: str, weights: Weights) -> list[LazyTensor]:
    tied = bool(config.get("tie_word_embeddings", False))
    if not tied and "lm_head.weight" not in weights:
        raise InvalidModel("The weights hold no output projection", wanted="lm_head.weight, or tied embeddings")
    n_head, n_head_kv = int(config["num_attention_heads"]), _kv_heads(config)
    tensors: list[LazyTensor] = []
    for name, (shape, load) in weights.items():
        module, _, suffix = name.rpartition(".")
        target = tensor_name(module, architecture)
        if (tied and module == "lm_head") or name.endswith("rotary_emb.inv_freq"):
            continue
        if target is None or suffix not in {"weight", "bias"}:
            raise UnsupportedArchitecture("The model has a tensor that llama.cpp's family lacks", got=name)
        if heads := heads_to_permute(architecture, target, n_head, n_head_kv):
            load = partial(_permuted, load, heads)  # noqa: PLW2901
        elif gemma3.is_stored_less_one(architecture, name):
            load = partial(_one_more, load)  # noqa: PLW2901
        tensors.append(LazyTensor(f"{target}.{suffix}", shape, load))
    parameters = _rope_parameters(config, architecture)
    if parameters["rope_type"] == "llama3":
        factors = llama3_factors(parameters, _head_dim(config, architecture))
        tensors.append(LazyTensor("rope_freqs.weight", factors.shape, lambda: factors))
    _check_layers(config, architecture, {tensor.name for tensor in tensors})
    return tensors


def _permuted(load: Callable[[], NDArray[np.float32]], heads: int) -> NDArray[np.float32]:
    return permute_rows(load(), heads)


def _one_more(load: Callable[[], NDArray[np.float32]]) -> NDArray[np.float32]:
    return load() + np.float32(1)


_LAYER_TENSORS = (
    "attn_norm", "ffn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down",
)  # fmt: skip
_HEAD_NORMS = ("attn_q_norm", "attn_k_norm")
_MORE_LAYER_TENSORS = {"qwen3": _HEAD_NORMS, "gemma3": (*_HEAD_NORMS, "post_attention_norm", "post_ffw_norm")}


def _check_layers(config: dict[str, Any], architecture: str, names: set[str]) -> None:
    kinds = (*_LAYER_TENSORS, *_MORE_LAYER_TENSORS.get(architecture, ()))
    wanted = {f"blk.{i}.{kind}.weight" for i in range(int(config["num_hidden_layers"])) for kind in kinds}
    if missing := sorted(wanted - names):
        raise InvalidModel(
            f"The weights lack {len(missing)} tensors",
            got=missing[0],
            hint="A shard of the model may be missing: get the folder again.",
        )
