"""Write a LoRA as a GGUF adapter that llama.cpp applies to the GGUF of its base model.

llama.cpp scales a LoRA by alpha / r: rsLoRA's alpha / sqrt(r) is written as an alpha that gives the same factor. An
adapter that llama.cpp would apply wrongly without a word (DoRA's magnitudes, PiSSA's changed base, trained biases or
embeddings) is refused. Knows nothing of how it was trained.
"""

from __future__ import annotations

import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from data.errors import BaseModelMismatch, InvalidModel, UnsupportedArchitecture
from finetune.gguf_tensors import (
    FAMILIES,
    Dtype,
    GgufFile,
    LazyTensor,
    Value,
    heads_to_permute,
    permute_rows,
    tensor_name,
    write_gguf,
)
from finetune.vocabulary import load_json

_KEY = re.compile(r"base_model\.model\.(?P<module>.+)\.lora_(?:(?P<side>[AB])\.weight|(?P<magnitude>magnitude_vector))")
_LINEAR = "LoRA or rsLoRA on linear layers"
_UNKNOWN_TO_GGUF = (
    "modules_to_save",
    "alpha_pattern",
    "fan_in_fan_out",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "alora_invocation_tokens",
    "trainable_token_indices",
    "layer_replication",
    "arrow_config",
)
"""Settings of peft's LoraConfig under which the model does not compute W + alpha / r * B @ A everywhere."""
_CHANGES_THE_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")
"""Values of peft's init_lora_weights under which an unconverted adapter belongs to a base with other weights."""
_LARGEST = 1_000_000
"""Of a rank and of alpha; a layer has fewer inputs, and what is no number compares with nothing."""
_PLAIN = "Train a LoRA or rsLoRA: no DoRA, trained biases or extra modules."
_MERGE = (
    "A DoRA is served merged into its base: ragtune export NAME --merge --quantize q8_0, then ragtune models add FILE."
)
_CONVERT = "Save it as an ordinary LoRA: peft's save_pretrained with path_initial_model_for_weight_conversion."

Pairs = dict[str, dict[str, NDArray[Any]]]
"""GGUF tensor -> {"A": (r, in), "B": (out, r)}, of a DoRA also "magnitude": (out,)."""


def lora_to_gguf(
    adapter_dir: Path | str, base_gguf: Path | str, out: Path | str, dtype: Dtype = "f32", *, pad_rank: bool = True
) -> Path:
    """Convert a peft LoRA (adapter_config.json, adapter_model.safetensors) to a GGUF adapter.

    Args:
        adapter_dir: the adapter's folder.
        base_gguf: the GGUF of its base model, of any quantization; names, shapes and heads come from it.
        out: the GGUF adapter; it appears complete or not at all.
        dtype: float32 by default: with float16 llama.cpp rounds the layer's input to float16 as well, and is
            slower on a CPU (starter, r=8, 256 tokens, Q8_0: 0.85 s bare, 1.09 s with float32, 1.21 s with float16).
        pad_rank: a rank that is a multiple of four gets a row of zeros more, so that a text is the same beside others.

    Raises:
        InvalidModel: the adapter is damaged, or of a kind that GGUF cannot express.
        BaseModelMismatch: the adapter does not fit the base model's tensors.
        UnsupportedArchitecture: the base model's family is not one whose tensors are known.
        InsufficientStorage: the disk is full.
    """
    adapter_dir, out = Path(adapter_dir), Path(out)
    config = read_config(adapter_dir)
    if config.get("use_dora"):
        raise InvalidModel(
            "The adapter uses what a GGUF adapter cannot express", got="use_dora = True", wanted=_LINEAR, hint=_MERGE
        )
    base = GgufFile(base_gguf)
    pairs, alpha = read_pairs(adapter_dir, base), _alpha(config)
    tensors: list[LazyTensor] = []
    for name, pair in pairs.items():
        a, b = pair["A"], pair["B"] * _rank_factor(config, pair)
        for side, values in zip(("lora_a", "lora_b"), _padded(a, b) if pad_rank else (a, b), strict=True):
            tensors.append(LazyTensor(f"{name}.weight.{side}", values.shape, partial(np.asarray, values)))
    metadata: dict[str, Value] = {
        "general.type": "adapter",
        "adapter.type": "lora",
        # llama.cpp scales by alpha / rank, the rank being that of each tensor, as peft does.
        "adapter.lora.alpha": alpha,
    }
    write_gguf(out, base.architecture, metadata, tensors, dtype, file_type=False)
    return out


