"""Load what training needs of a base model: its tokenizer and its weights, from a folder or a GGUF file.

The tokenizer yields llama.cpp's tokens, since that is what serves the result. Knows nothing of adapters.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, normalizers
from transformers import modeling_gguf_pytorch_utils

from data.errors import InvalidModel, RecipeInvalid
from finetune.gguf_config import config_overrides
from finetune.gguf_tensors import GgufFile
from finetune.vocabulary import tokenizer_from_gguf

# What transformers raises for a folder or file that it cannot read.
_UNREADABLE = (OSError, ValueError, KeyError, RuntimeError, NotImplementedError)


class SegmentTokenizer:
    """A model's tokenizer, one prompt segment at a time."""

    def __init__(self, backend: Tokenizer, template: str, bos_token: str, eos_token: str) -> None:
        # llama.cpp normalizes nothing, whatever tokenizer.json says; it only writes SentencePiece's blanks as "▁".
        if not isinstance(backend.normalizer, normalizers.Replace):
            backend.normalizer = None
        self._backend = backend
        self.template = template
        self.bos_token = bos_token
        self.eos_token = eos_token

    def encode(self, text: str, *, markup: bool) -> list[int]:
        """Tokenize one segment; only markup may become special tokens, and nothing is added."""
        self._backend.encode_special_tokens = not markup
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of tokens, special ones included."""
        return str(self._backend.decode(list(ids), skip_special_tokens=False))


def load_tokenizer(path: Path | str) -> SegmentTokenizer:
    """Load the tokenizer and chat template of a GGUF file or a Hugging Face folder.

    Raises:
        InvalidModel: the file or folder cannot be read, or has no chat template.
        UnsupportedArchitecture: a GGUF file whose tokenizer cannot be rebuilt.
    """
    path = Path(path)
    loaded = _folder_tokenizer(path) if path.is_dir() else _gguf_tokenizer(path)
    if not loaded.template:
        raise InvalidModel("The model has no chat template", got=path, hint="Use an instruction-tuned model.")
    return loaded


def _gguf_tokenizer(path: Path) -> SegmentTokenizer:
    model = GgufFile(path)
    tokens = model.value("tokenizer.ggml.tokens")

    def named(kind: str) -> str:
        number = model.get(f"tokenizer.ggml.{kind}_token_id")
        return "" if number is None else str(tokens[int(number)])

    template = str(model.get("tokenizer.chat_template") or "")
    return SegmentTokenizer(tokenizer_from_gguf(model), template, named("bos"), named("eos"))


def _folder_tokenizer(path: Path) -> SegmentTokenizer:
    try:
        found = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
        backend: Tokenizer = found.backend_tokenizer
    except (*_UNREADABLE, AttributeError) as error:
        raise InvalidModel(f"The model folder has no readable fast tokenizer: {error}", got=path) from error
    template = found.chat_template
    template = template.get("default", "") if isinstance(template, dict) else template
    return SegmentTokenizer(backend, template or "", found.bos_token or "", found.eos_token or "")


def training_device() -> torch.device:
    """Return the first CUDA device where there is one, else the CPU."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def training_dtype(device: torch.device) -> torch.dtype:
    """Return bfloat16 where the device multiplies it natively, else float32."""
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    capabilities = torch.cpu.get_capabilities()
    return torch.bfloat16 if capabilities.get("avx512_bf16") or capabilities.get("amx_bf16") else torch.float32


def load_model(
    path: Path | str, *, device: torch.device, dtype: torch.dtype, qlora: bool = False, attention: str = "sdpa"
) -> Any:
    """Load a causal language model with frozen weights, a GGUF file dequantized to ``dtype``.

    Args:
        path: a Hugging Face folder or a GGUF file.
        device: where the weights go.
        dtype: of the weights.
        qlora: load the linear layers in 4 bits (NF4, double quantization).
        attention: name of an attention function that transformers knows.

    Raises:
        InvalidModel: the file or folder cannot be read.
        RecipeInvalid: 4 bits were asked for without CUDA, without bitsandbytes or of a GGUF file.
    """
    path = Path(path)
    transformers.utils.logging.disable_progress_bar()
    settings: dict[str, Any] = {"dtype": dtype, "attn_implementation": attention, "local_files_only": True}
    if qlora:
        settings["quantization_config"] = _four_bits(path, device, dtype)
        settings["device_map"] = {"": device}
    try:
        if path.is_dir():
            model = transformers.AutoModelForCausalLM.from_pretrained(path, **settings)
        else:
            model = _dequantized(path, settings)
    except _UNREADABLE as error:
        raise InvalidModel(f"The model's weights cannot be loaded for training: {error}", got=path) from error
    model.requires_grad_(False)
    model.config.use_cache = False
    return model if qlora else model.to(device)


def _dequantized(path: Path, settings: dict[str, Any]) -> Any:
    # Its bar asks tqdm itself, so that transformers' own switch does not reach it.
    modeling_gguf_pytorch_utils.tqdm = lambda tensors, **_settings: tensors
    overrides = config_overrides(GgufFile(path))
    config = transformers.AutoConfig.from_pretrained(path.parent, gguf_file=path.name, local_files_only=True)
    for name, value in overrides.items():
        setattr(config, name, value)
    # By default transformers leaves the weights packed and unpacks them in every forward pass.
    dense = transformers.GgufConfig(dequantize=True)
    return transformers.AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, config=config, quantization_config=dense, **settings
    )


def check_four_bits(path: Path | str, device: torch.device) -> None:
    """Refuse to load a model in 4 bits where that cannot be.

    Raises:
        RecipeInvalid: the device is no CUDA GPU, or the model is a GGUF file.
    """
    if device.type != "cuda":
        raise RecipeInvalid(
            "qlora needs a CUDA GPU",
            got=device.type,
            wanted="qlora = false",
            hint="Plain LoRA trains on the CPU; ragtune bundle colab (or kaggle, …) takes the training to a GPU.",
        )
    if not Path(path).is_dir():
        raise RecipeInvalid(
            "qlora needs the model's Hugging Face folder", got=path, hint="A GGUF file is dequantized: use plain LoRA."
        )


def _four_bits(path: Path, device: torch.device, dtype: torch.dtype) -> Any:
    check_four_bits(path, device)
    try:
        return transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    except ImportError as error:
        raise RecipeInvalid("qlora needs bitsandbytes", hint="Install it: pip install bitsandbytes.") from error
