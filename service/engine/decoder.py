"""Run requests on a loaded model: prompt, prefix reuse, sampling, scoring, adapters.

Lives in the child process. One request is decoded at a time; a ``check`` that the caller passes in is
called before every decode step and raises to stop. Knows nothing of sockets, queues or processes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.errors import AdapterInert, ContextOverflow, InvalidRequest, UnknownAdapter
from data.prompt import render
from data.protocols import GenerationRequest, GenerationResult, TokenScores
from data.records import Message, Segment, Usage
from service.engine import llama
from service.engine.sampling import Sampler, logprob
from service.engine.slots import Slot, SlotTable
from service.engine.text import TextStream

PREFILL_CHUNK = 128
"""Tokens decoded between two looks at the cancel flag; also the granularity of prefix reuse.

A 625-token prompt cost the same processor time at 128, 256 and 512 (SmolLM2-135M Q8_0, 2 threads), and
half more at 64.
"""

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The template for models without one (github.com/openai/openai-python, chatml.md, is where it began)."""

_CANARY = (Message("system", ("Answer the question.",)), Message("user", ("Who wrote it, and when?",)))
# Q8_0 weights leave a rounding noise of about 1e-3 in logits of magnitude 10; a trained LoRA moves them by 0.1 to 10.
_CANARY_THRESHOLD = 1e-3

Check = Callable[[], None]
Emit = Callable[[str], None]


class Cancelled(Exception):
    """Raised by a check: nobody wants the rest of this generation."""


@dataclass(slots=True)
class _Prefilled:
    slot: Slot
    logits: NDArray[np.float32]
    cached: int


@dataclass(slots=True)
class _Output:
    text: TextStream
    emit: Emit
    logprobs: list[float] = field(default_factory=list)


