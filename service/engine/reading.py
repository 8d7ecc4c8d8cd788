"""Reads a prompt into a stream: reuses what is there, what was kept, and what passages were read before.

``read`` is a generator of runs: whoever drives it decodes each run, among those of other requests, and sends
the logits back. For blockwise adapters each passage is read on its own behind the instruction, and kept; a
prompt's stream is then put together from the blocks of instruction and history and those of the passages, turned
to their places, and only the question is read. Knows nothing of sampling or of queues.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from data.errors import EngineError
from service.engine.kv import F16, Block, StateLayout, StateMismatch, turn
from service.engine.kvstore import KVStore, block_key, prefix_keys
from service.engine.llama import LlamaContext, LlamaModel, Rope, Run
from service.engine.prompting import Prompt
from service.engine.streams import Stream

Steps = Generator[Run, NDArray[np.float32], "Read"]

_PROBE_TURN = 257
_LAYOUT = "2"
"""Part of every key: another number makes all blocks kept so far unknown."""
_TURN_TOLERANCE = 0.02
"""Share of the largest key that a turned key of the first layer may be off: two roundings to 16 bits are 0.001."""
_DEEP_TOLERANCE = 0.5
"""The same for the other layers, where rounding adds up (0.09 measured); a layer that does not turn is off by 1."""


@dataclass(frozen=True, slots=True)
class Read:
    """A prompt that is in its stream, the logits after it, and how many of its tokens were not decoded for it."""

    logits: NDArray[np.float32]
    cached: int


class Reader:
    """Reads prompts into the streams of one context.

    Args:
        model: the model.
        context: its context.
        store: where blocks are kept.
        seed: names the model and how its states are computed, for the keys of blocks.
    """

    def __init__(self, model: LlamaModel, context: LlamaContext, store: KVStore, seed: str) -> None:
        self._context = context
        self._store = store
        self._heads = model.key_heads
        self.rope: Rope | None = None
        self.refusal = ""
        self._layout: StateLayout | None = None
        try:
            self._layout = self._probe(model)
        except (StateMismatch, EngineError) as error:
            self.refusal = str(error)
        self._seed = block_key(seed, _LAYOUT, str(self._layout.token_bytes() if self._layout else 0))

    def _probe(self, model: LlamaModel) -> StateLayout:
        """Learn the layout of states, and prove on three tokens that turned keys are those of their new place."""
        context, tokens = self._context, [1, 2, 3]
        context.decode([Run(0, 0, tokens)])
        layout = StateLayout(context.save(0))
        start = layout.read(context.save(0))
        context.keep(0, 0)
        rope = model.rope
        if rope is None or layout.key_type != F16:
            self.refusal = "its keys cannot be turned: another position embedding, or keys that are not 16-bit floats"
            return layout
        context.decode([Run(0, _PROBE_TURN, tokens)])
        there = context.save(0)
        context.keep(0, 0)
        wanted = layout.read(there).keys.view(np.float16).astype(np.float32)
        turned = turn(layout.cut(start, 0, 3), _PROBE_TURN, rope, self._heads).keys.view(np.float16)
        off = np.abs(turned - wanted).max(axis=(1, 2)) / np.abs(wanted).max(axis=(1, 2))
        if off[0] < _TURN_TOLERANCE and off.max() < _DEEP_TOLERANCE:
            self.rope = rope
        else:
            self.refusal = f"its keys turn by a rule that is not known here (off by {off[0]:.1%} to {off.max():.1%})"
        return layout

    def token_bytes(self) -> int:
        """Return how many bytes one token's keys and values take, 0 where that is not known."""
        return self._layout.token_bytes() if self._layout else 0

    def read(self, stream: Stream, prompt: Prompt, reused: int, adapters: str, *, blockwise: bool) -> Steps:
        """Yield the runs that bring ``prompt`` into ``stream``; return what it is then.

        Args:
            stream: which holds the first ``reused`` tokens already.
            prompt: what to read.
            reused: as ``StreamTable.take`` gave it.
            adapters: fingerprint of those that compute it.
            blockwise: whether passages are read apart from each other.

        Raises:
            EngineError: blockwise, and this model's keys cannot be turned.
        """
        if reused == len(prompt.tokens) and stream.logits is not None:
            self._context.keep(stream.number, reused)
            stream.tokens = list(prompt.tokens)
            return Read(stream.logits, reused)
        if blockwise and prompt.passages:
            return (yield from self._stitch(stream, prompt, adapters))
        ends = prompt.ends(self._context.n_batch)
        exact = min(stream.exact, reused)
        cached = self._recall(stream, prompt, ends, reused, adapters)
        exact = exact if cached == reused else cached
        self._context.keep(stream.number, cached)
        stream.forget()
        stream.tokens = list(prompt.tokens[:cached])
        left = [end for end in ends if end > cached]
        if exact < cached:  # behind what the model wrote, see ``streams``: the usual stretches would make nothing exact
            left = [cached + end for end in Prompt(prompt.tokens[cached:]).ends(self._context.n_batch)]
        stream.exact = exact if exact < cached else len(prompt.tokens)
        logits = yield from self._stretches(stream, prompt.tokens, cached, left)
        return self._done(stream, prompt, logits, cached)

    def keep_prefix(self, stream: Stream, adapters: str) -> None:
        """Keep the prompt that ``stream`` holds before another one takes its place."""
        prompt = stream.prompt
        if self._layout is None or prompt is None or stream.stitched:
            return
        ends = [end for end in prompt.ends(self._context.n_batch) if end <= stream.exact]
        if not ends:
            return
        keys = list(prefix_keys(self._prefix_seed(adapters), prompt.tokens, ends))
        if all(key in self._store for key in keys):
            return
        whole, start = self._layout.read(self._context.save(stream.number)), 0
        for key, end in zip(keys, ends, strict=True):
            if key not in self._store:
                self._store.put(key, self._layout.cut(whole, start, end))
            start = end

    def _recall(self, stream: Stream, prompt: Prompt, ends: Sequence[int], reused: int, adapters: str) -> int:
        """Bring kept stretches into ``stream`` where that gives more than it holds; return how many tokens it has."""
        if self._layout is None:
            return reused
        blocks = self._known(list(prefix_keys(self._prefix_seed(adapters), prompt.tokens, ends[:-1])))
        kept = sum(map(len, blocks))
        if kept <= reused:
            return reused
        self._context.restore(stream.number, self._layout.write(blocks))
        return kept

    def _stitch(self, stream: Stream, prompt: Prompt, adapters: str) -> Steps:
        layout, rope = self._layout, self.rope
        if layout is None or rope is None:
            raise EngineError(
                "Passages cannot be read apart from each other with this model",
                got=self.refusal,
                hint="Train the adapter with full attention.",
            )
        first, last = prompt.passages[0][0], prompt.passages[-1][1]
        head = Prompt(prompt.tokens[:first], tuple(turn for turn in prompt.turns if turn < first))
        stream.forget()
        blocks, cached = yield from self._head(stream, head, adapters)
        instruction = head.tokens[: head.turns[0] if head.turns else first]
        for start, end in prompt.passages:
            block, known = yield from self._passage(stream, blocks, instruction, prompt.tokens[start:end], adapters)
            blocks.append(turn(block, start, rope, self._heads))
            cached += known
        self._context.restore(stream.number, layout.write(blocks))
        stream.stitched = True
        tail = Prompt(prompt.tokens[last:]).ends(self._context.n_batch)
        stream.tokens = list(prompt.tokens[:last])
        logits = yield from self._stretches(stream, prompt.tokens, last, [last + end for end in tail])
        return self._done(stream, prompt, logits, cached)

    def _head(
        self, stream: Stream, head: Prompt, adapters: str
    ) -> Generator[Run, NDArray[np.float32], tuple[list[Block], int]]:
        """Return the blocks of instruction and history, and how many of their tokens were known; keep what was not."""
        assert self._layout is not None
        if not head.tokens:
            return [], 0
        ends = head.ends(self._context.n_batch)
        keys = list(prefix_keys(self._prefix_seed(adapters), head.tokens, ends))
        blocks = self._known(keys)
        cached = sum(map(len, blocks))
        if cached == len(head.tokens):
            return blocks, cached
        if blocks:
            self._context.restore(stream.number, self._layout.write(blocks))
        else:
            self._context.keep(stream.number, 0)
        start, missing = cached, ends[len(blocks) :]
        for end in missing:
            yield Run(stream.number, start, head.tokens[start:end])
            start = end
        whole, start = self._layout.read(self._context.save(stream.number)), cached
        for key, end in zip(keys[len(blocks) :], missing, strict=True):
            blocks.append(self._layout.cut(whole, start, end))
            self._store.put(key, blocks[-1], durable=not head.turns or end <= head.turns[0])
            start = end
        stream.tokens = list(head.tokens)
        return blocks, cached

    def _passage(
        self,
        stream: Stream,
        blocks: Sequence[Block],
        instruction: tuple[int, ...],
        tokens: tuple[int, ...],
        adapters: str,
    ) -> Generator[Run, NDArray[np.float32], tuple[Block, int]]:
        """Return the block of a passage read right behind the instruction, and how many of its tokens were known.

        ``blocks`` begin with the instruction's.
        """
        assert self._layout is not None
        key = block_key(self._seed, adapters, "passage", instruction, tokens)
        block = self._store.get(key)
        if block is not None:
            return block, len(tokens)
        behind, start = len(instruction), 0
        if tuple(stream.tokens[:behind]) == instruction:
            self._context.keep(stream.number, behind)
        else:
            self._context.restore(stream.number, self._layout.write([b for b in blocks if b.position < behind]))
        for end in Prompt(tokens).ends(self._context.n_batch):
            yield Run(stream.number, behind + start, tokens[start:end])
            start = end
        stream.tokens = [*instruction, *tokens]
        whole = self._layout.read(self._context.save(stream.number))
        block = self._layout.cut(whole, behind, behind + len(tokens))
        self._store.put(key, block, durable=True)
        return block, 0

    def _known(self, keys: Sequence[str]) -> list[Block]:
        """Return the blocks of ``keys`` up to the first that is not there."""
        blocks: list[Block] = []
        for key in keys:
            block = self._store.get(key)
            if block is None:
                break
            blocks.append(block)
        return blocks

    def _stretches(
        self, stream: Stream, tokens: Sequence[int], start: int, ends: Sequence[int]
    ) -> Generator[Run, NDArray[np.float32], NDArray[np.float32]]:
        rows: NDArray[np.float32] | None = None
        for end in ends:
            wanted = end - start - 1 if end == ends[-1] else None
            rows = yield Run(stream.number, start, tokens[start:end], wanted)
            stream.tokens += tokens[start:end]
            start = end
        assert rows is not None
        last: NDArray[np.float32] = rows[-1].copy()
        return last

    @staticmethod
    def _done(stream: Stream, prompt: Prompt, logits: NDArray[np.float32], cached: int) -> Read:
        stream.prompt, stream.logits = prompt, logits
        return Read(logits, cached)

    def _prefix_seed(self, adapters: str) -> str:
        return block_key(self._seed, adapters, "prefix")
