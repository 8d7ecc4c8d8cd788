"""From messages to tokens: what a model is shown, and where it may be cut.

Knows the chat template and the tokenizer; knows nothing of contexts, sequences or adapters.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from data.errors import ContextOverflow, InvalidRequest
from data.prompt import render
from data.records import Message, Segment
from service.engine.llama import LlamaModel

CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""The template for models without one (github.com/openai/openai-python, chatml.md, is where it began)."""


@dataclass(frozen=True, slots=True)
class Prompt:
    """A prompt's tokens.

    Attributes:
        tokens: all of them.
        turns: where each user's message begins.
        passages: where each passage begins and ends; they are neighbours.
    """

    tokens: tuple[int, ...]
    turns: tuple[int, ...] = ()
    passages: tuple[tuple[int, int], ...] = ()

    def ends(self, n_batch: int) -> tuple[int, ...]:
        """Return where the stretches end in which the prompt is read, each of at most ``n_batch`` tokens.

        They follow from what stands before them alone: prompts that begin alike are read alike, so
        that the state after a stretch they share is the same to the last bit.
        """
        ends: list[int] = []
        start = 0
        for stop in (*(turn for turn in self.turns if 0 < turn < len(self.tokens)), len(self.tokens)):
            ends += [*range(start + n_batch, stop, n_batch), stop]
            start = stop
        return tuple(ends)


class Prompter:
    """Renders and tokenizes for one model."""

    def __init__(self, model: LlamaModel) -> None:
        self._model = model
        self.template = model.template or CHATML
        self._bos = model.piece(model.bos, special=True).decode(errors="replace") if model.bos >= 0 else ""
        self._eos = model.piece(model.eos, special=True).decode(errors="replace") if model.eos >= 0 else ""
        self.end_of_turn = self._end_of_turn()

    def prompt(self, messages: tuple[Message, ...]) -> Prompt:
        """Render messages through the model's template and tokenize every segment on its own.

        Raises:
            InvalidModel: the chat template fails.
            InvalidRequest: text that is no Unicode.
        """
        model = self._model
        tokens: list[int] = []
        turns: list[int] = []
        passages: list[tuple[int, int]] = []
        opens = _opens_turn(messages)
        for segment in self._render(messages):
            start = len(tokens)
            tokens += model.tokenize(segment.text, parse_special=segment.markup)
            if not start and model.add_bos and tokens[:1] != [model.bos]:
                tokens.insert(0, model.bos)
            if not segment.markup and next(opens):
                turns.append(start)
            if segment.passage:
                passages.append((start, len(tokens)))
        return Prompt(tuple(tokens), tuple(turns), tuple(passages))

    def _render(self, messages: tuple[Message, ...], *, add_generation_prompt: bool = True) -> tuple[Segment, ...]:
        return render(
            messages,
            self.template,
            bos_token=self._bos,
            eos_token=self._eos,
            add_generation_prompt=add_generation_prompt,
        )

    def _end_of_turn(self) -> int:
        """Return the token that the template puts after what the assistant said, else the end of text.

        llama.cpp's own guess (llama_vocab_eot) is the first known name it meets: for SmolLM2 the wrong one.
        """
        turn = (Message("user", ("?",)), Message("assistant", ("!",)))
        last = self._render(turn, add_generation_prompt=False)[-1]
        tokens = self._model.tokenize(last.text.strip(), parse_special=True) if last.markup else []
        return tokens[0] if tokens and self._model.is_eog(tokens[0]) else self._model.eos


def check_fits(prompt: Prompt, new: int, n_ctx: int) -> None:
    """Raise unless the prompt and ``new`` tokens fit the context.

    Raises:
        ContextOverflow: they do not.
        InvalidRequest: there is nothing to read or to write.
    """
    if not prompt.tokens or new < 1:
        raise InvalidRequest("Nothing to generate", got=f"{len(prompt.tokens)} prompt tokens, {new} to generate")
    if len(prompt.tokens) + new > n_ctx:
        raise ContextOverflow(
            "The prompt and what it may generate do not fit into the context",
            got=f"{len(prompt.tokens)} + {new} tokens",
            wanted=f"at most {n_ctx}",
            hint="Ask for fewer passages or tokens, or raise n_ctx.",
        )


def _opens_turn(messages: tuple[Message, ...]) -> Iterator[bool]:
    """Yield, for every part that is not empty, whether a user's message begins with it."""
    for message in messages:
        first = message.role == "user"
        for part in message.parts:
            if part:
                yield first
                first = False
