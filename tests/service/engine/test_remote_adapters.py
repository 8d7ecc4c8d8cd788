"""Adapters on servers: found by their files or names, loaded where the server loads, and never mixed up."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path

import pytest

from data import errors
from data.protocols import GenerationRequest
from data.records import Message
from service.engine.openai import OpenAIGenerator
from tests.service.engine.fake_server import MODEL, FakeServer

REQUEST = GenerationRequest((Message("user", ("Tell a story.",)),), max_tokens=12)
SHA256 = "b" * 64


def adapter_file(root: Path, key: str, *, peft: bool = True) -> Path:
    folder = root.joinpath(*key.split("@"))
    folder.mkdir(parents=True)
    if peft:
        (folder / "adapter_config.json").write_text("{}")
    return folder / "adapter.gguf"


def test_llama_server_tells_adapters_of_one_file_name_apart_by_their_folders(tmp_path: Path) -> None:
    files = {key: adapter_file(tmp_path, key) for key in ("house@1", "house@2", "style@1")}
    mounted = {"other": "/models/other.gguf", "b": "/mnt/adapters/house/2/adapter.gguf", "a": str(files["house@1"])}
    with FakeServer("llama-server", adapters={**mounted, "c": "style-1.gguf"}) as server:
        generator = OpenAIGenerator(server.url, base_sha256=SHA256)
        for key, file in files.items():
            assert math.isnan(generator.add_adapter(key, file, SHA256))
        for key, place in (("house@1", 2), ("house@2", 1), ("style@1", 3)):
            generator.generate(replace(REQUEST, adapter=key, adapter_scale=0.5))
            assert server.body["lora"] == [{"id": i, "scale": 0.5 if i == place else 0.0} for i in range(4)]
        generator.generate(REQUEST)
        # Adapters are applied unless a request says otherwise; so the base model has to be asked for.
        assert [one["scale"] for one in server.body["lora"]] == [0.0] * 4


def test_llama_server_started_again_with_other_adapters_answers_with_the_right_ones(tmp_path: Path) -> None:
    file = adapter_file(tmp_path, "house@1")
    with FakeServer("llama-server", adapters={"a": str(file), "b": "/other.gguf"}) as server:
        generator = OpenAIGenerator(server.url)
        generator.add_adapter("house@1", file, SHA256)
        server.adapters = {"b": "/other.gguf", "a": str(file)}
        generator.generate(replace(REQUEST, adapter="house@1"))
        assert server.body["lora"] == [{"id": 0, "scale": 0.0}, {"id": 1, "scale": 1.0}]
        server.adapters = {}
        with pytest.raises(errors.UnknownAdapter, match=f"--lora {file}"):
            generator.generate(replace(REQUEST, adapter="house@1"))
        generator.generate(REQUEST)
        assert "lora" not in server.body


def test_vllm_loads_a_folder_at_run_time_and_unloads_it(tmp_path: Path) -> None:
    file = adapter_file(tmp_path, "house@1")
    with FakeServer("vllm") as server, OpenAIGenerator(server.url) as generator:
        generator.add_adapter("house@1", file, SHA256)
        assert server.seen == [("/v1/load_lora_adapter", {"lora_name": "house@1", "lora_path": str(file.parent)})]
        generator.generate(replace(REQUEST, adapter="house@1"))
        assert server.body["model"] == "house@1"
        assert generator.check().models == (MODEL,)
        server.adapters.clear()  # it was started again
        generator.generate(replace(REQUEST, adapter="house@1"))
        generator.remove_adapter("house@1")
        assert server.seen[-1] == ("/v1/unload_lora_adapter", {"lora_name": "house@1"})
        with pytest.raises(errors.UnknownAdapter):
            generator.generate(replace(REQUEST, adapter="house@1"))


def test_vllm_keeps_what_it_was_started_with(tmp_path: Path) -> None:
    file = adapter_file(tmp_path, "house@1")
    with FakeServer("vllm", adapters={"house-1": "/anywhere"}, loads=False) as server:
        generator = OpenAIGenerator(server.url)
        generator.add_adapter("house@1", file, SHA256)
        generator.generate(replace(REQUEST, adapter="house@1"))
        assert server.body["model"] == "house-1"
        generator.remove_adapter("house@1")
        assert server.adapters == {"house-1": "/anywhere"}


def test_vllm_that_loads_nothing_says_how_to_start_it(tmp_path: Path) -> None:
    with FakeServer("vllm", loads=False) as server, OpenAIGenerator(server.url) as generator:
        with pytest.raises(errors.UnknownAdapter, match="VLLM_ALLOW_RUNTIME_LORA_UPDATING"):
            generator.add_adapter("house@1", adapter_file(tmp_path, "house@1"), SHA256)
        with pytest.raises(errors.UnknownAdapter, match="--lora-modules style@1"):
            generator.add_adapter("style@1", adapter_file(tmp_path, "style@1", peft=False), SHA256)


@pytest.mark.parametrize("name", ["house:1", "house-1", "house-1:latest", "house@1"])
def test_ollama_serves_an_adapter_as_a_model_of_its_name(tmp_path: Path, name: str) -> None:
    with FakeServer("ollama", adapters={name: ""}) as server, OpenAIGenerator(server.url, "", MODEL) as generator:
        generator.add_adapter("house@1", adapter_file(tmp_path, "house@1"), SHA256)
        generator.generate(replace(REQUEST, adapter="house@1"))
        assert server.body["model"] == name
        with pytest.raises(errors.UnknownAdapter, match="ollama create house:2"):  # not the version before
            generator.add_adapter("house@2", adapter_file(tmp_path, "house@2"), SHA256)


@pytest.mark.parametrize("dialect", ["vllm", "ollama", "openai"])
def test_scales_and_sums_are_refused_where_there_are_none(tmp_path: Path, dialect: str) -> None:
    with FakeServer(dialect, adapters={"a-1": "", "b-1": ""}) as server:
        generator = OpenAIGenerator(server.url, "", MODEL)
        for request in (
            replace(REQUEST, adapter="a@1", adapter_scale=0.5),
            replace(REQUEST, adapter="a@1", added_adapters=(("b@1", 1.0),)),
        ):
            with pytest.raises(errors.InvalidRequest, match="neither scales nor sums"):
                generator.generate(request)


def test_an_adapter_of_another_base_model_is_refused(tmp_path: Path) -> None:
    generator = OpenAIGenerator("http://127.0.0.1:1/v1", base_sha256=SHA256)
    with pytest.raises(errors.BaseModelMismatch, match="RAGTUNE_MODEL"):
        generator.add_adapter("house@1", tmp_path / "house-1.gguf", "c" * 64)


def test_a_blockwise_adapter_is_served_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with FakeServer("llama-server", adapters={"a": "house@1.gguf"}) as server, caplog.at_level(logging.WARNING):
        OpenAIGenerator(server.url).add_adapter("house@1", tmp_path / "x.gguf", SHA256, "blockwise")
    assert "full attention" in caplog.text
