"""An engine on a node: the model's files travel where they are missing, and another version is refused."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import pytest

from data.errors import EngineUnavailable, InvalidModel, StateError, StateNotWritable
from data.records import Model
from service.engine import EngineOptions, nodes
from service.engine.nodes import AdapterFile, EngineRecipe, add_adapter, lacking, receive, start


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    """The recipe of a model of three blocks, and a temporary folder of the node's own."""
    monkeypatch.setattr(nodes, "_BLOCK", 1000)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "node"))
    (tmp_path / "node").mkdir()
    file = tmp_path / "home" / "model.gguf"
    file.parent.mkdir()
    file.write_bytes(bytes(range(250)) * 10)
    model = Model("toy", str(file), str(file), str(file), "5" * 64, "llama")
    return EngineRecipe.of(model, EngineOptions(kv_folder=tmp_path / "kv"))


def elsewhere(recipe):
    """Return the engine on a node that does not have the model's path."""
    return replace(recipe, model=replace(recipe.model, gguf="/elsewhere/model.gguf"))(3)


def send(recipe, node):
    for block in recipe.blocks(lacking(node, None)):
        receive(node, block)


def test_a_model_that_is_at_its_path_is_not_sent(recipe):
    assert lacking(recipe(1), None) == ()
    assert list(recipe.blocks(())) == []


def test_a_model_that_is_missing_is_sent_and_kept_for_the_next_engine(recipe):
    node = elsewhere(recipe)
    assert lacking(node, None) == ("model.gguf",)
    assert [len(block.data) for block in recipe.blocks(("model.gguf",))] == [1000, 1000, 500]
    with pytest.raises(InvalidModel, match="not on this node"):
        start(node, None)
    send(recipe, node)
    assert lacking(node, None) == ()
    assert lacking(elsewhere(recipe), None) == ()
    (kept,) = Path(tempfile.gettempdir()).glob("ragtune-models-*/*/*")
    assert kept.read_bytes() == Path(recipe.model.gguf).read_bytes()
    kept.write_bytes(kept.read_bytes()[::-1])
    assert lacking(node, None) == ("model.gguf",)


def test_another_file_at_its_path_is_not_taken_for_it(recipe):
    Path(recipe.model.gguf).write_bytes(bytes(2500))
    node = recipe(1)
    assert lacking(node, None) == ("model.gguf",)
    with pytest.raises(InvalidModel, match="changed while it was sent"):
        send(recipe, node)
    assert not list(Path(tempfile.gettempdir()).rglob("*.part"))


class Taking:
    """In an engine's place: remembers the files of adapters."""

    def __init__(self):
        self.files = []

    def add_adapter(self, key, path, base_sha256, attention):
        self.files.append(Path(path))


def kept_files():
    """Return the names of all files that are kept on the node."""
    return sorted(path.name for path in Path(tempfile.gettempdir()).rglob("*") if path.is_file())


def test_an_adapter_is_kept_as_long_as_its_engine(recipe):
    node = elsewhere(recipe)
    send(recipe, node)
    node.engine = taking = Taking()
    add_adapter(node, AdapterFile("mine@1", b"GGUF of an adapter", recipe.model.sha256, "full"))
    (file,) = taking.files
    other = elsewhere(recipe)
    receive(other, next(recipe.blocks(("model.gguf",))))
    assert file.read_bytes() == b"GGUF of an adapter"
    del node, other
    assert kept_files() == ["model.gguf"]


def test_what_a_killed_engine_left_is_dropped_by_the_next(recipe):
    left = """
import os, signal, sys, tempfile
tempfile.tempdir = sys.argv[1]
from pathlib import Path
from data.records import Model
from service.engine import EngineOptions, nodes
model = Model("toy", sys.argv[2], sys.argv[2], sys.argv[2], "5" * 64, "llama")
recipe = nodes.EngineRecipe.of(model, EngineOptions())
nodes._BLOCK = 1000
nodes.receive(recipe(1), next(recipe.blocks((recipe.files[0].name,))))
node = recipe(1)
node.engine = type("Taking", (), {"add_adapter": lambda *_: None})()
nodes.add_adapter(node, nodes.AdapterFile("mine@1", b"GGUF", model.sha256, "full"))
nodes.receive(node, next(recipe.blocks((recipe.files[0].name,))))
os.kill(os.getpid(), signal.SIGKILL)
"""
    ran = subprocess.run([sys.executable, "-c", left, tempfile.gettempdir(), recipe.model.gguf], check=False)
    assert ran.returncode < 0
    assert len(kept_files()) == 2, "an adapter, and a part of a model's file"
    node = elsewhere(recipe)
    send(recipe, node)
    assert kept_files() == ["model.gguf"]
    del node
    assert kept_files() == ["model.gguf"]


def test_a_model_that_is_gone_here_is_told(recipe):
    Path(recipe.model.gguf).unlink()
    with pytest.raises(InvalidModel, match="cannot be read"):
        list(recipe.blocks(("model.gguf",)))


def test_no_room_for_it_is_an_error_of_the_node(recipe):
    node = elsewhere(recipe)
    Path(tempfile.gettempdir(), f"ragtune-models-{os.getuid()}").write_text("a file where the folder would be")
    with pytest.raises(StateError, match="File exists"):
        send(recipe, node)


def test_a_folder_that_others_may_write_is_not_used(recipe):
    folder = Path(tempfile.gettempdir(), f"ragtune-models-{os.getuid()}")
    folder.mkdir()
    folder.chmod(0o777)
    with pytest.raises(StateNotWritable, match="alone"):
        send(recipe, elsewhere(recipe))


def test_an_engine_has_the_nodes_processors_and_no_folder_of_home(recipe):
    assert recipe(3).recipe.options.n_threads == 3
    assert recipe.options.kv_folder is None


def test_another_version_is_refused_with_both(recipe):
    older = {**recipe.versions, "ragtune": "0.0.1"}
    with pytest.raises(EngineUnavailable, match="version") as raised:
        replace(recipe, versions=older)(1)
    assert "ragtune 0.0.1" in str(raised.value.wanted)
    assert recipe.versions["llama-cpp-python"] in str(raised.value.got)
