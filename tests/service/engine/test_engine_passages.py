"""The engine's kept passages and its adapters, with the packaged starter model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data import errors
from data.protocols import GenerationRequest, GenerationResult
from data.records import Message, Model
from finetune.export import lora_to_gguf
from service.engine import Engine
from service.starter import starter_folder
from tests.service.engine.gguf_files import write_lora
from tests.service.engine.test_engine import CAPITAL, FILLER, LONG, long_prompt

pytestmark = pytest.mark.slow


def test_an_adapter_changes_answers_without_touching_the_base(engine: Engine, starter: Model, tmp_path: Path) -> None:
    base = engine.generate(CAPITAL)
    change = engine.add_adapter("noise@1", write_lora(tmp_path / "noise.gguf", 0.2), starter.sha256)
    assert change > 0.01
    for _ in range(3):
        tuned = engine.generate(replace(CAPITAL, adapter="noise@1"))
        assert tuned.logprobs != base.logprobs
        again = engine.generate(CAPITAL)
        assert (again.text, again.logprobs) == (base.text, base.logprobs)
    engine.remove_adapter("noise@1")
    with pytest.raises(errors.UnknownAdapter):
        engine.generate(replace(CAPITAL, adapter="noise@1"))


def test_wrong_adapters_are_refused(engine: Engine, starter: Model, tmp_path: Path) -> None:
    good = write_lora(tmp_path / "good.gguf", 0.2)
    with pytest.raises(errors.BaseModelMismatch):
        engine.add_adapter("a", good, "0" * 64)
    with pytest.raises(errors.AdapterInert):
        engine.add_adapter("a", write_lora(tmp_path / "inert.gguf", 0.0), starter.sha256)
    with pytest.raises(errors.InvalidModel):
        engine.add_adapter("a", write_lora(tmp_path / "shape.gguf", 0.2, n_in=64), starter.sha256)
    with pytest.raises(errors.InvalidModel):
        engine.add_adapter("a", write_lora(tmp_path / "arch.gguf", 0.2, architecture="qwen2"), starter.sha256)
    (tmp_path / "cut.gguf").write_bytes(good.read_bytes()[:5000])
    with pytest.raises(errors.InvalidModel):
        engine.add_adapter("a", tmp_path / "cut.gguf", starter.sha256)
    with pytest.raises(errors.InvalidModel):
        engine.add_adapter("a", tmp_path / "absent.gguf", starter.sha256)
    with pytest.raises(errors.UnknownAdapter):
        engine.stream(replace(CAPITAL, adapter="a"))
    assert "Paris" in engine.generate(CAPITAL).text


PASSAGES = tuple(
    f"[{10 + n}]\nShip {n}\nThe keeper of lighthouse {n} saw the ship {name} in {1800 + n} and wrote down its tide.\n\n"
    for n, name in enumerate(("Aurora", "Borealis", "Cygnus", "Delphin", "Electra", "Fortuna"))
)


def over(*numbers: int, question: str = "Which ship was seen?", **options: object) -> GenerationRequest:
    parts = (*(PASSAGES[n] for n in numbers), f"Question: {question}")
    messages = (Message("system", ("Answer from the passages.",)), Message("user", parts))
    return GenerationRequest(messages, max_tokens=12, **options)


@pytest.fixture
def blockwise(engine: Engine, starter: Model, tmp_path: Path) -> Iterator[str]:
    engine.add_adapter("block@1", write_lora(tmp_path / "block.gguf", 0.2), starter.sha256, "blockwise")
    yield "block@1"
    engine.remove_adapter("block@1")


def test_passages_read_before_are_not_read_again_in_any_order(engine: Engine, blockwise: str) -> None:
    def ask(*numbers: int, question: str = "Which ship was seen?") -> GenerationResult:
        return engine.generate(over(*numbers, question=question, adapter=blockwise))

    cold = ask(0, 1)
    assert cold.usage.cached_tokens == 0
    for numbers, question in (((1, 0), "Which ship was seen?"), ((0, 1), "When was it?")):
        warm = ask(*numbers, question=question)
        assert warm.usage.prompt_tokens - warm.usage.cached_tokens < 25  # the question and the markup around it
    mixed = ask(2, 0)
    assert 40 < mixed.usage.cached_tokens < mixed.usage.prompt_tokens - 25


def test_stitched_passages_give_what_the_same_computation_gives_from_scratch(
    engine: Engine, blockwise: str, starter: Model, tmp_path: Path
) -> None:
    for numbers in ((3,), (4,), (5, 3)):
        engine.generate(over(*numbers, adapter=blockwise))
    warm = [engine.generate(over(*numbers, adapter=blockwise)) for numbers in ((5, 4, 3), (4, 3), (3, 5))]
    adapter = write_lora(tmp_path / "same.gguf", 0.2)
    with Engine(starter, n_threads=2, n_ctx=1024, sequences=2, kv_memory_mb=0) as fresh:
        fresh.add_adapter(blockwise, adapter, starter.sha256, "blockwise")
        cold = [fresh.generate(over(*numbers, adapter=blockwise)) for numbers in ((5, 4, 3), (4, 3), (3, 5))]
    assert all(result.usage.cached_tokens == 0 for result in cold)
    assert [(r.text, r.logprobs) for r in warm] == [(r.text, r.logprobs) for r in cold]


def test_an_adapter_of_full_attention_never_reads_passages_apart(
    engine: Engine, blockwise: str, starter: Model, tmp_path: Path
) -> None:
    engine.generate(over(0, 1, adapter=blockwise))
    with Engine(starter, n_threads=2, n_ctx=1024, sequences=2) as fresh:
        apart = fresh.score(over(0, 1).messages, "Aurora")
    assert np.array_equal(engine.score(over(0, 1).messages, "Aurora").logits, apart.logits)
    engine.add_adapter("full@1", write_lora(tmp_path / "full.gguf", 0.2), starter.sha256)
    whole, parted = (engine.score(over(0, 1).messages, "Aurora", key).logits for key in ("full@1", blockwise))
    assert np.abs(whole - parted).max() > 0.1
    with pytest.raises(errors.InvalidRequest, match="blockwise"):
        engine.generate(over(0, adapter="full@1", added_adapters=((blockwise, 1.0),)))
    engine.remove_adapter("full@1")


def test_passages_survive_a_restart_on_disk_and_damage_costs_only_time(starter: Model, tmp_path: Path) -> None:
    adapter = write_lora(tmp_path / "block.gguf", 0.2)

    def ask() -> GenerationResult:
        with Engine(starter, n_threads=2, n_ctx=512, sequences=1, kv_folder=tmp_path / "kv") as engine:
            engine.add_adapter("b", adapter, starter.sha256, "blockwise")
            return engine.generate(over(0, 1, adapter="b"))

    cold, warm = ask(), ask()
    assert cold.usage.cached_tokens == 0 < warm.usage.cached_tokens
    for path in (tmp_path / "kv").iterdir():
        path.write_bytes(path.read_bytes()[:-7])
    damaged, again = ask(), ask()
    assert (damaged.usage.cached_tokens, again.usage.cached_tokens) == (0, warm.usage.cached_tokens)
    assert len({(r.text, r.logprobs) for r in (cold, warm, damaged, again)}) == 1


@pytest.mark.parametrize("way", [{}, {"flash_attention": True, "n_batch": 256}, {"flash_attention": True, "drafts": 6}])
def test_who_else_is_served_changes_no_answer(starter: Model, tmp_path: Path, way: dict[str, object]) -> None:
    """Other adapters, other lengths, all at once: every output is, to the last bit, what it is alone."""
    with Engine(starter, n_threads=2, n_ctx=1024, sequences=1, queue_size=1, **way) as engine:
        _serve_alone_and_together(engine, starter, tmp_path, way)


@pytest.mark.parametrize("way", [{}, {"flash_attention": True, "n_batch": 256}])
def test_trained_adapters_write_beside_others_what_they_write_alone(
    starter: Model, tmp_path: Path, way: dict[str, object]
) -> None:
    """Ranks that are a multiple of four are what llama.cpp multiplies otherwise for one text than for two."""
    texts = [FILLER * 3 + f"Ask about ship {n}." for n in range(4)]
    written = [GenerationRequest((Message("user", (text,)),), adapter="pair-writer", max_tokens=16) for text in texts]
    read = [over(0, 1, 2, adapter="reader", question=f"Which ship was seen in year {n}?") for n in range(4)]
    requests = [each for pair in zip(written, read, strict=True) for each in pair]

    def served(sequences: int) -> list[tuple[str, tuple[float, ...]]]:
        with Engine(starter, n_threads=2, n_ctx=1024, sequences=sequences, queue_size=8, **way) as engine:
            for name, attention in (("pair-writer", "full"), ("reader", "blockwise")):
                gguf = lora_to_gguf(starter_folder() / name, starter.gguf, tmp_path / f"{name}.gguf")
                engine.add_adapter(name, gguf, starter.sha256, attention)
            with ThreadPoolExecutor(sequences) as pool:
                return [(found.text, found.logprobs) for found in pool.map(engine.generate, requests)]

    assert served(4) == served(1)


def _serve_alone_and_together(engine: Engine, starter: Model, tmp_path: Path, way: dict[str, object]) -> None:
    for name, strength in (("a", 0.2), ("b", -0.2), ("c", 0.4)):
        engine.add_adapter(name, write_lora(tmp_path / f"{name}.gguf", strength), starter.sha256)
    requests = [
        replace(long_prompt(f"What is {n}?", repeat=1 + n % 4), adapter=(None, "a", "b", "c")[n % 4]) for n in range(16)
    ]
    alone = [engine.generate(request) for request in requests]
    with Engine(starter, n_threads=2, n_ctx=1024, sequences=6, queue_size=16, **way) as busy:
        for name, strength in (("a", 0.2), ("b", -0.2), ("c", 0.4)):
            busy.add_adapter(name, write_lora(tmp_path / f"{name}.gguf", strength), starter.sha256)
        with ThreadPoolExecutor(16) as pool:
            together = list(pool.map(busy.generate, requests))
        statistics = busy.statistics()
    assert [(r.text, r.logprobs) for r in together] == [(r.text, r.logprobs) for r in alone]
    assert statistics["written_tokens"] > statistics["write_steps"]  # they really were decoded together
    assert statistics["adapter_swaps"] >= 3


def test_more_adapters_than_may_stay_loaded_are_served(starter: Model, tmp_path: Path) -> None:
    with Engine(starter, n_threads=2, n_ctx=256, sequences=2, adapters=1) as small:
        for number in range(3):
            adapter = write_lora(tmp_path / f"{number}.gguf", 0.1 * (number + 1))
            small.add_adapter(f"n@{number}", adapter, starter.sha256)
        first = [small.generate(replace(CAPITAL, adapter=f"n@{n}")) for n in range(3)]
        again = [small.generate(replace(CAPITAL, adapter=f"n@{n}")) for n in (2, 0, 1)]
        assert [first[n].logprobs for n in (2, 0, 1)] == [result.logprobs for result in again]
        assert small.statistics()["adapters_loaded"] <= 2


def test_an_adapter_that_is_removed_fails_those_that_wait_for_it_and_no_other(starter: Model, tmp_path: Path) -> None:
    with Engine(starter, n_threads=2, n_ctx=1024, sequences=1, queue_size=4) as engine:
        engine.add_adapter("going", write_lora(tmp_path / "going.gguf", 0.2), starter.sha256)
        running = engine.stream(LONG)
        next(running)
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(engine.generate, replace(CAPITAL, adapter="going"))
            while engine.statistics()["waiting"] == 0:
                time.sleep(0.01)
            pid = engine.pid
            engine.remove_adapter("going")
            with pytest.raises(errors.EngineError, match="removed"):
                waiting.result()
        next(running)
        running.close()
        assert engine.pid == pid


def test_a_file_that_changed_since_it_was_added_is_refused_and_costs_nobody_else(
    starter: Model, tmp_path: Path
) -> None:
    with Engine(starter, n_threads=2, n_ctx=256, sequences=2, adapters=1) as engine:
        for number in range(2):
            adapter = write_lora(tmp_path / f"{number}.gguf", 0.1 * (number + 1))
            engine.add_adapter(f"n@{number}", adapter, starter.sha256)
        engine.generate(replace(CAPITAL, adapter="n@0"))
        write_lora(tmp_path / "1.gguf", 0.4)
        pid = engine.pid
        with pytest.raises(errors.InvalidModel, match="changed"):
            engine.generate(replace(CAPITAL, adapter="n@1"))
        assert engine.generate(CAPITAL).text
        assert engine.pid == pid


def test_scales_and_sums_of_adapters(engine: Engine, starter: Model, tmp_path: Path) -> None:
    for name, strength in (("plus", 0.2), ("minus", -0.2)):
        engine.add_adapter(name, write_lora(tmp_path / f"{name}.gguf", strength), starter.sha256)
    base, whole = engine.generate(CAPITAL), engine.generate(replace(CAPITAL, adapter="plus"))
    half = engine.generate(replace(CAPITAL, adapter="plus", adapter_scale=0.5))
    assert len({base.logprobs, whole.logprobs, half.logprobs}) == 3
    cancelled = engine.generate(replace(CAPITAL, adapter="plus", added_adapters=(("minus", 1.0),)))
    assert cancelled.text == base.text
    assert cancelled.logprobs == pytest.approx(base.logprobs, abs=0.1)
    assert engine.generate(replace(CAPITAL, added_adapters=(("plus", 1.0),))).logprobs == whole.logprobs
    for name in ("plus", "minus"):
        engine.remove_adapter(name)