def _padded(a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return A and B at a rank that is no multiple of four, their product times alpha / rank as before.

    llama.cpp multiplies a float32 matrix whose rows are a multiple of four with two columns or more by another kernel
    than with one (``ggml-cpu/llamafile/sgemm.cpp``: ``n < 2``, ``m % 4``), which adds in another order: a text written
    beside others of its adapter would differ in the last bits, and then in words, from the same text alone.
    """
    rank = a.shape[0]
    if rank % 4:
        return a, b
    return np.pad(a, ((0, 1), (0, 0))), np.pad(b * np.float32((rank + 1) / rank), ((0, 0), (0, 1)))


def is_dora(adapter_dir: Path | str) -> bool:
    """Tell whether a peft adapter has magnitudes, which no GGUF adapter can say: it is served merged."""
    return bool(load_json(Path(adapter_dir) / "adapter_config.json").get("use_dora"))


def read_config(adapter_dir: Path) -> dict[str, Any]:
    """Return adapter_config.json of a LoRA or DoRA that is nothing else besides.

    Raises:
        InvalidModel: it cannot be read, or says what neither a GGUF adapter nor a merged model would hold.
    """
    config = load_json(adapter_dir / "adapter_config.json")
    kind = str(config.get("peft_type", "LORA")).upper()
    initial = config.get("init_lora_weights")
    refused = {
        "peft_type": kind if kind != "LORA" else None,
        "bias": config.get("bias") if config.get("bias", "none") != "none" else None,
        "init_lora_weights": initial if str(initial).lower().startswith(_CHANGES_THE_BASE) else None,
        **{setting: config.get(setting) for setting in _UNKNOWN_TO_GGUF},
    }
    found = {setting: value for setting, value in refused.items() if value}
    if found:
        raise InvalidModel(
            "The adapter uses what a GGUF adapter cannot express",
            got=", ".join(f"{setting} = {value}" for setting, value in found.items()),
            wanted=_LINEAR,
            hint=_CONVERT if list(found) == ["init_lora_weights"] else _PLAIN,
        )
    for setting in ("lora_alpha", "r") if config.get("use_rslora") else ("lora_alpha",):
        number = config.get(setting)
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 < number < _LARGEST:
            raise InvalidModel(
                "adapter_config.json lacks a number", got=number, wanted=f"{setting} above 0 and below {_LARGEST}"
            )
    return config


def _alpha(config: dict[str, Any]) -> float:
    """Return the alpha with which alpha / r is the factor that peft applies at rank ``r``.

    rsLoRA's factor is lora_alpha / sqrt(r) (Kalajdzievski, 2023, arXiv:2312.03732), which is lora_alpha * sqrt(r) / r.
    """
    alpha = float(config["lora_alpha"])
    return alpha * math.sqrt(config["r"]) if config.get("use_rslora") else alpha


def _rank_factor(config: dict[str, Any], pair: dict[str, NDArray[Any]]) -> np.float32:
    """Return what B is multiplied by where rsLoRA and a rank of its own meet: one alpha cannot say all ranks' roots."""
    rank = pair["A"].shape[0]
    return np.float32(math.sqrt(rank / config["r"]) if config.get("use_rslora") else 1)


def scale(config: dict[str, Any], pair: dict[str, NDArray[Any]]) -> float:
    """Return what peft multiplies B @ A by, at the rank of this pair."""
    rank = pair["A"].shape[0]
    return float(config["lora_alpha"]) / (math.sqrt(rank) if config.get("use_rslora") else rank)


def read_pairs(adapter_dir: Path, base: GgufFile) -> Pairs:
    """Return an adapter's tensors in float32, their rows in the order of ``base``.

    Raises:
        InvalidModel: the file is damaged, or changes what is no linear layer of a block.
        BaseModelMismatch: they do not fit the base model's tensors.
        UnsupportedArchitecture: the base model's family is not one whose tensors are known.
    """
    if base.architecture not in FAMILIES:
        raise UnsupportedArchitecture(
            "Adapters of this model family cannot be exported", got=base.architecture, wanted=", ".join(FAMILIES)
        )
    pairs = _load_pairs(adapter_dir / "adapter_model.safetensors")
    n_head, n_head_kv = base.attention_heads()
    for name, pair in pairs.items():
        _check_fit(name, pair, base)
        if heads := heads_to_permute(base.architecture, name, n_head, n_head_kv):
            # The update is B @ A: reordering the rows of B reorders the rows of the update.
            for part in set(pair) - {"A"}:
                pair[part] = permute_rows(pair[part], heads)
    return pairs


def _load_pairs(path: Path) -> Pairs:
    try:
        tensors = load_file(path)
    except (SafetensorError, OSError, KeyError) as error:  # KeyError: numbers of a type that NumPy does not have
        raise InvalidModel(f"The adapter's weights cannot be read: {error}", got=path) from error
    pairs: Pairs = {}
    for key, values in tensors.items():
        found = _KEY.fullmatch(key)
        name = tensor_name(found["module"]) if found else None
        if found is None or name is None:
            raise InvalidModel(
                "The adapter changes a tensor that a GGUF adapter cannot",
                got=key,
                wanted="lora_A and lora_B of attention and feed-forward projections",
                hint=_PLAIN,
            )
        if not np.isfinite(values).all():
            raise InvalidModel("The adapter holds weights that are no numbers", got=key, hint="Train it again.")
        pairs.setdefault(name, {})[found["side"] or "magnitude"] = values.astype(np.float32)
    if not pairs:
        raise InvalidModel("The adapter holds no tensors", got=path)
    return dict(sorted(pairs.items()))


def _check_fit(name: str, pair: dict[str, NDArray[Any]], base: GgufFile) -> None:
    sides = [pair.get(side) for side in "AB"]
    if any(side is None or side.ndim != 2 for side in sides) or pair["A"].shape[0] != pair["B"].shape[1]:
        shapes = {side: values.shape for side, values in pair.items()}
        raise InvalidModel("The adapter's A and B do not belong together", got=f"{name}: {shapes}")
    update = (pair["B"].shape[0], pair["A"].shape[1])
    wanted = base.shapes.get(f"{name}.weight")
    if update != wanted:
        raise BaseModelMismatch(
            "The adapter was trained for another base model",
            got=f"{name} of shape {update}",
            wanted=f"{base.path.name} has {'no such tensor' if wanted is None else wanted}",
            hint="Serve the model the adapter was trained on, or train the adapter on this one.",
        )
