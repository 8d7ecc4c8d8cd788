"""Every bundle, run on this machine in an emulated layout of its platform, with the real starter model.

The platform's Python is an environment of its own in which the bundle installs its wheel, so what trains is what is in
the bundle; libraries are those that are here, found at the pinned versions.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import yaml

from data.errors import BaseModelMismatch, InvalidModel
from finetune.train import train
from finetune.train_log import read_log
from service.adapters import import_adapter, unpacked
from service.bundling import make_bundle
from service.promotion import promote
from service.training_set import training_set
from tests.finetune.houses import ignore
from tests.service.trainable import trainable

pytestmark = [
    pytest.mark.slow,
    # peft asks transformers for a name that transformers is about to change.
    pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning"),
]

RECIPE = {"max_steps": 2, "warmup_steps": 0}
INPUTS = {"name": "house", "collection": "default", "recipe": RECIPE}
NOTEBOOK = """
import sys, nbclient, nbformat
book = nbformat.read("colab_finetune.ipynb", as_version=4)
try:
    nbclient.NotebookClient(book, kernel_name="elsewhere", resources={"metadata": {"path": "."}}).execute()
finally:
    nbformat.write(book, "executed.ipynb")
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    with trainable(tmp_path_factory.mktemp("home")) as workspace:
        yield workspace


@pytest.fixture(scope="module")
def losses(home, tmp_path_factory):
    """Those of the training at home, as its job runs it."""
    found = training_set(home, INPUTS, ignore)
    folder = tmp_path_factory.mktemp("local")
    train(found.recipe, found.rows, home.model, folder, ignore, held_out=found.held_out)
    return [line["loss"] for line in read_log(folder / "train_log.jsonl")]


@pytest.fixture
def python(tmp_path):
    return environment(tmp_path)


def environment(root):
    """Make a Python of its own, which sees the libraries of this one but not ragtune."""
    folder = root / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(str(Path(yaml.__file__).parents[1]) + "\n")
    return folder / "bin" / "python"