class Decoder:
    """One model, its context, its slots and its adapters."""

    def __init__(self, path: Path, *, n_ctx: int, n_threads: int, sequences: int, repack: bool = True) -> None:
        """Load the model and allocate the context; raises what ``LlamaModel`` and ``LlamaContext`` raise."""
        self.model = llama.LlamaModel(path, repack=repack)
        self._context = llama.LlamaContext(
            self.model,
            n_ctx=min(n_ctx, self.model.n_ctx_train or n_ctx),
            n_threads=n_threads,
            sequences=sequences,
            n_ubatch=PREFILL_CHUNK,
        )
        self.n_ctx = self._context.n_ctx
        self.template = self.model.template or CHATML
        self.end_of_turn = self._end_of_turn()
        self._slots = SlotTable(sequences, PREFILL_CHUNK)
        self._adapters: dict[str, llama.LlamaAdapter] = {}
        self._active: str | None = None
        self._warm_up()

    def prompt_tokens(self, messages: tuple[Message, ...]) -> list[int]:
        """Render messages through the model's template and tokenize every segment on its own."""
        model = self.model
        tokens: list[int] = []
        for segment in self._render(messages):
            tokens += model.tokenize(segment.text, parse_special=segment.markup)
        if model.add_bos and tokens[:1] != [model.bos]:
            tokens.insert(0, model.bos)
        return tokens

    def generate(self, request: GenerationRequest, check: Check, emit: Emit) -> GenerationResult:
        """Generate; ``emit`` receives text as soon as it cannot change.

        Raises:
            ContextOverflow: prompt and ``max_tokens`` do not fit.
            InvalidRequest: an empty prompt or an invalid grammar.
            UnknownAdapter: the adapter is not loaded.
            Whatever ``check`` raises, ``Cancelled`` excepted.
        """
        prompt = self.prompt_tokens(request.messages)
        self._fits(prompt, request.max_tokens)
        with llama.grammar(self.model, request.grammar) as grammar:
            started = time.monotonic()
            try:
                ready = self._prefill(prompt, request.adapter, check)
            except Cancelled:
                return GenerationResult("", "cancelled", Usage(len(prompt)), _ms(started), 0.0)
            prefill_ms, started = _ms(started), time.monotonic()
            output = _Output(TextStream(request.stop), emit)
            try:
                reason = self._continue(request, ready, output, grammar, check)
            except Cancelled:
                reason = "cancelled"
            emit(output.text.finish())
        usage = Usage(len(prompt), ready.cached, len(output.logprobs))
        logprobs = tuple(output.logprobs)
        return GenerationResult(output.text.text, reason, usage, prefill_ms, _ms(started), logprobs)

    def score(self, messages: tuple[Message, ...], completion: str, adapter: str | None, check: Check) -> TokenScores:
        """Return the teacher-forced logits of ``completion`` and the end-of-turn token after it.

        Raises:
            ContextOverflow: prompt and completion do not fit.
            UnknownAdapter: the adapter is not loaded.
        """
        prompt = self.prompt_tokens(messages)
        target = [*self.model.tokenize(completion, parse_special=False), self.end_of_turn]
        self._fits(prompt, len(target))
        ready = self._prefill(prompt, adapter, check)
        rows = [ready.logits[None]]
        fed = target[:-1]
        for start in range(0, len(fed), PREFILL_CHUNK):
            check()
            part = fed[start : start + PREFILL_CHUNK]
            rows.append(self._context.decode(part, len(prompt) + start, ready.slot.sequence, logits_from=0))
        return TokenScores(tuple(prompt), tuple(target), np.concatenate(rows))

    def add_adapter(self, key: str, path: Path) -> float:
        """Load a LoRA and prove that it does something; return the largest change of a logit.

        Raises:
            InvalidModel: the file is no LoRA of this model.
            AdapterInert: the logits after a short prompt stay the same.
        """
        prompt = self.prompt_tokens(_CANARY)
        bare = self._prefill(prompt, None, _never).logits
        self.remove_adapter(key)
        self._adapters[key] = llama.LlamaAdapter(self.model, path)
        change = float(np.abs(self._prefill(prompt, key, _never).logits - bare).max())
        if not change > _CANARY_THRESHOLD:
            self.remove_adapter(key)
            raise AdapterInert(
                f"The adapter {key} does not change what the model predicts",
                got=f"largest change of a logit {change:.2g}",
                wanted=f"more than {_CANARY_THRESHOLD}",
                hint="Train it longer, or export it again.",
            )
        return change

    def remove_adapter(self, key: str) -> None:
        """Unload a LoRA and forget the states it made; an unknown key is ignored."""
        adapter = self._adapters.pop(key, None)
        if adapter is None:
            return
        if self._active == key:
            self._context.set_adapter(None)
            self._active = None
        self._slots.forget(key)
        adapter.free()

    def _render(self, messages: tuple[Message, ...], *, add_generation_prompt: bool = True) -> tuple[Segment, ...]:
        model = self.model
        return render(
            messages,
            self.template,
            bos_token=model.piece(model.bos, special=True).decode(errors="replace") if model.bos >= 0 else "",
            eos_token=model.piece(model.eos, special=True).decode(errors="replace") if model.eos >= 0 else "",
            add_generation_prompt=add_generation_prompt,
        )

    def _end_of_turn(self) -> int:
        """Return the token that the template puts after what the assistant said, else the end of text.

        llama.cpp's own guess (llama_vocab_eot) is the first known name it meets: for SmolLM2 the wrong one.
        """
        turn = (Message("user", ("?",)), Message("assistant", ("!",)))
        last = self._render(turn, add_generation_prompt=False)[-1]
        tokens = self.model.tokenize(last.text.strip(), parse_special=True) if last.markup else []
        return tokens[0] if tokens and self.model.is_eog(tokens[0]) else self.model.eos

    def _fits(self, prompt: list[int], new: int) -> None:
        if not prompt or new < 1:
            raise InvalidRequest("Nothing to generate", got=f"{len(prompt)} prompt tokens, {new} to generate")
        if len(prompt) + new > self.n_ctx:
            raise ContextOverflow(
                "The prompt and what it may generate do not fit into the context",
                got=f"{len(prompt)} + {new} tokens",
                wanted=f"at most {self.n_ctx}",
                hint="Ask for fewer passages or tokens, or raise n_ctx.",
            )

    def _warm_up(self) -> None:
        """Decode one chunk of nothing: weights this CPU cannot run crash here and not under a request."""
        self._context.decode([self.model.eos if self.model.eos >= 0 else 0] * PREFILL_CHUNK, 0, 0)
        self._context.keep(0, 0)

    def _prefill(self, prompt: list[int], adapter: str | None, check: Check) -> _Prefilled:
        self._activate(adapter)
        slot, cached = self._slots.take(adapter, prompt)
        logits = slot.logits if cached == len(prompt) else None
        slot.forget()  # until the new state is whole
        self._context.keep(slot.sequence, cached)
        for start in range(cached, len(prompt), PREFILL_CHUNK):
            check()
            part = prompt[start : start + PREFILL_CHUNK]
            last = start + len(part) == len(prompt)
            rows = self._context.decode(part, start, slot.sequence, logits_from=len(part) - 1 if last else None)
            logits = rows[-1] if last else None
        if logits is None:
            raise InvalidRequest("Nothing to generate from: the prompt is empty")
        slot.adapter, slot.prompt, slot.logits = adapter, prompt, logits
        return _Prefilled(slot, logits, cached)

    def _activate(self, adapter: str | None) -> None:
        if adapter is not None and adapter not in self._adapters:
            raise UnknownAdapter("The engine has no such adapter", got=adapter)
        if adapter != self._active:
            self._context.set_adapter(None if adapter is None else self._adapters[adapter])
            self._active = adapter

    def _continue(
        self,
        request: GenerationRequest,
        ready: _Prefilled,
        output: _Output,
        grammar: llama.LlamaGrammar | None,
        check: Check,
    ) -> str:
        """Sample until the end; return the finish reason."""
        sampler = Sampler(temperature=request.temperature, top_p=request.top_p, top_k=request.top_k, seed=request.seed)
        logits, position = ready.logits, len(ready.slot.prompt)
        while True:
            check()
            token = sampler.choose(logits, grammar)
            if token is None or self.model.is_eog(token):
                return "stop"
            if grammar is not None:
                grammar.accept(token)
            output.logprobs.append(logprob(logits, token))
            output.emit(output.text.feed(self.model.piece(token)))
            if output.text.stopped:
                return "stop"
            if len(output.logprobs) == request.max_tokens:
                return "length"
            logits = self._context.decode([token], position, ready.slot.sequence, logits_from=0)[0]
            position += 1


def _never() -> None:
    """Let everything run to its end."""


def _ms(started: float) -> float:
    return (time.monotonic() - started) * 1000
