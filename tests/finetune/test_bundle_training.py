"""Training from a bundle: what is refused before a step, a time limit, and the entry point (needs torch)."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from data.errors import BaseModelMismatch, RecipeInvalid
from data.state import sha256_file
from finetune.cloud.training import train_bundle
from finetune.estimate import Estimate
from tests.finetune.bundles import make
from tests.finetune.houses import QUICK, ignore
from tests.finetune.tiny import save_model

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]


def test_four_bits_without_cuda_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    make(tmp_path / "out", recipe=replace(QUICK, qlora=True))
    with pytest.raises(RecipeInvalid) as caught:
        train_bundle(tmp_path / "out" / "bundle", tmp_path / "run", ignore)
    assert "Change runtime type" in caught.value.hint
    assert "qlora=false" in caught.value.hint


def test_other_weights_and_other_tokens_are_refused_before_training(tmp_path: Path) -> None:
    tiny = save_model(tmp_path / "tiny", "qwen2", max_position_embeddings=512)
    make(tmp_path / "other", base_sha256="7" * 64)
    with pytest.raises(BaseModelMismatch, match="weights"):
        train_bundle(tmp_path / "other" / "bundle", tmp_path / "run", ignore, model=str(tiny))
    make(tmp_path / "tokens", is_served=True)
    with pytest.raises(BaseModelMismatch, match="other tokens"):
        train_bundle(tmp_path / "tokens" / "bundle", tmp_path / "run", ignore, model=str(tiny))


def test_a_time_limit_sets_the_steps_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = save_model(tmp_path / "tiny", "qwen2", max_position_embeddings=512)
    make(tmp_path / "out")
    measured = [Estimate(700.0, 100.0, 1, 2, "cpu", 12, 3, 300, 120, ((100, 1.0),))]
    monkeypatch.setattr("finetune.estimate.estimate", lambda *_: measured.pop())
    bundle, run = tmp_path / "out" / "bundle", tmp_path / "run"
    done = train_bundle(bundle, run, ignore, model=str(tiny), minutes=10)
    assert done.metrics["steps"] == 7  # a fifth of 600 s is kept back, 100 s load: 380 of 600 s, of 12 steps
    again = train_bundle(bundle, run, ignore, model=str(tiny), minutes=10)  # measures nothing, and is done already
    assert again.metrics == done.metrics
    with zipfile.ZipFile(done.archive) as opened:
        manifest = json.loads(opened.read("manifest.json"))
    assert manifest["recipe"]["max_steps"] == 7
    assert manifest["base_sha256"] == sha256_file(tiny / "model.safetensors")
    assert manifest["served"] is None, "another model is served at home"
    assert done.command.startswith("ragtune models pull Qwen/Qwen2.5-1.5B-Instruct")
    measured.append(Estimate(700.0, 100.0, 1, 2, "cpu", 12, 3, 300, 120, ((100, 1.0),)))
    with pytest.raises(RecipeInvalid, match="Not one step"):
        train_bundle(bundle, run, ignore, model=str(tiny), minutes=2)


def test_the_entry_point_explains_failures(tmp_path: Path) -> None:
    words = [sys.executable, "-m", "finetune", str(tmp_path), "--out", str(tmp_path / "run")]
    failed = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "no bundle" in failed.stderr
    assert "Traceback" not in failed.stderr
    wrong = subprocess.run([*words, "--set", "max_steps"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert wrong.returncode == 2
