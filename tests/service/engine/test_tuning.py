"""Measuring how a model is served, and whether it fits into memory."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from data.errors import InsufficientMemory
from data.records import Model
from service.engine import Engine, EngineOptions
from service.engine.memory import available_bytes, check_memory, demand, smaller_if_needed
from service.engine.models import ModelRegistry
from service.engine.tuning import Tuning, load, machine, save
from service.serving import local_options
from service.settings import Settings
from service.workspace import Workspace

# Qwen2.5-7B: 28 layers, 4 key heads of 128, so 2 * 28 * 4 * 128 numbers a token.
META = {"gguf_bytes": 4_680_000_000, "kv_width": 28_672, "n_vocab": 152_064, "n_ctx_train": 32_768, "heads": 28}
MODEL = Model("qwen", "qwen.gguf", "qwen.gguf", "qwen.gguf", "a" * 64, "qwen2", META)
TUNING = Tuning(2, 256, True, "f16", 8, 1.5, 0.02, 0.4, MODEL.sha256, machine(), ({"n_threads": 2},))


def test_the_memory_of_a_model_adds_up() -> None:
    wanted = demand(MODEL, EngineOptions(n_ctx=4096, sequences=8, n_batch=128, kv_memory_mb=512))
    assert wanted.weights == 4_680_000_000
    assert wanted.kv == 8 * 4096 * 28_672 * 2
    assert wanted.kept == 512 * 2**20
    assert wanted.batch == 128 * (152_064 + 4096 * 28) * 4
    assert wanted.total == wanted.weights + wanted.kv + wanted.kept + wanted.batch
    fused = demand(MODEL, EngineOptions(n_ctx=4096, sequences=8, n_batch=128, flash_attention=True))
    assert fused.batch == 128 * 152_064 * 4
    assert demand(MODEL, EngineOptions(n_ctx=4096, sequences=8, kv_type="q8_0")).kv == pytest.approx(
        wanted.kv * 17 / 32
    )
    assert demand(MODEL, EngineOptions(n_ctx=100_000)).kv == demand(MODEL, EngineOptions(n_ctx=32_768)).kv


def test_what_does_not_fit_is_refused_with_the_sum() -> None:
    wanted = demand(MODEL, EngineOptions(n_ctx=4096, sequences=8))
    check_memory("qwen", wanted, wanted.total)
    with pytest.raises(InsufficientMemory) as caught:
        check_memory("qwen", wanted, wanted.total - 1)
    assert "8 sequences x 4096 tokens x 57.3 kB in f16" in str(caught.value.got)
    assert "RAGTUNE_SEQUENCES" in caught.value.hint
    check_memory("nothing", replace(wanted, weights=0, kv=0, kept=0, batch=0))
    assert (available_bytes() or 1) > 0


def test_keys_and_values_take_8_bits_only_where_16_do_not_fit() -> None:
    options = EngineOptions(n_ctx=4096, sequences=8)
    less = replace(options, kv_type="q8_0", flash_attention=True)
    whole, half = demand(MODEL, options).total, demand(MODEL, less).total
    assert smaller_if_needed(MODEL, options, whole) == options
    assert smaller_if_needed(MODEL, options, half - 1) == options  # it is refused as it was asked for
    small = smaller_if_needed(MODEL, options, half)
    assert (small.kv_type, small.flash_attention) == ("q8_0", True)


@pytest.mark.parametrize(("flash", "kv_type"), [(None, "q8_0"), (True, "q8_0"), (False, "f16")])
def test_what_was_set_is_kept_where_memory_is_short(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flash: bool | None, kv_type: str
) -> None:
    settings = Settings.load(state_dir=tmp_path, flash_attention=flash, n_ctx=4096)
    with Workspace(settings) as workspace:
        monkeypatch.setattr(workspace.models, "tune", lambda model: TUNING)
        options = replace(workspace.engine_options(MODEL), kv_type="q8_0", flash_attention=True)
        monkeypatch.setattr("service.engine.memory.available_bytes", lambda: demand(MODEL, options).total)
        assert workspace.tune(MODEL).kv_type == kv_type
        assert workspace.fitting_options(MODEL).flash_attention is (flash is not False and kv_type == "q8_0")


def test_a_tuning_is_kept_for_its_model_and_machine(tmp_path: Path) -> None:
    file = tmp_path / "tuning" / "qwen.json"
    assert load(file, MODEL) is None
    save(file, TUNING)
    kept = load(file, MODEL)
    assert kept is not None
    assert (kept.n_batch, kept.flash_attention, kept.drafts) == (256, True, 8)
    assert "batches of 256, flash attention on" in str(kept)
    assert load(file, replace(MODEL, sha256="b" * 64)) is None
    save(file, replace(TUNING, machine="another"))
    assert load(file, MODEL) is None
    file.write_text('{"n_threads": 2')
    assert load(file, MODEL) is None
    assert not TUNING.disturbed
    assert replace(TUNING, load=1000.0).disturbed


def test_what_is_set_overrules_what_was_measured(tmp_path: Path) -> None:
    def options(**values: object) -> EngineOptions:
        return local_options(Settings.load(state_dir=tmp_path, **values), TUNING, tmp_path / "kv")

    assert (options().n_batch, options().flash_attention, options().drafts) == (256, True, 8)
    assert (options(n_batch=64).n_batch, options(n_threads=1).n_threads) == (64, 1)
    assert (options(flash_attention=False).flash_attention, options(flash_attention=False).drafts) == (False, 0)
    assert options(flash_attention=False, drafts=3).drafts == 3
    assert local_options(Settings.load(state_dir=tmp_path), None, tmp_path).n_batch == EngineOptions().n_batch


def test_a_step_has_room_for_every_sequence_and_guess() -> None:
    assert EngineOptions(n_batch=32, sequences=64).order()["context"]["n_batch"] == 64
    assert EngineOptions(n_batch=16, sequences=2, drafts=31).order()["context"]["n_batch"] == 32


@pytest.mark.slow
def test_the_starter_is_measured_and_served_so(registry: ModelRegistry, starter: Model) -> None:
    assert starter.meta["kv_width"] == 30 * 2 * 3 * 64
    assert starter.meta["n_ctx_train"] == 8192
    assert starter.meta["gguf_bytes"] == Path(starter.gguf).stat().st_size
    tuning = registry.tune(starter)
    assert registry.tuning(starter) == replace(tuning, timings=list(tuning.timings))
    ways = {(t["n_threads"], t["n_batch"], t["flash_attention"], t["kv_type"]) for t in tuning.timings}
    assert (tuning.n_threads, tuning.n_batch, tuning.flash_attention, "f16") in ways
    assert {t["flash_attention"] for t in tuning.timings} == {True, False}
    assert any(t["kv_type"] == "q8_0" for t in tuning.timings)
    assert all(t["prompt_s"] > 0 < t["token_s"] for t in tuning.timings)
    names = ("n_threads", "n_batch", "flash_attention", "kv_type", "drafts")
    options = EngineOptions(n_ctx=512, sequences=2, **{name: getattr(tuning, name) for name in names})
    with Engine(starter, options) as engine:
        info = engine.info()
    wanted = demand(starter, options)
    assert info["kv_bytes"] == wanted.kv