def run(words, cwd, python, **more):
    """Run a command as on the platform: its own Python first, no package index."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PYTEST"))}
    path = f"{python.parent}:{os.environ['PATH']}"
    settings = {"PATH": path, "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", **more}
    # pip as a command, where a bundle says pip
    pip = python.parent / "pip"
    pip.write_text(f'#!/bin/sh\nexec "{python}" -m pip "$@"\n')
    pip.chmod(0o755)
    done = subprocess.run(
        list(map(str, words)), cwd=cwd, env={**inherited, **settings}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def bundled(home, platform, out, **more):
    return make_bundle(home, platform, out, {**INPUTS, **more}, ignore)


def trained(archive):
    with zipfile.ZipFile(archive) as opened:
        assert set(opened.namelist()) == {
            "adapter_model.safetensors",
            "adapter_config.json",
            "manifest.json",
            "recipe.toml",
            "train_log.jsonl",
        }
        lines = [json.loads(line) for line in opened.read("train_log.jsonl").decode().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_kaggle(home, losses, python, tmp_path):
    bundled(home, "kaggle", tmp_path / "out", owner="someone")
    working = tmp_path / "kaggle" / "working"
    working.mkdir(parents=True)
    (tmp_path / "kaggle" / "input").mkdir()
    (tmp_path / "out" / "bundle").rename(tmp_path / "kaggle" / "input" / "ragtune-house-bundle")
    run([python, tmp_path / "out" / "kernel" / "train.py", "--set", "seed=0"], working, python)
    assert trained(working / "out" / "house.zip") == losses


def test_sagemaker(home, losses, python, tmp_path):
    bundled(home, "sagemaker", tmp_path / "out")
    code, model = tmp_path / "code", tmp_path / "model"
    model.mkdir()
    (tmp_path / "out" / "source").rename(code)
    run([python, "-m", "pip", "install", "-r", "requirements.txt"], code, python)
    settings = {"max_steps": 2, "sagemaker_program": "train.py"}
    sagemaker = {
        "SM_CHANNEL_TRAINING": str(tmp_path / "out" / "bundle"),
        "SM_MODEL_DIR": str(model),
        "SM_OUTPUT_DATA_DIR": str(tmp_path / "data"),
        "SM_HPS": json.dumps(settings),
    }
    run([python, "train.py", "--max_steps", "2"], code, python, **sagemaker)
    assert trained(model / "house.zip") == losses


def test_azureml(home, losses, python, tmp_path):
    out = tmp_path / "out"
    bundled(home, "azureml", out)
    job = yaml.safe_load((out / "job.yml").read_text(encoding="utf-8"))
    places = {"${{inputs.bundle}}": str(out / job["inputs"]["bundle"]["path"]), "${{outputs.adapter}}": str(tmp_path)}
    command = job["command"]
    for name, place in places.items():
        command = command.replace(name, place)
    assert "${{" not in command
    run(["bash", "-c", command], tmp_path, python)
    assert trained(tmp_path / "house.zip") == losses


def test_skypilot(home, losses, python, tmp_path):
    bundled(home, "skypilot", tmp_path / "out")
    task = yaml.safe_load((tmp_path / "out" / "task.yaml").read_text(encoding="utf-8"))
    for step in ("setup", "run"):
        run(["bash", "-c", task[step]], tmp_path / "out" / task["workdir"], python, HOME=str(tmp_path / "home"))
    assert trained(tmp_path / "home" / "out" / "house.zip") == losses


@pytest.fixture(scope="module")
def colab(home, tmp_path_factory):
    """The notebook, run; its folder, and what the bundle was."""
    root = tmp_path_factory.mktemp("colab")
    out, python = root / "out", environment(root)
    made = bundled(home, "colab", out)
    kernel = root / "share" / "kernels" / "elsewhere"
    kernel.mkdir(parents=True)
    command = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    (kernel / "kernel.json").write_text(json.dumps({"argv": command, "display_name": "x", "language": "python"}))
    for file in (out / "bundle").iterdir():  # it comes as bundle.zip
        file.unlink()
    (out / "bundle").rmdir()
    run([sys.executable, "-c", NOTEBOOK], out, python, JUPYTER_PATH=str(root / "share"))
    return out, made


def test_colab(colab, losses):
    out, made = colab
    assert (made["base_model"], made["is_served"], made["examples"]) == ("starter", True, 4)
    said = (out / "executed.ipynb").read_text(encoding="utf-8")
    assert "ragtune adapters import house.zip" in said
    assert trained(out / "out" / "house.zip") == losses


def test_what_was_changed_or_trained_for_another_model_is_refused(home, colab, tmp_path):
    with zipfile.ZipFile(colab[0] / "out" / "house.zip") as opened:
        files = {name: opened.read(name) for name in opened.namelist()}
    weights = bytearray(files["adapter_model.safetensors"])
    weights[-1] ^= 1
    with pytest.raises(InvalidModel, match="changed or cut short"):
        attempt(home, tmp_path / "tampered.zip", {**files, "adapter_model.safetensors": bytes(weights)})
    manifest = {**json.loads(files["manifest.json"]), "base_sha256": "7" * 64, "served": None}
    with pytest.raises(BaseModelMismatch, match="another base model"):
        attempt(home, tmp_path / "foreign.zip", {**files, "manifest.json": json.dumps(manifest).encode()})
    assert home.store.adapters.list("refused") == []
    assert not list(home.state.tmp.glob("import-*"))


def test_the_adapter_comes_home_and_passes_the_gate(home, colab):
    out, made = colab
    with unpacked(home.state, out / "out" / "house.zip") as folder:
        adapter = import_adapter(home, "house", folder, ignore)
    assert adapter.metrics["parity"]["passed"]
    assert adapter.lineage["elsewhere"]["bundle"] == made["id"]
    assert adapter.lineage["elsewhere"]["init_adapter"] == "reader@1"
    assert promote(home.store, home.model, "house", adapter.version).live.stage == "live"


def attempt(home, archive, files):
    with zipfile.ZipFile(archive, "w") as out:
        for name, content in files.items():
            out.writestr(name, content)
    with unpacked(home.state, archive) as folder:
        import_adapter(home, "refused", folder, ignore)
