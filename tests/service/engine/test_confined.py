"""The process that reads models and adapters: what the kernel lets it do."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from data.errors import InvalidModel, RagtuneError
from data.protocols import GenerationRequest
from data.records import Message, Model
from service.engine import Engine
from service.engine.child import run_once
from service.engine.quantize import quantize

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="Landlock and seccomp are Linux's"),
]


def status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def test_the_engine_may_make_no_connection_and_gains_no_rights(engine: Engine) -> None:
    assert engine.generate(GenerationRequest((Message("user", ("hello",)),), max_tokens=2)).usage.completion_tokens
    status = status_of(engine.pid)
    assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
    assert "0" in next(
        line for line in Path(f"/proc/{engine.pid}/limits").read_text().splitlines() if "core file" in line
    )


def test_it_writes_into_the_folders_that_it_was_given_and_no_others(starter: Model, tmp_path: Path) -> None:
    given, other = tmp_path / "given", tmp_path / "other"
    given.mkdir()
    other.mkdir()
    source = Path(starter.gguf)
    order = {"op": "quantize", "source": str(source), "type": "q8_0", "n_threads": 1, "importance": None}
    with pytest.raises((InvalidModel, RagtuneError)):
        run_once({**order, "target": str(other / "a.gguf")}, path=source, timeout_s=300, writable=(given,))
    assert list(other.iterdir()) == []
    assert quantize(source, given / "a.gguf", "q8_0", n_threads=1).stat().st_size > 2**20


def test_what_is_kept_of_passages_still_reaches_its_folder(starter: Model, tmp_path: Path) -> None:
    folder = tmp_path / "not yet" / "kv"
    with Engine(starter, n_threads=2, n_ctx=512, sequences=1, kv_folder=folder) as engine:
        engine.generate(GenerationRequest((Message("user", ("hello",)),), max_tokens=2))
        assert folder.is_dir()
        assert status_of(engine.pid)["Seccomp"] == "2"
