"""Merge an adapter into its base model through peft, as a Hugging Face folder.

The way out for adapters that no GGUF adapter can express (rsLoRA, DoRA), and to other servers; the
folder converts to GGUF like any other. Knows nothing of GGUF adapters.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from data.records import Model
from data.state import map_os_error
from finetune import lora
from finetune.gguf_tensors import GgufFile
from finetune.vocabulary import tokenizer_from_gguf
from finetune.weights import load_model, load_tokenizer

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")


def merge_to_folder(adapter_dir: Path | str, model: Model, out: Path | str, dtype: torch.dtype = torch.float32) -> Path:
    """Write the base model with the adapter's update in its weights, tokenizer included.

    Args:
        adapter_dir: the peft adapter's folder.
        model: the base model; ``model.weights`` is a folder or a GGUF file, which is dequantized.
        out: the folder to write; it appears complete or not at all, and must not exist yet.
        dtype: of the merged weights, which must fit into memory.

    Raises:
        InvalidModel: the adapter or the model cannot be read.
        BaseModelMismatch: the adapter does not fit the model.
        StateError: ``out`` exists or cannot be written.
    """
    out, weights = Path(out), Path(model.weights)
    base = load_model(weights, device=torch.device("cpu"), dtype=dtype)
    merged = lora.load_adapter(base, adapter_dir).merge_and_unload()
    # A GGUF base says here that it is packed, which the merged weights no longer are.
    for leftover in ("quantization_config", "_pre_quantization_dtype"):
        merged.config.__dict__.pop(leftover, None)
    try:
        with tempfile.TemporaryDirectory(prefix=f".{out.name}.", dir=out.parent) as working:
            partial = Path(working) / "model"
            merged.save_pretrained(partial)
            _write_tokenizer(weights, partial)
            partial.rename(out)
    except OSError as error:
        raise map_os_error(error, out) from error
    return out


def _write_tokenizer(weights: Path, folder: Path) -> None:
    if weights.is_dir():
        for name in _TOKENIZER_FILES:
            if (weights / name).is_file():
                shutil.copyfile(weights / name, folder / name)
        return
    loaded = load_tokenizer(weights)
    tokenizer_from_gguf(GgufFile(weights)).save(str(folder / "tokenizer.json"))
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": loaded.bos_token or None,
        "eos_token": loaded.eos_token or None,
        "chat_template": loaded.template,
        "add_bos_token": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, ensure_ascii=False, indent=2), encoding="utf-8")
