"""Row 20 of the matrix: 64 callers of one engine at once, each of whom must get its own answer.

A tiny model of random weights, served by the real engine. Every question holds a word of its own; what is written,
with its probabilities, must be what an engine writes that has one sequence and is asked nothing else. Some read a
stream, and some leave one after its first words, so that places change hands in the middle.
"""

from __future__ import annotations

import hashlib
import itertools
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

from data.protocols import GenerationRequest, GenerationResult
from data.records import Message, Model
from finetune.convert import hf_to_gguf
from service.engine.models import inspect
from tests.finetune.tiny import save_model
from tests.torture.swaps import engine, same

FAULTS = ("mismatched", "failed", "blind")
CALLERS, QUESTIONS = 64, 120


def build(folder: Path) -> Model:
    """Make the model."""
    served = hf_to_gguf(save_model(folder / "model", "llama", max_position_embeddings=4096), folder / "model.gguf")
    facts = inspect(served)
    return Model("tiny", "tests", str(served), str(served), "0" * 64, facts.pop("architecture"), facts)


def question(number: int) -> GenerationRequest:
    """Return a question with a word of its own, of a length of its own."""
    word = hashlib.sha256(str(number).encode()).hexdigest()[:12]
    said = f"The lighthouse of {word} was kept by Mara Venn. " * (1 + number % 7)
    return GenerationRequest((Message("user", (said, f"Who kept {word}?")),), max_tokens=4 + number % 13)


def read(stream: object, *, leave: bool) -> GenerationResult | None:
    """Read a stream to its end and return the result; or leave it after its first piece."""
    with closing(stream) as pieces:  # type: ignore[type-var]
        for piece in pieces:
            if leave:
                return None
            if piece.result is not None:
                found: GenerationResult = piece.result
                return found
    raise AssertionError("the stream has no end")


def run(trials: int, seed: int, folder: Path) -> dict[str, int]:
    """Ask ``trials`` times, ``CALLERS`` at once; return what went wrong."""
    model = build(folder)
    with engine(model, {}, sequences=1, kv_memory_mb=0) as cold:
        alone = [cold.generate(question(number)) for number in range(QUESTIONS)]
    blind = sum(same(one, other) for one, other in itertools.combinations(alone, 2))
    counts: Counter[str] = Counter({**dict.fromkeys((*FAULTS, "same", "left"), 0), "blind": blind})
    chance = random.Random(seed)
    asked = [(chance.randrange(QUESTIONS), chance.random()) for _ in range(trials)]
    with engine(model, {}, sequences=8, queue_size=CALLERS, kv_memory_mb=1) as warm:

        def ask(one: tuple[int, float]) -> str:
            number, kind = one
            try:
                if kind < 0.5:
                    got: GenerationResult | None = warm.generate(question(number))
                else:
                    got = read(warm.stream(question(number)), leave=kind > 0.9)
            except Exception as error:
                print(f"{number}: {type(error).__name__}: {error}", flush=True)  # noqa: T201
                return "failed"
            return "left" if got is None else "same" if same(got, alone[number]) else "mismatched"

        with ThreadPoolExecutor(CALLERS) as pool:
            counts.update(pool.map(ask, asked))
    return {"trials": trials, **counts}
