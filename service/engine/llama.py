"""llama.cpp through llama-cpp-python's low-level API: the only importer of ``llama_cpp``.

Meant for a child process: a damaged file may crash it. Typed wrappers with llama.cpp's own words
(model, context, sequence, adapter, grammar); knows nothing of requests, prompts or sockets.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import ContextOverflow, EngineError, InvalidModel, InvalidRequest, UnsupportedArchitecture

# libgomp reads this when it is loaded, with llama_cpp below. A decode step has hundreds of barriers: sleeping at each
# made it 4 times slower on two idle cores, spinning on (the default) as slow on busy ones. A short spin is neither.
os.putenv("GOMP_SPINCOUNT", "3000")

import llama_cpp

_FLASH_ATTENTION_OFF = 0  # enum llama_flash_attn_type; on a CPU it reads a prompt faster but writes much slower
_WARN, _ERROR, _CONTINUED = 3, 4, 5  # enum ggml_log_level in ggml.h
_FTYPES = {  # enum llama_ftype in llama.h
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q8_0": 7,
    "q4_k_m": 15,
    "q5_k_m": 17,
    "q6_k": 18,
    "bf16": 32,
}
QUANTIZATIONS = tuple(_FTYPES)

_log: deque[str] = deque(maxlen=200)
_keep_in_log = False


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _record(level: int, text: bytes, _user_data: object) -> None:
    global _keep_in_log  # noqa: PLW0603 - the C callback has no other place for its state
    if level != _CONTINUED:
        _keep_in_log = level in (_WARN, _ERROR)
    if _keep_in_log:
        _log.append(text.decode(errors="replace").rstrip("\n"))


def start_backend() -> None:
    """Send llama.cpp's log to a ring buffer and initialise its backends."""
    llama_cpp.llama_log_set(_record, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()


def log_tail(lines: int = 4) -> str:
    """Return the last warnings and errors of llama.cpp."""
    return "; ".join(list(_log)[-lines:])


class LlamaModel:
    """A loaded GGUF model, or its vocabulary alone."""

    def __init__(self, path: Path, *, vocab_only: bool = False, repack: bool = True) -> None:
        """Load ``path``; ``repack`` lays the weights out for this CPU, which is faster.

        Raises:
            InvalidModel: the file is not a GGUF, truncated or damaged.
            UnsupportedArchitecture: llama.cpp does not know the architecture, or it cannot generate.
        """
        _check_magic(path)
        parameters = llama_cpp.llama_model_default_params()
        parameters.vocab_only = vocab_only
        parameters.use_extra_bufts = repack
        _log.clear()
        self.path = path
        self.handle = llama_cpp.llama_model_load_from_file(os.fsencode(path), parameters)
        if not self.handle:
            raise _load_error(path)
        self._vocab = llama_cpp.llama_model_get_vocab(self.handle)
        if not llama_cpp.llama_model_has_decoder(self.handle) or llama_cpp.llama_model_has_encoder(self.handle):
            raise UnsupportedArchitecture(
                f"{path.name} is not a decoder-only language model",
                got=self.architecture,
                wanted="a model that generates text by itself (llama, qwen2, qwen3 …)",
            )

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


def _check_magic(path: Path) -> None:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise InvalidModel(f"{path} cannot be read: {error.strerror}") from error
    if magic != b"GGUF":
        raise InvalidModel(
            f"{path.name} is not a GGUF file",
            got=repr(magic),
            wanted="a file that begins with GGUF",
            hint="Download the file again; a web page or a Git LFS pointer may have been saved in its place.",
        )


def _load_error(path: Path) -> InvalidModel:
    log = log_tail()
    if "unknown model architecture" in log:
        return UnsupportedArchitecture(
            f"llama.cpp cannot run {path.name}", got=log, hint="Use a Llama, Qwen, Gemma, Phi … model."
        )
    return InvalidModel(
        f"{path.name} cannot be loaded: it is truncated or damaged",
        got=log or None,
        hint="Download or convert the file again.",
    )


class LlamaContext:
    """A model's working memory: ``sequences`` independent sequences of ``n_ctx`` tokens each.

    Every sequence has a memory stream of its own (``kv_unified`` off), so what one holds changes
    neither the speed nor the rounding of another.
    """

    def __init__(self, model: LlamaModel, *, n_ctx: int, n_threads: int, sequences: int, n_ubatch: int) -> None:
        """Allocate the memory.

        Raises:
            EngineError: llama.cpp cannot make the context (memory, mostly).
        """
        parameters = llama_cpp.llama_context_default_params()
        parameters.n_ctx = n_ctx * sequences
        parameters.n_seq_max = sequences
        parameters.n_batch = parameters.n_ubatch = n_ubatch
        parameters.n_threads = parameters.n_threads_batch = n_threads
        parameters.kv_unified = False
        parameters.flash_attn_type = _FLASH_ATTENTION_OFF
        parameters.no_perf = True
        self._handle = llama_cpp.llama_init_from_model(model.handle, parameters)
        if not self._handle:
            raise EngineError(
                "llama.cpp cannot allocate the context",
                got=f"{sequences} x {n_ctx} tokens; {log_tail()}",
                hint="Lower n_ctx or the number of sequences.",
            )
        self._model = model
        self._memory = llama_cpp.llama_get_memory(self._handle)
        self._batch = llama_cpp.llama_batch_init(n_ubatch, 0, 1)
        self._n_batch = n_ubatch
        self.n_ctx = int(llama_cpp.llama_n_ctx_seq(self._handle))

    def decode(
        self, tokens: Sequence[int], position: int, sequence: int, *, logits_from: int | None = None
    ) -> NDArray[np.float32]:
        """Run tokens (at most ``n_ubatch``) through the model.

        Args:
            tokens: what stands at ``position`` and after it.
            position: of the first token; everything before it must be in memory.
            sequence: whose memory is read and extended.
            logits_from: index of the first token whose logits are wanted; none are by default.

        Returns:
            Logits, shape (len(tokens) - logits_from, n_vocab) or (0, n_vocab); a copy.

        Raises:
            ContextOverflow: the sequence is full.
            EngineError: llama.cpp failed.
        """
        batch, count = self._batch, len(tokens)
        if not 0 < count <= self._n_batch:
            raise EngineError("A batch of the wrong size", got=count, wanted=f"1 to {self._n_batch} tokens")
        first = count if logits_from is None else logits_from
        batch.n_tokens = count
        for i, token in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = position + i
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = i >= first
        status = llama_cpp.llama_decode(self._handle, batch)
        if status == 1:
            raise ContextOverflow("The context is full", got=position + count, wanted=f"at most {self.n_ctx} tokens")
        if status:
            raise EngineError("llama.cpp failed to decode", got=f"status {status}; {log_tail()}")
        rows = np.empty((count - first, self._model.n_vocab), np.float32)
        for row, i in enumerate(range(first, count)):
            pointer = llama_cpp.llama_get_logits_ith(self._handle, i)
            rows[row] = np.ctypeslib.as_array(pointer, shape=(self._model.n_vocab,))
        return rows

    def keep(self, sequence: int, length: int) -> None:
        """Forget everything in ``sequence`` from position ``length`` on.

        Raises:
            EngineError: the model's memory cannot be cut (a recurrent model).
        """
        if not llama_cpp.llama_memory_seq_rm(self._memory, sequence, length, -1):
            raise EngineError("This model's memory cannot be cut", got=f"position {length}")

    def set_adapter(self, adapter: LlamaAdapter | None) -> None:
        """Decode with ``adapter`` from now on, or with the bare model.

        Raises:
            EngineError: llama.cpp refused.
        """
        handles = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(*([adapter.handle] if adapter else []))
        scales = (ctypes.c_float * 1)(1.0)
        if llama_cpp.llama_set_adapters_lora(self._handle, handles, 1 if adapter else 0, scales):
            raise EngineError("llama.cpp refused the adapter", got=log_tail())


class LlamaAdapter:
    """A LoRA loaded beside its model."""

    def __init__(self, model: LlamaModel, path: Path) -> None:
        """Load ``path``.

        Raises:
            InvalidModel: the file is no LoRA of this model.
        """
        _check_magic(path)
        _log.clear()
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


class LlamaGrammar:
    """A GBNF grammar that follows one generation."""

    def __init__(self, model: LlamaModel, gbnf: str) -> None:
        """Parse ``gbnf``, whose start rule is ``root``.

        Raises:
            InvalidRequest: it does not parse.
        """
        self._n_vocab = model.n_vocab
        self._sampler = llama_cpp.llama_sampler_init_grammar(model.vocab, gbnf.encode(), b"root")
        if not self._sampler:
            raise InvalidRequest("The grammar does not parse", got=gbnf[:200], wanted="GBNF with a rule named root")

    def allows(self, token: int) -> bool:
        """Tell whether ``token`` may come next."""
        return bool(self._apply(np.array([token], np.int32))[0])

    def allowed(self) -> NDArray[np.bool_]:
        """Return which tokens may come next; shape (n_vocab,)."""
        return self._apply(np.arange(self._n_vocab, dtype=np.int32))

    def accept(self, token: int) -> None:
        """Move on; a token that is not allowed aborts the process."""
        llama_cpp.llama_sampler_accept(self._sampler, token)

    def free(self) -> None:
        """Release the memory."""
        llama_cpp.llama_sampler_free(self._sampler)

    def _apply(self, tokens: NDArray[np.int32]) -> NDArray[np.bool_]:
        candidates = np.zeros(len(tokens), np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)]))
        candidates["id"] = tokens
        data = candidates.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token_data))
        array = llama_cpp.llama_token_data_array(data, len(tokens), -1, False)
        llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(array))
        allowed: NDArray[np.bool_] = np.isfinite(candidates["logit"])
        return allowed


@contextlib.contextmanager
def grammar(model: LlamaModel, gbnf: str | None) -> Iterator[LlamaGrammar | None]:
    """Parse a grammar (None gives None) and release it at the end."""
    if gbnf is None:
        yield None
        return
    parsed = LlamaGrammar(model, gbnf)
    try:
        yield parsed
    finally:
        parsed.free()


def quantize_file(source: Path, target: Path, quantization: str, n_threads: int) -> None:
    """Write ``source`` to ``target`` with other weights.

    Raises:
        InvalidModel: ``source`` is damaged.
        InvalidRequest: ``quantization`` is unknown.
    """
    if quantization not in _FTYPES:
        raise InvalidRequest("Unknown quantization", got=quantization, wanted=", ".join(_FTYPES))
    _check_magic(source)
    parameters = llama_cpp.llama_model_quantize_default_params()
    parameters.ftype = _FTYPES[quantization]
    parameters.nthread = n_threads
    parameters.allow_requantize = True
    _log.clear()
    if llama_cpp.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(parameters)):
        raise _load_error(source)
