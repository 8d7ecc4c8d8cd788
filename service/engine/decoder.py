"""A loaded model and everything that serves it: context, streams, adapters, kept blocks, scheduler.

Lives in the child process. Knows nothing of sockets, orders or processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import InvalidRequest
from data.protocols import GenerationRequest
from data.records import Message
from service.engine.kvstore import KVStore, block_key
from service.engine.llama import (
    LLAMA_VERSION,
    ContextOptions,
    LlamaAdapter,
    LlamaContext,
    LlamaGrammar,
    LlamaModel,
    Run,
    schema_to_gbnf,
)
from service.engine.loras import AdapterTable, Attention
from service.engine.prompting import Prompter
from service.engine.reading import Reader
from service.engine.scheduler import Scheduler
from service.engine.streams import StreamTable
from service.engine.tasks import Reply, Scoring, Writing

_CANARY = (Message("system", ("Answer the question.",)), Message("user", ("Who wrote it, and when?",)))
_CANARY_CTX = 512


@dataclass(frozen=True, slots=True)
class DecoderOptions:
    """How a model is served.

    Attributes:
        gguf: its file.
        identity: of the file's content: kept blocks are of this model only.
        context: how its context is made.
        repack: lay the weights out for this CPU.
        adapters: how many stay loaded.
        drafts: most tokens guessed ahead.
        kv_memory: bytes of blocks in memory.
        kv_folder: where passages' blocks go as files; None keeps none.
        kv_disk: bytes of such files.
    """

    gguf: Path
    identity: str
    context: ContextOptions
    repack: bool
    adapters: int
    drafts: int
    kv_memory: int
    kv_folder: Path | None
    kv_disk: int


class Decoder:
    """One model, ready to serve."""

    def __init__(self, options: DecoderOptions) -> None:
        """Load the model and allocate the context; raises what ``LlamaModel`` and ``LlamaContext`` raise."""
        self.model = LlamaModel(options.gguf, repack=options.repack)
        context = options.context
        n_ctx = min(context.n_ctx, self.model.n_ctx_train or context.n_ctx)
        self._context_options = ContextOptions(
            n_ctx, context.n_threads, context.sequences, context.n_batch, context.kv_type, context.flash_attention
        )
        self.context = LlamaContext(self.model, self._context_options)
        self.prompter = Prompter(self.model)
        self._warm_up()
        store = KVStore(options.kv_memory, options.kv_folder, options.kv_disk)
        how = f"{context.kv_type} {context.flash_attention} {context.n_batch} {context.n_threads} {options.repack}"
        reader = Reader(self.model, self.context, store, block_key(options.identity, LLAMA_VERSION, how))
        adapters = AdapterTable(self.model, options.adapters, self._canary)
        self.scheduler = Scheduler(
            self.context, adapters, reader, store, StreamTable(context.sequences), options.drafts
        )

    @property
    def n_ctx(self) -> int:
        """Tokens in a sequence."""
        return self.context.n_ctx

    def info(self) -> dict[str, Any]:
        """Return what the model and its context are, as JSON values."""
        model, reader = self.model, self.scheduler.reader
        token_bytes = reader.token_bytes()
        return {
            "n_ctx": self.n_ctx,
            "n_ctx_train": model.n_ctx_train,
            "n_vocab": model.n_vocab,
            "n_params": model.n_params,
            "architecture": model.architecture,
            "template": self.prompter.template,
            "bos": model.bos,
            "eos": model.eos,
            "end_of_turn": self.prompter.end_of_turn,
            "add_bos": model.add_bos,
            "n_threads": self._context_options.n_threads,
            "sequences": self._context_options.sequences,
            "weights_bytes": model.size,
            "kv_bytes": token_bytes * self.n_ctx * self._context_options.sequences,
            "blockwise": reader.rope is not None,
            "blockwise_refusal": reader.refusal,
        }

    def generate(self, number: int, request: GenerationRequest, reply: Reply, arrived: float) -> None:
        """Queue a generation.

        Raises:
            ContextOverflow: prompt and ``max_tokens`` do not fit.
            InvalidRequest: an empty prompt, an invalid grammar or schema, adapters that do not go together.
            UnknownAdapter: an adapter was not added.
        """
        prompt = self.prompter.prompt(request.messages)
        grammar = self._grammar(request)
        task = Writing(
            number, prompt, request.adapters, reply, arrived, request.timeout_s,
            request=request, model=self.model, grammar=grammar,
        )  # fmt: skip
        try:
            self.scheduler.submit(task)
        except Exception:
            task.close()
            raise

    def score(
        self,
        number: int,
        messages: tuple[Message, ...],
        completion: str,
        adapter: str | None,
        reply: Reply,
        *,
        arrived: float,
        timeout_s: float,
    ) -> None:
        """Queue the scoring of ``completion`` and the end-of-turn token after it; raises as ``generate``."""
        target = (*self.model.tokenize(completion, parse_special=False), self.prompter.end_of_turn)
        adapters = () if adapter is None else ((adapter, 1.0),)
        prompt = self.prompter.prompt(messages)
        task = Scoring(number, prompt, adapters, reply, arrived, timeout_s, target=target, n_batch=self.context.n_batch)
        self.scheduler.submit(task)

    def add_adapter(self, key: str, path: Path, attention: Attention) -> float:
        """Load a LoRA under ``key``, in place of the one of that key; return the largest change of a logit.

        Raises:
            InvalidModel: the file is no LoRA of this model.
            AdapterInert: the logits after a short prompt stay the same.
        """
        self.remove_adapter(key)
        return self.scheduler.adapters.add(key, path, attention)

    def remove_adapter(self, key: str) -> None:
        """Unload a LoRA and forget the states it made; an unknown key is ignored."""
        self.scheduler.flush_adapter(key)
        self.scheduler.adapters.remove(key)

    def _grammar(self, request: GenerationRequest) -> LlamaGrammar | None:
        if request.grammar is not None and request.json_schema is not None:
            raise InvalidRequest("A request has a grammar or a JSON schema", got="both", wanted="one of them")
        if request.json_schema is not None:
            return LlamaGrammar(self.model, schema_to_gbnf(request.json_schema))
        return None if request.grammar is None else LlamaGrammar(self.model, request.grammar)

    def _canary(self, adapters: Sequence[tuple[LlamaAdapter, float]]) -> NDArray[np.float32]:
        """Return the logits after a short prompt, in a context of its own."""
        tokens = self.prompter.prompt(_CANARY).tokens[-_CANARY_CTX:]
        context = LlamaContext(
            self.model, ContextOptions(_CANARY_CTX, self._context_options.n_threads, 1, n_batch=len(tokens))
        )
        try:
            context.set_adapters(adapters)
            logits: NDArray[np.float32] = context.decode([Run(0, 0, tokens, len(tokens) - 1)])[-1].copy()
            return logits
        finally:
            context.free()

    def _warm_up(self) -> None:
        """Decode one batch of nothing: weights this CPU cannot run crash here and not under a request."""
        self.context.decode([Run(0, 0, [max(self.model.eos, 0)] * min(self.context.n_batch, self.n_ctx))])
        self.context.keep(0, 0)
