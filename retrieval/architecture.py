"""Read from a model's configuration whether the encoder of this package computes it: BERT and its kin.

Imports no torch: the length of a vector is known without it. Knows nothing of weights.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_TYPES = {"bert": 0, "roberta": 1, "xlm-roberta": 1}
"""Kinds of models; 1 where positions count from the padding token's id + 1."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """What a folder's configuration says; ``first_position`` is the position of the first token."""

    dimension: int
    layers: int
    heads: int
    eps: float
    first_position: int
    max_tokens: int
    pooling: str
    pad: int


def supported(folder: Path) -> Architecture | None:
    """Return the architecture of the model in ``folder`` if this encoder computes it exactly, else None."""
    try:
        config, modules = _json(folder / "config.json"), _json(folder / "modules.json")
        limits, pooling = (
            _json(folder / "sentence_bert_config.json"),
            _json(folder / modules[1]["path"] / "config.json"),
        )
        kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
        modes = [
            name
            for name in ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens")
            if pooling.get(f"pooling_mode_{name}")
        ]
        first = _TYPES[config["model_type"]] * (int(config.get("pad_token_id") or 0) + 1)
        fits = (
            kinds in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"])
            and modes in (["cls_token"], ["mean_tokens"])
            and config.get("hidden_act", "gelu") == "gelu"
            and config.get("position_embedding_type", "absolute") == "absolute"
            and not limits.get("do_lower_case")
            and (folder / "model.safetensors").is_file()
        )
        longest = int(config["max_position_embeddings"]) - first
        return (
            Architecture(
                dimension=int(config["hidden_size"]),
                layers=int(config["num_hidden_layers"]),
                heads=int(config["num_attention_heads"]),
                eps=float(config["layer_norm_eps"]),
                first_position=first,
                max_tokens=min(int(limits["max_seq_length"] or longest), longest),
                pooling=modes[0].split("_")[0],
                pad=int(config.get("pad_token_id") or 0),
            )
            if fits
            else None
        )
    except (OSError, ValueError, KeyError, IndexError, TypeError):
        return None


def _json(path: Path) -> Any:
    return json.loads(path.read_bytes())
