"""Rows 24 and 42 of the matrix: adapters that change from request to request, over kept states of ten collections.

A tiny model of random weights is served by the real engine, with two of its five sets of adapters loaded at a time and
memory for few passages, so that both come and go. The collections' documents differ in one word. Every output, its
probabilities too, must be that of an engine which has this set alone and has seen nothing else: a state that is another
adapter's, or another collection's, gives other ones.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from data.prompt import answer_messages
from data.protocols import GenerationRequest, GenerationResult
from data.records import Chunk, Model, Passage
from finetune.convert import hf_to_gguf
from finetune.export import lora_to_gguf
from service.engine import Engine
from service.engine.models import inspect
from tests.finetune.tiny import save_adapter, save_model
from tests.torture.crossings import COLLECTIONS, secret

FAULTS = ("mismatched", "failed", "blind")
CLIENTS = 4
SETS: tuple[dict[str, Any], ...] = (
    {},
    {"adapter": "full2"},
    {"adapter": "full3", "adapter_scale": 0.5},
    {"adapter": "blockwise4"},
    {"adapter": "blockwise5"},
)
_NOISE = 0.01
"""Of a log-probability, by the order in which float16 sums are taken; another state moves it by a tenth and more."""


def build(folder: Path) -> tuple[Model, dict[str, Path]]:
    """Make a model, and an adapter for each name in ``SETS``; the number in a name is its rank."""
    weights = save_model(folder / "model", "llama", max_position_embeddings=4096)
    served = hf_to_gguf(weights, folder / "model.gguf")
    facts = inspect(served)
    model = Model("tiny", "tests", str(served), str(served), "0" * 64, facts.pop("architecture"), facts)
    adapters = {}
    for name in (chosen["adapter"] for chosen in SETS if chosen):
        made = save_adapter(folder / name, weights, r=int(name[-1]))
        adapters[name] = lora_to_gguf(made, served, folder / f"{name}.gguf")
    return model, adapters


def request(collection: str, chosen: dict[str, Any]) -> GenerationRequest:
    """Return a question over a passage that is the collection's own and one that stands in all of them."""
    texts = (
        f"The vault of the sea was built by Mara Venn and opens with the word {secret(collection)}.",
        "The sea is salt and the bay is wide. Its keeper was called Venn and lived in a house on the red cliff.",
    )
    passages = [
        Passage(Chunk(f"{rank}", "d", text, 0, len(text)), 1.0, rank, "torture", "vault.md", "Vault")
        for rank, text in enumerate(texts, 1)
    ]
    asked = GenerationRequest(answer_messages("Which word opens the vault?", passages), max_tokens=8)
    return replace(asked, **chosen)


def engine(model: Model, known: dict[str, Path], **options: Any) -> Engine:
    """Return a started engine that knows these adapters."""
    started = Engine(model, n_ctx=4096, n_threads=1, **options)
    started.start()
    for name, path in known.items():
        started.add_adapter(name, path, model.sha256, name.rstrip("0123456789"))
    return started


def alone(model: Model, adapters: dict[str, Path]) -> dict[tuple[str, int], GenerationResult]:
    """Return what each set answers to each collection, in an engine of its own that keeps nothing."""
    found = {}
    for number, chosen in enumerate(SETS):
        own = {name: path for name, path in adapters.items() if name == chosen.get("adapter")}
        with engine(model, own, sequences=1, kv_memory_mb=0) as cold:
            for collection in COLLECTIONS:
                found[collection, number] = cold.generate(request(collection, chosen))
    return found


def same(one: GenerationResult, other: GenerationResult) -> bool:
    """Tell whether two outputs are of the same state."""
    pairs = zip(one.logprobs, other.logprobs, strict=False)
    return one.text == other.text and all(abs(a - b) < _NOISE for a, b in pairs)


def alike(wanted: dict[tuple[str, int], GenerationResult]) -> int:
    """Return how many outputs could be taken for another's: of another collection, or of another set."""
    pairs = itertools.combinations(wanted.items(), 2)
    return sum(same(one, other) for (_, one), (_, other) in pairs)


def run(trials: int, seed: int, folder: Path) -> dict[str, int]:
    """Ask ``trials`` times for a set and a collection of chance, several at once; return what went wrong."""
    model, adapters = build(folder)
    wanted = alone(model, adapters)
    counts: Counter[str] = Counter({**dict.fromkeys(FAULTS, 0), "blind": alike(wanted)})
    chance = random.Random(seed)
    asked = [(chance.choice(COLLECTIONS), chance.randrange(len(SETS))) for _ in range(trials)]
    options = {"sequences": CLIENTS, "queue_size": 64, "adapters": 2, "kv_memory_mb": 1}
    with engine(model, adapters, kv_folder=folder / "kv", kv_disk_mb=64, **options) as warm:

        def ask(one: tuple[str, int]) -> str:
            try:
                got = warm.generate(request(one[0], SETS[one[1]]))
            except Exception as error:
                print(f"{one}: {type(error).__name__}: {error}", flush=True)  # noqa: T201
                return "failed"
            return "same" if same(got, wanted[one]) else "mismatched"

        with ThreadPoolExecutor(CLIENTS) as pool:
            counts.update(pool.map(ask, asked))
        seen = warm.statistics()
    hits = seen["kv"]["memory_hits"] + seen["kv"]["disk_hits"]
    return {"trials": trials, "swaps": seen["adapter_swaps"], "kept_states_used": hits, **counts}
