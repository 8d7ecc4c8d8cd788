"""GBNF grammars that follow a generation, and JSON schemas as grammars."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import ClassVar

import llama_cpp
import numpy as np
from llama_cpp.llama_grammar import json_schema_to_gbnf
from numpy.typing import NDArray

from data.errors import InvalidRequest
from service.engine.llama.model import LlamaModel

MOST_BYTES = 64 * 1024
MOST_NESTED = 1000
"""llama.cpp's parser calls itself for each parenthesis and each rule: 20,000 of them overflow its stack."""


class LlamaGrammar:
    """A GBNF grammar that follows one generation.

    Attributes:
        at_work: the grammar that llama.cpp works on now and since when (``time.monotonic()``), None if on none. Rules
            with many optional parts can keep it busy for ever, and nothing interrupts it.
    """

    at_work: ClassVar[tuple[LlamaGrammar, float] | None] = None

    def __init__(self, model: LlamaModel, gbnf: str) -> None:
        """Parse ``gbnf``, whose start rule is ``root``.

        Raises:
            InvalidRequest: it does not parse, or is too large to be parsed.
        """
        _check_size(gbnf)
        self._n_vocab = model.n_vocab
        with self._working():
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
        with self._working():
            llama_cpp.llama_sampler_accept(self._sampler, token)

    def free(self) -> None:
        """Release the memory."""
        llama_cpp.llama_sampler_free(self._sampler)

    def _apply(self, tokens: NDArray[np.int32]) -> NDArray[np.bool_]:
        candidates = np.zeros(len(tokens), np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)]))
        candidates["id"] = tokens
        data = candidates.ctypes.data_as(ctypes.POINTER(llama_cpp.llama_token_data))
        array = llama_cpp.llama_token_data_array(data, len(tokens), -1, False)
        with self._working():
            llama_cpp.llama_sampler_apply(self._sampler, ctypes.byref(array))
        allowed: NDArray[np.bool_] = np.isfinite(candidates["logit"])
        return allowed

    @contextmanager
    def _working(self) -> Iterator[None]:
        LlamaGrammar.at_work = (self, time.monotonic())
        try:
            yield
        finally:
            LlamaGrammar.at_work = None


def _check_size(gbnf: str) -> None:
    if "\0" in gbnf or not gbnf.strip():
        raise InvalidRequest("The grammar is blank or holds a NUL", got=repr(gbnf[:200]), wanted="GBNF")
    if (size := len(gbnf.encode())) > MOST_BYTES:
        raise InvalidRequest("The grammar is too large", got=f"{size} bytes", wanted=f"at most {MOST_BYTES}")
    # Parentheses in literals count too: no grammar of use has so many more that open than close.
    if (depth := max(accumulate((c == "(") - (c == ")") for c in gbnf))) > MOST_NESTED:
        raise InvalidRequest("The grammar is nested too deeply", got=depth, wanted=f"at most {MOST_NESTED}")


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
