"""How long a training will take and how much memory it needs: a few of its own steps, measured in a child process.

The child computes real forward and backward passes on rows of this training, from a short one to the longest, and
an optimizer step. Time per row follows from its tokens between the measured lengths; memory is the child's peak after
the longest row. Knows nothing of pairs or of the command line.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data import errors
from data.errors import InsufficientMemory, NoAcceptedPairs, RagtuneError
from data.records import Model
from finetune.recipe import Recipe
from finetune.rows import Branch, Row, RowSet

PROBE_QUANTILES = (0.25, 0.5, 0.75, 1.0)
"""Lengths that are measured: of these quantiles of all rows, the longest last because it sets the peak."""
_FORWARD_SHARE = 1 / 3
"""Of a training step; the backward pass through frozen weights costs about two forward passes with a LoRA's part."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a training will take.

    ``seconds`` in all, of them ``load_seconds`` for the model; ``peak_memory_bytes`` of the training's process (on a
    GPU, of GPU memory), of which ``available_bytes`` are free now; ``steps`` of the optimizer over ``rows``, each of
    at most ``longest_row`` tokens; ``tokens`` of one pass over the rows; ``measured`` maps tokens to seconds.
    """

    seconds: float
    load_seconds: float
    peak_memory_bytes: int
    available_bytes: int
    device: str
    steps: int
    rows: int
    tokens: int
    longest_row: int
    measured: tuple[tuple[int, float], ...]

    @property
    def fits(self) -> bool:
        """Tell whether the memory that is free now is enough."""
        return self.peak_memory_bytes <= self.available_bytes


def estimate(recipe: Recipe, rows: RowSet, model: Model, held_out: RowSet | None = None) -> Estimate:
    """Measure a few steps of the training in a child process and extrapolate to all of it.

    Args:
        recipe: of the training.
        rows: of the training.
        model: the base.
        held_out: rows whose loss the training will measure.

    Raises:
        NoAcceptedPairs: there are no rows.
        RecipeInvalid: the recipe does not fit the model or the machine.
        InvalidModel: the weights cannot be loaded.
        InsufficientMemory: not even the longest row fits.
    """
    if not rows.rows:
        raise NoAcceptedPairs("There is nothing to train on", got=dict(rows.refused) or "no rows")
    ordered = sorted(rows.rows, key=len)
    chosen = [ordered[round(share * (len(ordered) - 1))] for share in PROBE_QUANTILES]
    found = _in_child(recipe, model, [chosen[0], *chosen])
    # The first one warms up.
    measured = sorted(dict(found["measured"][1:]).items())
    lengths = [len(row) for row in rows.rows]
    one_pass = sum(_seconds(length, measured) for length in lengths)
    steps = _steps(recipe, len(lengths))
    passes = steps * recipe.per_device_train_batch_size * recipe.gradient_accumulation_steps / len(lengths)
    held = [_seconds(len(row), measured) for row in held_out.rows] if held_out else []
    evaluations = 1 + steps // recipe.eval_steps
    train_seconds = one_pass * passes + steps * found["optimizer_seconds"]
    return Estimate(
        seconds=found["load_seconds"] + train_seconds + _FORWARD_SHARE * sum(held) * evaluations,
        load_seconds=found["load_seconds"],
        peak_memory_bytes=found["peak_memory_bytes"],
        available_bytes=found["available_bytes"],
        device=found["device"],
        steps=steps,
        rows=len(lengths),
        tokens=sum(lengths),
        longest_row=max(lengths),
        measured=tuple(measured),
    )


def _steps(recipe: Recipe, rows: int) -> int:
    from finetune.train import optimizer_steps

    return optimizer_steps(recipe, rows)


def _seconds(tokens: int, measured: Sequence[tuple[int, float]]) -> float:
    """Return the time of one row: between measured lengths in proportion, below the shortest by tokens."""
    lengths, seconds = zip(*measured, strict=True)
    if tokens < lengths[0]:
        return float(seconds[0] * tokens / lengths[0])
    return float(np.interp(tokens, lengths, seconds))


def _in_child(recipe: Recipe, model: Model, rows: Sequence[Row]) -> dict[str, Any]:
    work = {
        "recipe": recipe.to_mapping(),
        "weights": str(Path(model.weights).resolve()),
        "rows": [[row.context_ids, row.passages, [asdict(branch) for branch in row.branches]] for row in rows],
    }
    with tempfile.TemporaryDirectory(prefix="ragtune-probe-") as folder:
        path = Path(folder) / "work.json"
        path.write_text(json.dumps(work), encoding="utf-8")
        # The folder of the packages: "-m" finds them there wherever the command was given.
        root = Path(__file__).resolve().parents[1]
        done = subprocess.run(
            [sys.executable, "-m", "finetune.estimate", str(path)],
            cwd=root,
            capture_output=True,
            text=True,
            check=False,
        )
        answer = Path(folder) / "found.json"
        found: dict[str, Any] = json.loads(answer.read_text(encoding="utf-8")) if answer.is_file() else {}
    if "error" in found:
        raise _error(found["error"])
    if not found:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        raise InsufficientMemory(
            f"The probe of {max(map(len, rows))} tokens ended before it was done",
            got=last or f"exit status {done.returncode}",
            wanted="enough free memory for the longest row",
            hint="Lower max_length, set gradient_checkpointing = true, or choose a smaller base model.",
        )
    return found


def _error(problem: dict[str, str]) -> RagtuneError:
    kind: type[RagtuneError] = getattr(errors, problem["kind"], RagtuneError)
    return kind(problem["detail"], got=problem["got"], wanted=problem["wanted"], hint=problem["hint"])


def main(path: str) -> None:
    """Measure the work in the file ``path``; write found.json beside it."""
    work = json.loads(Path(path).read_text(encoding="utf-8"))
    rows = [
        Row(tuple(ids), tuple(passages), tuple(Branch(tuple(b["tail_ids"]), tuple(b["completion_ids"])) for b in said))
        for ids, passages, said in work["rows"]
    ]
    try:
        found = _measure(Recipe.from_mapping(work["recipe"]), work["weights"], rows)
    except RagtuneError as error:
        found = {
            "error": {
                "kind": type(error).__name__,
                "detail": error.detail,
                "got": str(error.got),
                "wanted": error.wanted,
                "hint": error.hint,
            }
        }
    Path(path).with_name("found.json").write_text(json.dumps(found), encoding="utf-8")


def _measure(recipe: Recipe, weights: str, rows: Sequence[Row]) -> dict[str, Any]:
    from finetune import lora
    from finetune.kernels import TREE_ATTENTION, speed_up_norms
    from finetune.weights import load_model, training_device, training_dtype

    started = time.perf_counter()
    device = training_device()
    dtype = training_dtype(device)
    available = _available(device)
    base = load_model(weights, device=device, dtype=dtype, qlora=recipe.qlora, attention=TREE_ATTENTION)
    speed_up_norms(base)
    adapted = lora.attach(base, recipe)
    if recipe.gradient_checkpointing:
        base.activation_checkpointing_enable()
    loaded = time.perf_counter()
    measured, optimizer_seconds = _step_through(adapted.train(), recipe, rows, device, dtype)
    return {
        "load_seconds": loaded - started,
        "measured": measured,
        "optimizer_seconds": optimizer_seconds,
        "peak_memory_bytes": _peak(device),
        "available_bytes": available,
        "device": str(device),
    }


def _step_through(
    adapted: Any, recipe: Recipe, rows: Sequence[Row], device: Any, dtype: Any
) -> tuple[list[tuple[int, float]], float]:
    """Train on each row in turn; return (tokens, seconds) of each, and the seconds of the last optimizer step."""
    import torch
    from torch.nn.functional import cross_entropy

    from finetune.collate import Collator
    from finetune.trainer import trained_logits

    collate = Collator(recipe.attention, dtype, full_share=recipe.full_share)
    optimizer = torch.optim.AdamW([p for p in adapted.parameters() if p.requires_grad])
    batch_size = recipe.per_device_train_batch_size
    measured, optimizer_seconds = [], 0.0
    for row in rows:
        begun = time.perf_counter()
        inputs = {name: tensor.to(device) for name, tensor in collate([row] * batch_size).items()}
        cross_entropy(trained_logits(adapted, inputs), inputs["targets"]).backward()  # type: ignore[no-untyped-call]
        _wait(device)
        ended = time.perf_counter()
        measured.append((len(row), (ended - begun) / batch_size))
        optimizer.step()
        optimizer.zero_grad()
        _wait(device)
        optimizer_seconds = time.perf_counter() - ended
    return measured, optimizer_seconds


def _available(device: Any) -> int:
    """Return the free memory in bytes, of the GPU or of the machine, before anything is loaded."""
    import psutil  # type: ignore[import-untyped]  # has no types
    import torch

    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available + psutil.Process().memory_info().rss)


def _wait(device: Any) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak(device: Any) -> int:
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux KiB


if __name__ == "__main__":
    main(sys.argv[1])
