"""What ``accelerate launch`` runs in ``test_processes.py``: one training, its metrics as JSON."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import torch

from finetune.processes import is_first
from finetune.train import train
from tests.finetune.houses import QUICK, ignore, named, rows_for


def main(model: str, out: str) -> None:
    torch.set_num_threads(1)
    recipe = replace(QUICK, gradient_accumulation_steps=2, num_train_epochs=4, save_steps=2)
    rows, held_out = rows_for(model, group_size=1), rows_for(model, group_size=2)
    result = train(recipe, rows, named(model), out, ignore, held_out=held_out)
    if is_first():
        Path(out, "metrics.json").write_text(json.dumps(dict(result.metrics)))


if __name__ == "__main__":
    main(*sys.argv[1:])
