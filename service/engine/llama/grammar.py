"""GBNF grammars that follow a generation, and JSON schemas as grammars."""

from __future__ import annotations

import ctypes

import llama_cpp
import numpy as np
from llama_cpp.llama_grammar import json_schema_to_gbnf
from numpy.typing import NDArray

from data.errors import InvalidRequest
from service.engine.llama.model import LlamaModel


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


def schema_to_gbnf(schema: str) -> str:
    """Return the grammar of the JSON values that fit a JSON schema.

    Raises:
        InvalidRequest: it is no schema, or uses what cannot be a grammar.
    """
    try:
        return str(json_schema_to_gbnf(schema))
    except Exception as error:  # it raises what the schema makes it stumble over
        raise InvalidRequest(
            "The JSON schema cannot be turned into a grammar", got=f"{type(error).__name__}: {error}"[:200]
        ) from error
