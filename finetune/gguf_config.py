"""Name what transformers leaves out of a configuration that it reads from a GGUF file.

Without these a model loads without complaint and computes something else than the served one. Knows
nothing of how a model is loaded: the caller sets them on the configuration before the weights are read.
"""

from __future__ import annotations

from typing import Any

from data.errors import UnsupportedArchitecture
from finetune import gemma3
from finetune.gguf_tensors import GgufFile

_BIASES = {"attention_bias": "blk.0.attn_q.bias", "mlp_bias": "blk.0.ffn_up.bias"}


def config_overrides(model: GgufFile) -> dict[str, Any]:
    """Return the attributes to set on the configuration that transformers reads from ``model``.

    transformers 5.23 drops every scaling of positions, the head size of Qwen3, the biases of Llama, and of Gemma 3
    which layers look how far back, their rotary base and the scale of queries.

    Raises:
        UnsupportedArchitecture: the file scales positions in a way that is not known.
        InvalidModel: the file lacks a key that belongs to its scaling.
    """
    if model.architecture == "gemma3":
        return gemma3.config_from_gguf(model, _rope_parameters(model))
    overrides: dict[str, Any] = {}
    head_dim = model.get(f"{model.architecture}.attention.key_length")
    if head_dim is not None:
        overrides["head_dim"] = int(head_dim)
    # Qwen2 always has its biases: its configuration knows no switch for them.
    if model.architecture != "qwen2":
        overrides |= {switch: True for switch, tensor in _BIASES.items() if tensor in model.shapes}
    rope = _rope_parameters(model)
    if rope is not None:
        overrides["rope_parameters"] = rope
    return overrides


def _rope_parameters(model: GgufFile) -> dict[str, Any] | None:
    prefix = f"{model.architecture}.rope"
    theta = float(model.get(f"{prefix}.freq_base") or 10000.0)
    context = int(model.value(f"{model.architecture}.context_length"))
    if "rope_freqs.weight" in model.shapes:
        # Llama 3.1. "longrope" divides each frequency by a given factor: what llama.cpp does with this tensor.
        factors = [float(factor) for factor in model.tensor("rope_freqs.weight")]
        return {
            "rope_type": "longrope", "rope_theta": theta, "short_factor": factors, "long_factor": factors,
            "factor": 1.0, "attention_factor": 1.0, "original_max_position_embeddings": context,
        }  # fmt: skip
    kind = model.get(f"{prefix}.scaling.type")
    if kind in {None, "none"}:
        return None
    scaled = {"rope_type": kind, "rope_theta": theta, "factor": float(model.value(f"{prefix}.scaling.factor"))}
    if kind == "linear":
        return scaled
    if kind == "yarn":
        original = model.value(f"{prefix}.scaling.original_context_length")
        return {**scaled, "original_max_position_embeddings": int(original)}
    raise UnsupportedArchitecture(
        "The GGUF file scales positions in a way that training does not know",
        got=kind,
        wanted="none, linear or yarn",
        hint="Train from the Hugging Face folder of this model instead of its GGUF file.",
    )
