"""What Gemma 3 has that the Llama and Qwen families lack: its settings, in llama.cpp's words and back.

Most of its layers look back over a window and rotate by a base of their own; its norms are stored less one; queries
are scaled by a number of the configuration, where llama.cpp takes the head size. Knows nothing of files.
"""

from __future__ import annotations

from typing import Any

from data.errors import UnsupportedArchitecture
from finetune.gguf_tensors import GgufFile, Value

DEFAULTS: dict[str, Any] = {
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-6,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}
"""Of transformers' Gemma3TextConfig, whose config.json leaves out what is as by default."""

_GLOBAL_BASE, _LOCAL_BASE = 1_000_000.0, 10_000.0
_PATTERN = 6
"""One layer in so many sees everything: the default of both transformers and llama.cpp (src/models/gemma3.cpp)."""
_LAYERS_OF_27B = 62
"""llama.cpp tells the 27B model, whose queries are scaled otherwise, by its layers (src/models/gemma3.cpp)."""
_SLIDING, _FULL = "sliding_attention", "full_attention"


def refuse_what_differs(config: dict[str, Any]) -> None:
    """Refuse settings under which llama.cpp computes something else.

    Raises:
        UnsupportedArchitecture: naming the setting.
    """
    scale = _query_scale(int(config["num_hidden_layers"]), config)
    refused = {
        "hidden_activation": config["hidden_activation"] != "gelu_pytorch_tanh",
        "attention_bias": bool(config.get("attention_bias")),
        "attn_logit_softcapping": config.get("attn_logit_softcapping") is not None,
        "final_logit_softcapping": config.get("final_logit_softcapping") is not None,
        "use_bidirectional_attention": bool(config.get("use_bidirectional_attention")),
        "query_pre_attn_scalar": config["query_pre_attn_scalar"] != scale,
    }
    for setting, is_set in refused.items():
        if is_set:
            raise UnsupportedArchitecture(
                "A setting of this model cannot be converted", got=f"{setting} = {config[setting]}"
            )


def _query_scale(layers: int, config: dict[str, Any]) -> int:
    wide = config["hidden_size"] // config["num_attention_heads"]
    return int(wide if layers == _LAYERS_OF_27B else config["head_dim"])


def rope_parameters(config: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the position settings of both kinds of layers, in the words of transformers 5."""
    found = dict(config.get("rope_parameters") or {})
    whole = dict(found.get(_FULL) or config.get("rope_scaling") or {})
    whole["rope_type"] = whole.get("rope_type") or whole.pop("type", None) or "default"
    whole.setdefault("rope_theta", config.get("rope_theta", _GLOBAL_BASE))
    local = dict(found.get(_SLIDING) or {})
    local.setdefault("rope_type", "default")
    local.setdefault("rope_theta", config.get("rope_local_base_freq", _LOCAL_BASE))
    return {_FULL: whole, _SLIDING: local}


def window_metadata(config: dict[str, Any]) -> dict[str, Value]:
    """Return the keys, without the architecture, that say which layers look back how far.

    Raises:
        UnsupportedArchitecture: the layers with a window scale their positions.
    """
    layers = int(config["num_hidden_layers"])
    kinds = config.get("layer_types") or layer_types(layers, config.get("sliding_window_pattern", _PATTERN))
    if _SLIDING not in kinds:
        return {}
    local = rope_parameters(config)[_SLIDING]
    if local["rope_type"] != "default":
        raise UnsupportedArchitecture(
            "This scaling of positions cannot be converted", got=f"{local['rope_type']} in layers with a window"
        )
    found: dict[str, Value] = {
        "attention.sliding_window": int(config["sliding_window"]),
        "rope.freq_base_swa": float(local["rope_theta"]),
    }
    if kinds != layer_types(layers, _PATTERN):
        found["attention.sliding_window_pattern"] = [int(kind == _SLIDING) for kind in kinds]
    return found


def layer_types(layers: int, pattern: int) -> list[str]:
    """Return transformers' names of the layers' kinds where every ``pattern``-th layer sees everything."""
    return [_SLIDING if (i + 1) % pattern else _FULL for i in range(layers)]


def config_from_gguf(model: GgufFile, scaled: dict[str, Any] | None) -> dict[str, Any]:
    """Return the attributes of the configuration that transformers does not read from a Gemma 3 GGUF.

    Args:
        model: the file.
        scaled: ``rope_parameters`` of the layers that see everything, None where nothing is scaled.
    """
    layers = int(model.value("gemma3.block_count"))
    pattern = model.get("gemma3.attention.sliding_window_pattern")
    window = model.get("gemma3.attention.sliding_window")
    if isinstance(pattern, list):
        kinds = [_SLIDING if kind else _FULL for kind in pattern[:layers]]
    else:
        kinds = layer_types(layers, int(pattern or _PATTERN) if window else 1)
    heads, shared = model.attention_heads()
    whole = {"rope_type": "default", "rope_theta": float(model.get("gemma3.rope.freq_base") or _GLOBAL_BASE)}
    local = {"rope_type": "default", "rope_theta": float(model.get("gemma3.rope.freq_base_swa") or _LOCAL_BASE)}
    shape = {
        "hidden_size": int(model.value("gemma3.embedding_length")),
        "num_attention_heads": heads,
        "head_dim": int(model.value("gemma3.attention.key_length")),
    }
    return {
        "layer_types": kinds,
        "sliding_window": int(window or DEFAULTS["sliding_window"]),
        "num_key_value_heads": shared,
        "query_pre_attn_scalar": _query_scale(layers, shape),
        "rope_parameters": {_FULL: scaled or whole, _SLIDING: local},
        **shape,
    }


def is_stored_less_one(architecture: str, name: str) -> bool:
    """Tell whether a tensor is a norm that Hugging Face stores less one: Gemma 3 scales by 1 + weight."""
    return architecture == "gemma3" and name.endswith("norm.weight")
