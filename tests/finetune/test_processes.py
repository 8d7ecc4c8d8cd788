"""Two processes train what one does: the same losses and the same adapter, from the same recipe."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def launch(processes: int, model: Path, out: Path) -> dict[str, float]:
    out.mkdir()
    command = [sys.executable, "-m"]
    if processes > 1:
        # The launcher's word for more than one process on a machine; where they compute the recipe's device says.
        command += ["accelerate.commands.launch", "--multi_gpu", "--num_machines", "1"]
        command += ["--num_processes", str(processes), "--mixed_precision", "no", "--dynamo_backend", "no", "-m"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    command += ["tests.finetune.launched", str(model), str(out)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=500
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, float] = json.loads((out / "metrics.json").read_text())
    return found


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    from finetune.train_log import read_log
    from tests.finetune.tiny import save_model

    model = save_model(tmp_path / "model", "llama", max_position_embeddings=512)
    alone, together = (launch(count, model, tmp_path / str(count)) for count in (1, 2))
    assert alone["steps"] == together["steps"] == 12
    losses = [read_log(tmp_path / count / "train_log.jsonl") for count in ("1", "2")]
    for one, two in zip(*losses, strict=True):
        assert one["step"] == two["step"]
        name = "loss" if "loss" in one else "eval_loss"
        assert two[name] == pytest.approx(one[name], rel=1e-3)
    assert alone["loss_last"] < 0.7 * alone["loss_first"]
    adapters = [load_file(tmp_path / count / "adapter_model.safetensors") for count in ("1", "2")]
    for name, tensor in adapters[0].items():
        assert torch.allclose(adapters[1][name].float(), tensor.float(), atol=2e-3), name
