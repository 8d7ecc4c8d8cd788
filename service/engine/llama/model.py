"""A GGUF model in llama.cpp, and the LoRA adapters loaded beside it.

Typed wrappers with llama.cpp's own words; knows nothing of requests, prompts or sockets.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp

from data.errors import InvalidModel, InvalidRequest, UnsupportedArchitecture
from service.engine.llama.backend import check_magic, clear_log, load_error, log_tail

_NORM, _NEOX = 0, 2  # enum llama_rope_type in llama.h


@dataclass(frozen=True, slots=True)
class Rope:
    """How a model turns the keys of a position: ``dimensions`` of each head, in pairs, by ``base``.

    ``neighbours``: a pair is two neighbouring numbers (Llama); otherwise one from each half (NeoX, Qwen).
    """

    base: float
    dimensions: int
    neighbours: bool


class LlamaModel:
    """A loaded GGUF model, or its vocabulary alone."""

    def __init__(self, path: Path, *, vocab_only: bool = False, repack: bool = True) -> None:
        """Load ``path``; ``repack`` lays the weights out for this CPU, which is faster.

        Raises:
            InvalidModel: the file is not a GGUF, truncated or damaged.
            UnsupportedArchitecture: llama.cpp does not know the architecture, or it cannot generate.
        """
        check_magic(path)
        parameters = llama_cpp.llama_model_default_params()
        parameters.vocab_only = vocab_only
        parameters.use_extra_bufts = repack
        clear_log()
        self.path = path
        self.handle = llama_cpp.llama_model_load_from_file(os.fsencode(path), parameters)
        if not self.handle:
            raise load_error(path)
        self._vocab = llama_cpp.llama_model_get_vocab(self.handle)
        if not llama_cpp.llama_model_has_decoder(self.handle) or llama_cpp.llama_model_has_encoder(self.handle):
            raise UnsupportedArchitecture(
                f"{path.name} is not a decoder-only language model",
                got=self.architecture,
                wanted="a model that generates text by itself (llama, qwen2, qwen3 …)",
            )

    def free(self) -> None:
        """Release the memory; no context or adapter of it may be left."""
        llama_cpp.llama_model_free(self.handle)

    @property
    def vocab(self) -> Any:
        """The handle of the vocabulary."""
        return self._vocab

    @property
    def n_vocab(self) -> int:
        """Number of tokens in the vocabulary."""
        return int(llama_cpp.llama_vocab_n_tokens(self._vocab))

    @property
    def n_ctx_train(self) -> int:
        """Length of the context the model was trained on, in tokens."""
        return int(llama_cpp.llama_model_n_ctx_train(self.handle))

    @property
    def n_params(self) -> int:
        """Number of weights (0 if only the vocabulary is loaded)."""
        return int(llama_cpp.llama_model_n_params(self.handle))

    @property
    def architecture(self) -> str:
        """The GGUF's ``general.architecture``."""
        return self.meta("general.architecture")

    @property
    def template(self) -> str:
        """The model's own chat template, "" if it has none."""
        raw = llama_cpp.llama_model_chat_template(self.handle, None)
        return raw.decode(errors="replace") if raw else ""

    @property
    def bos(self) -> int:
        """The token that begins a text, -1 if there is none."""
        return int(llama_cpp.llama_vocab_bos(self._vocab))

    @property
    def eos(self) -> int:
        """The token that ends a text, -1 if there is none."""
        return int(llama_cpp.llama_vocab_eos(self._vocab))

    @property
    def add_bos(self) -> bool:
        """Whether every prompt has to begin with ``bos``."""
        return bool(llama_cpp.llama_vocab_get_add_bos(self._vocab))

    @property
    def size(self) -> int:
        """Bytes of all weights."""
        return int(llama_cpp.llama_model_size(self.handle))

    @property
    def rope(self) -> Rope | None:
        """How keys are turned, None where it is by a rule that is not known here."""
        kind = llama_cpp.llama_model_rope_type(self.handle)
        architecture = self.architecture
        heads = int(llama_cpp.llama_model_n_head(self.handle)) or 1
        dimensions = self.meta(f"{architecture}.rope.dimension_count")
        width = int(dimensions or self.meta(f"{architecture}.attention.key_length") or 0)
        scaled = self.meta(f"{architecture}.rope.scaling.type") not in {"", "none"}
        if kind not in {_NORM, _NEOX} or scaled:
            return None
        base = float(self.meta(f"{architecture}.rope.freq_base") or 10000.0)
        width = width or int(llama_cpp.llama_model_n_embd(self.handle)) // heads
        return Rope(base, width, kind == _NORM)

    @property
    def key_heads(self) -> int:
        """Number of heads that keys and values have."""
        return int(llama_cpp.llama_model_n_head_kv(self.handle))

    @property
    def heads(self) -> int:
        """Attention heads of a layer; 0 where the file does not say."""
        text = self.meta(f"{self.architecture}.attention.head_count")
        return int(text) if text.isdecimal() else 0

    @property
    def kv_width(self) -> int:
        """Numbers in one token's keys and values, all layers together; 0 where the file does not say."""

        def number(key: str) -> int:
            text = self.meta(f"{self.architecture}.{key}")
            return int(text) if text.isdecimal() else 0

        heads = self.heads
        key_heads = number("attention.head_count_kv") or heads
        head = number("embedding_length") // heads if heads else 0
        keys, values = number("attention.key_length") or head, number("attention.value_length") or head
        return number("block_count") * key_heads * (keys + values)

    def meta(self, key: str) -> str:
        """Return a metadata value as text, "" if absent."""
        size = 256
        buffer = ctypes.create_string_buffer(size)
        length = llama_cpp.llama_model_meta_val_str(self.handle, key.encode(), buffer, size)
        return buffer.raw[: min(length, size - 1)].decode(errors="replace") if length > 0 else ""

    def is_eog(self, token: int) -> bool:
        """Tell whether ``token`` ends a generation."""
        return bool(llama_cpp.llama_vocab_is_eog(self._vocab, token))

    def tokenize(self, text: str, *, parse_special: bool) -> list[int]:
        """Return the tokens of ``text``, nothing added; only ``parse_special`` makes control tokens.

        Raises:
            InvalidRequest: the text holds half a character (a lone surrogate).
        """
        try:
            raw = text.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest("The text is not Unicode", got=repr(text[error.start]), wanted="UTF-8") from error
        size = len(raw) + 16
        while True:
            tokens = (llama_cpp.llama_token * size)()
            count = llama_cpp.llama_tokenize(self._vocab, raw, len(raw), tokens, size, False, parse_special)
            if count >= 0:
                return list(tokens[:count])
            size = -count

    def piece(self, token: int, *, special: bool = False) -> bytes:
        """Return the bytes of ``token``; control tokens are empty unless ``special``."""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = llama_cpp.llama_token_to_piece(self._vocab, token, buffer, size, 0, special)
            if length >= 0:
                return buffer.raw[:length]
            size = -length


class LlamaAdapter:
    """A LoRA loaded beside its model."""

    def __init__(self, model: LlamaModel, path: Path) -> None:
        """Load ``path``.

        Raises:
            InvalidModel: the file is no LoRA of this model.
        """
        check_magic(path)
        clear_log()
        self.handle = llama_cpp.llama_adapter_lora_init(model.handle, os.fsencode(path))
        if not self.handle:
            raise InvalidModel(
                f"{path.name} is not a LoRA adapter that fits this model",
                got=log_tail() or None,
                hint="Use the model it was trained for, or export it again.",
            )

    def free(self) -> None:
        """Release the memory; no context may use the adapter any more."""
        llama_cpp.llama_adapter_lora_free(self.handle)
