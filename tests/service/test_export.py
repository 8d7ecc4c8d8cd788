"""What is exported is compared, and what was measured is kept, whether it passed or not."""

from __future__ import annotations

import json

import pytest

from data.errors import InvalidModel, ParityFailed
from service.arms import find_adapter
from service.export import export_adapter
from service.merging import own_examples, spread
from service.promotion import promote
from service.settings import Settings
from service.workspace import Workspace
from tests.service.parts import adapter

MEASURED = {"greedy_agreement": 0.99, "kl": 0.001, "passed": True}


@pytest.fixture
def house(workspace):
    folder = workspace.state.adapters("house", 1)
    folder.mkdir(parents=True)
    (folder / "adapter.gguf").write_bytes(b"lora")
    row = {"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Mara"}], "chunk_id": ""}
    (folder / "train.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    files = {name: f"adapters/house/1/{name}" for name in ("adapter.gguf", "train.jsonl")}
    workspace.store.adapters.add(adapter(files=files))
    return workspace.store.adapters.get("house", 1)


def kept(workspace):
    return workspace.store.adapters.get("house", 1).metrics["quantizations"]


def test_each_quantization_is_kept_with_the_adapter(workspace, house, tmp_path, monkeypatch):
    def merged(_workspace, _adapter, lora, target, *, kind, report):
        target.write_bytes((lora / "adapter.gguf").read_bytes() + kind.encode())
        return MEASURED

    monkeypatch.setattr("service.export.merge_model", merged)
    for kind in ("Q4_K_M", "Q5_K_M", "Q6_K", "Q8_0", "F16"):
        out = tmp_path / f"{kind}.gguf"
        done = export_adapter(workspace, house, out, merge=True, quantize=kind, report=lambda _: None)
        assert (done["parity"], out.read_bytes()) == (MEASURED, b"lora" + kind.lower().encode())
    assert kept(workspace) == dict.fromkeys(("q4_k_m", "q5_k_m", "q6_k", "q8_0", "f16"), MEASURED)


def test_a_merged_model_that_answers_otherwise_is_not_written_and_that_is_kept(workspace, house, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise ParityFailed("Differs", got="9 of 10 tokens differ", wanted="at most 1")

    monkeypatch.setattr("service.export.merge_model", fail)
    with pytest.raises(ParityFailed):
        export_adapter(workspace, house, tmp_path / "o.gguf", merge=True, quantize="q4_0", report=lambda _: None)
    assert kept(workspace) == {"q4_0": {"passed": False, "got": "9 of 10 tokens differ", "wanted": "at most 1"}}
    assert workspace.store.adapters.get("house", 1).metrics["parity"], "what else was measured stays"


def test_the_rows_it_was_trained_on_are_its_examples(workspace, house):
    (example,) = own_examples(workspace, house)
    assert ([message.content for message in example.messages], example.completion) == (["Who?"], "Mara")
    assert own_examples(workspace, adapter("other")) == []
    assert spread(list(range(100)), 4) == [0, 25, 50, 75]
    assert spread([1, 2], 4) == [1, 2]
    assert spread([], 4) == []
    assert spread(list(range(7)), 4) == [0, 1, 3, 5], "not the first four"


def test_a_dora_is_exported_merged_and_never_alone(workspace, tmp_path, monkeypatch):
    folder = workspace.state.adapters("dora", 1)
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"use_dora": True, "r": 4, "lora_alpha": 8}))
    (folder / "adapter_model.safetensors").write_bytes(b"")
    files = {name: f"adapters/dora/1/{name}" for name in ("adapter_config.json", "adapter_model.safetensors")}
    workspace.store.adapters.add(adapter("dora", files=files, recipe={"use_dora": True}, metrics={}))
    dora = workspace.store.adapters.get("dora", 1)
    with pytest.raises(InvalidModel, match="use_dora") as caught:
        export_adapter(workspace, dora, report=lambda _: None)
    assert "--merge" in caught.value.hint
    with pytest.raises(ParityFailed, match="merged into its base only"):
        promote(workspace.store, workspace.model, "dora")

    def merged(_workspace, _adapter, lora, target, *, kind, report):
        target.write_text(f"{lora.name} {kind}")
        return MEASURED

    monkeypatch.setattr("service.export.merge_model", merged)
    done = export_adapter(workspace, dora, tmp_path / "o.gguf", merge=True, quantize="q8_0", report=lambda _: None)
    assert (done["parity"], (tmp_path / "o.gguf").read_text()) == (MEASURED, "1 q8_0")


@pytest.mark.slow
def test_a_type_that_rounds_the_adapter_away_is_refused_before_it_is_compared(tmp_path):
    """The starter's weights stand on the grid of Q4_1: what an adapter adds is less than half a step of it."""
    settings = Settings.load(state_dir=tmp_path / "state", model="starter", embedder="starter")
    with Workspace(settings) as workspace:
        workspace.ensure_starter_adapters()
        reader, out = find_adapter(workspace.store, "reader"), tmp_path / "merged.gguf"
        with pytest.raises(ParityFailed, match="undoes the adapter") as caught:
            export_adapter(workspace, reader, out, merge=True, quantize="q4_1", report=lambda _: None)
        assert "q6_k" in caught.value.hint
        assert not out.exists()
        done = export_adapter(workspace, reader, out, merge=True, quantize="q8_0", report=lambda _: None)
    assert done["parity"]["adapter_kept"] > 0.9
