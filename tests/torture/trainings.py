"""Row 6 of the matrix: a training is killed, or the power cut, at any moment, and started again.

A third of the trials are real: a training of a tiny model in a process of its own, killed with SIGKILL after some of
the processor's time, again and again until one ends. The others continue what ``replay`` leaves of a recorded training:
all of it as after a kill between two writes, or what was synced with some or none of what was on its way. Each goes on
from the newest checkpoint that was told of, at the latest, and ends in the adapter of an undisturbed run.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from data.protocols import Progress
from tests.torture.forks import Ended, Say, run_forked
from tests.torture.powercut import SAID, leave, moments, record
from tests.torture.replay import Disk, read, recorder

FAULTS = ("unresumed", "lost", "other", "unended")
KINDS = ("killed", "synced", "some")
STEPS, SAVE_STEPS = 12, 3
_ALIKE = 1e-5
"""Of a weight's update: what the order of sums may do to numbers of about one."""
_LIVES = 12
"""So often one training is killed at most."""


def prepare(root: Path, _seed: int) -> None:
    """Make the model."""
    from tests.finetune.tiny import save_model

    save_model(root / "model", "llama", max_position_embeddings=512)


def go_on(root: Path, say: Say) -> dict[str, Any]:
    """Train, or go on with it; say each checkpoint when it is told, and return the metrics."""
    import torch

    from finetune.train import train
    from tests.finetune.houses import QUICK, named, rows_for

    torch.set_num_threads(1)  # this process was forked

    def told(progress: Progress) -> None:
        if progress.stage == "train":
            say(f"checkpoint {progress.metrics.get('checkpoint', 0)} at {progress.done}")

    recipe = replace(QUICK, max_steps=STEPS, save_steps=SAVE_STEPS)
    found = dict(train(recipe, rows_for(root / "model"), named(root / "model"), root / "out", told).metrics)
    say(json.dumps({"steps": int(found["steps"]), "first": found["loss_first"]}))
    return found


def live(root: Path, _seed: int) -> None:
    """Train as it is recorded: what is told goes into a file."""
    said = os.open(root / SAID, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    go_on(root, lambda line: os.write(said, f"{line}, acknowledged\n".encode()) and None)


def updates(folder: Path) -> dict[str, Any]:
    """Return B @ A of each layer of an adapter."""
    from safetensors.numpy import load_file

    found = load_file(folder / "out" / "adapter_model.safetensors")
    return {name: found[name.replace("lora_A", "lora_B")] @ a for name, a in found.items() if "lora_A" in name}


def newest(said: list[str]) -> int:
    """Return the newest checkpoint that was told of."""
    return max((int(line.split()[1].strip(",")) for line in said if line.startswith("checkpoint")), default=0)


def begun(said: list[str]) -> int:
    """Return the step from which a training went on, the last one where it had ended already."""
    return int(said[0].split()[3].strip(","))


def judged(root: Path, ended: Ended, told: int, whole: Path) -> list[str]:
    """Return what is wrong with a training that went on to its end; ``told`` is the newest checkpoint known before."""
    if ended.status != 0:
        return ["unresumed"]
    found = json.loads(ended.said[-1])
    ours, theirs = updates(root), updates(whole)
    same = all(np.allclose(ours[name], theirs[name], atol=_ALIKE) for name in theirs)
    first = json.loads((whole / "metrics.json").read_text())["loss_first"]
    logged = found["steps"] == STEPS and abs(found["first"] - first) < _ALIKE
    return [
        *(["lost"] if begun(ended.said) < told else []),
        *([] if same and logged else ["other"]),
    ]


def run(trials: int, seed: int, folder: Path) -> dict[str, int]:
    """Stop trainings ``trials`` times; return what went wrong, and how often they went on from a checkpoint."""
    import finetune.train  # noqa: F401 - before the forks, which have it then

    (root := folder / "root").mkdir(parents=True)
    record(root, folder / "log", f"{__name__}.prepare", seed, None)
    whole = folder / "whole"
    shutil.copytree(root, whole)
    ended = run_forked(lambda say: (whole / "metrics.json").write_text(json.dumps(go_on(whole, say))) and None)
    assert ended.status == 0, "an undisturbed training failed: see above"
    counts: Counter[str] = Counter(dict.fromkeys((*FAULTS, *KINDS, "sigkill", "resumed", "trials"), 0))
    chance = random.Random(seed)
    real = -(-trials // 3)
    while counts["sigkill"] < real:
        _killed(root, whole, chance, real, counts)
    disk = Disk(root)
    record(root, folder / "log", f"{__name__}.live", seed, recorder(folder))
    for trial, place in enumerate(moments(disk, list(read(folder / "log")), trials - real, chance)):
        told = newest(disk.read(SAID).decode().splitlines())
        left, kind = folder / "left", KINDS[trial % len(KINDS)]
        leave(disk, left, kind, chance)
        ended = run_forked(lambda say, left=left: go_on(left, say) and None)
        _count(counts, judged(left, ended, told, whole), ended, {"at": place, "kind": kind, "told": told})
        counts.update(["trials", kind])
        shutil.rmtree(left)
    return dict(counts)


def _killed(root: Path, whole: Path, chance: random.Random, most: int, counts: Counter[str]) -> None:
    """Kill one training again and again, then let it end."""
    at, told = root.with_name("killed"), 0
    shutil.copytree(root, at)
    for _ in range(_LIVES):
        last = counts["sigkill"] >= most
        ended = run_forked(lambda say: go_on(at, say) and None, None if last else chance.uniform(0.1, 2.0))
        if ended.signal == 0:
            _count(counts, judged(at, ended, told, whole), ended, {"kind": "sigkill", "told": told})
            break
        told = max(told, newest(ended.said))
        counts.update(["trials", "sigkill"])
    else:
        counts["unended"] += not told
    shutil.rmtree(at)


def _count(counts: Counter[str], faults: list[str], ended: Ended, what: dict[str, Any]) -> None:
    counts.update(faults)
    if "unresumed" not in faults:
        counts["resumed"] += begun(ended.said) > 0
    if faults:
        print(json.dumps({**what, "faults": faults, "said": ended.said[:1] + ended.said[-1:]}), flush=True)  # noqa: T201
