"""llama.cpp itself, to check converted models and adapters against."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import llama_cpp
import numpy as np
from numpy.typing import NDArray

from data.prompt import render
from data.protocols import TokenScores
from data.records import Message

if TYPE_CHECKING:
    from finetune.weights import SegmentTokenizer

_QUIET = llama_cpp.llama_log_callback(lambda level, text, data: None)


class Llama:
    """A GGUF model in llama.cpp, computing attention in float32."""

    def __init__(self, path: Path, adapter: Path | None = None) -> None:
        llama_cpp.llama_backend_init()
        llama_cpp.llama_log_set(_QUIET, ctypes.c_void_p(0))
        parameters = llama_cpp.llama_model_default_params()
        # llama.cpp's AMX kernels crash on some virtual machines; plain buffers are always right.
        parameters.use_extra_bufts = False
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), parameters)
        assert self._model, f"llama.cpp refuses {path}"
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_threads, settings.n_threads_batch = 512, 512, 1, 1
        settings.type_k = settings.type_v = 0
        settings.flash_attn_type = 0
        self._context = llama_cpp.llama_init_from_model(self._model, settings)
        self.vocab = llama_cpp.llama_model_get_vocab(self._model)
        if adapter is not None:
            loaded = llama_cpp.llama_adapter_lora_init(self._model, str(adapter).encode())
            assert loaded, f"llama.cpp refuses {adapter}"
            adapters, scales = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(loaded), (ctypes.c_float * 1)(1.0)
            assert llama_cpp.llama_set_adapters_lora(self._context, adapters, 1, scales) == 0

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        raw = text.encode()
        room = (llama_cpp.llama_token * (len(raw) + 8))()
        count = llama_cpp.llama_tokenize(self.vocab, raw, len(raw), room, len(room), False, special)
        return list(room[:count])

    def logits(self, ids: Sequence[int]) -> NDArray[np.float32]:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        batch = llama_cpp.llama_batch_init(len(ids), 0, 1)
        batch.n_tokens = len(ids)
        for i, token in enumerate(ids):
            batch.token[i], batch.pos[i], batch.n_seq_id[i], batch.logits[i] = token, i, 1, 1
            batch.seq_id[i][0] = 0
        assert llama_cpp.llama_decode(self._context, batch) == 0
        n_vocab = llama_cpp.llama_vocab_n_tokens(self.vocab)
        rows = [
            np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self._context, i), (n_vocab,)) for i in range(len(ids))
        ]
        result = np.stack(rows).copy()
        llama_cpp.llama_batch_free(batch)
        return result

    def close(self) -> None:
        llama_cpp.llama_free(self._context)
        llama_cpp.llama_model_free(self._model)


@contextmanager
def llama(path: Path, adapter: Path | None = None) -> Iterator[Llama]:
    """Open a GGUF in llama.cpp."""
    model = Llama(path, adapter)
    try:
        yield model
    finally:
        model.close()


def score(model: Llama, tokenizer: SegmentTokenizer, messages: tuple[Message, ...], completion: str) -> TokenScores:
    """Score a completion as an engine does: llama.cpp tokenizes every segment, the template ends the turn."""
    segments = render(messages, tokenizer.template, bos_token=tokenizer.bos_token, eos_token=tokenizer.eos_token)
    prompt = [token for segment in segments for token in model.tokenize(segment.text, special=segment.markup)]
    said = [*model.tokenize(completion), *model.tokenize(tokenizer.eos_token, special=True)]
    logits = model.logits([*prompt, *said])[len(prompt) - 1 : -1]
    return TokenScores(tuple(prompt), tuple(said), logits)
