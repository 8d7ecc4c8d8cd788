"""How a model is served fastest on this machine: measured once, kept beside the model, used until something changes.

Knows nothing of llama.cpp, settings or commands.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from data.errors import InvalidModel
from data.records import Model
from data.state import write_atomic
from service.engine.child import run_once

TUNING_TIMEOUT_S = 900.0
MOST_DIVERGENCE = 0.02
"""Nats of KL divergence that a smaller quantization may cost: our choice; a GGUF adapter differs from its training by
0.001 to 0.002 (bench/RESULTS.md)."""
LEAST_GAIN = 0.75
"""A smaller quantization has to answer in this share of the time."""
DRAFTS = 8
"""Most tokens guessed ahead where flash attention makes guesses exact; the scheduler learns how many pay."""


@dataclass(frozen=True, slots=True)
class Tuning:
    """How to serve one model on one machine.

    Attributes:
        n_threads: of llama.cpp.
        n_batch: tokens of one stretch of a prompt.
        flash_attention: llama.cpp's fused attention.
        kv_type: of keys and values.
        drafts: most tokens guessed ahead.
        prompt_s: seconds to read 512 tokens.
        token_s: seconds to write one token after them.
        timings: every way that was timed.
        load: processes that wanted a core when it was measured; more than there are cores, and it says little.
        sha256: of the model.
        machine: processor, cores and llama.cpp; another machine measures anew.
    """

    n_threads: int
    n_batch: int
    flash_attention: bool
    kv_type: str
    drafts: int
    prompt_s: float
    token_s: float
    load: float
    sha256: str
    machine: str
    timings: Sequence[Mapping[str, Any]] = field(default=(), repr=False)

    def __str__(self) -> str:
        return (
            f"{self.n_threads} threads, batches of {self.n_batch}, flash attention "
            f"{'on' if self.flash_attention else 'off'}, keys and values in {self.kv_type}, "
            f"{self.drafts or 'no'} guesses; 512 tokens read in {self.prompt_s:.2f} s, "
            f"a token written in {self.token_s * 1000:.0f} ms"
        )

    @property
    def disturbed(self) -> bool:
        """Whether other work took the cores while it was measured: the probe itself is one process of ``n_threads``."""
        return self.load > (os.cpu_count() or 1) + 1


def tune(model: Model, *, cpus: int | None = None) -> Tuning:
    """Time ``model`` with several settings and return the best (seconds; more for larger models).

    Args:
        model: its file is loaded in a child process.
        cpus: most threads; all processors by default.

    Raises:
        InvalidModel: llama.cpp crashes on it.
        EngineTimeout: it took longer than ``TUNING_TIMEOUT_S``.
    """
    return _tuning(model, _probe(model, cpus)["timings"])


@dataclass(frozen=True, slots=True)
class Trial:
    """A model in fewer bits against the model as it is.

    Attributes:
        tuning: how the model as it is is served fastest.
        time_share: the share of its time in which the smaller one answers.
        divergence: of the smaller one's next tokens from its own, in nats.
    """

    tuning: Tuning
    time_share: float
    divergence: float

    @property
    def pays(self) -> bool:
        """Whether the smaller one answers so much faster that it is worth its loss."""
        return self.time_share <= LEAST_GAIN and self.divergence <= MOST_DIVERGENCE


def try_smaller(model: Model, smaller: Path, *, cpus: int | None = None) -> Trial:
    """Time ``model`` as ``tune`` does, and ``smaller``, the same in fewer bits, against it; raises as ``tune``."""
    found = _probe(model, cpus, other=str(smaller))
    return Trial(_tuning(model, found["timings"]), found["time_share"], found["divergence"])


def machine() -> str:
    """Name what timings depend on: processor, cores, llama.cpp."""
    name = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        lines = cpuinfo.read_text(errors="replace").splitlines()
        values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
        # Virtual machines of one name differ in their vector instructions.
        name = (
            f"{values.get('model name', name)} {len(values.get('flags', values.get('Features', '')).split())} features"
        )
    return f"{name}, {os.cpu_count()} cores, llama-cpp-python {version('llama-cpp-python')}"


def load(file: Path, model: Model) -> Tuning | None:
    """Return what was measured for ``model`` on this machine, None if nothing was."""
    try:
        tuning = Tuning(**json.loads(file.read_bytes()))
    except (FileNotFoundError, ValueError, TypeError):
        return None  # never measured, or by another version: it is measured again
    return tuning if (tuning.sha256, tuning.machine) == (model.sha256, machine()) else None


def save(file: Path, tuning: Tuning) -> None:
    """Keep ``tuning`` as a file."""
    file.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(file, json.dumps(asdict(tuning), indent=1).encode())


def _probe(model: Model, cpus: int | None, other: str | None = None) -> dict[str, Any]:
    most = cpus or os.cpu_count() or 1
    order = {
        "op": "probe",
        "gguf": model.gguf,
        "other": other,
        "threads": sorted({most, max(1, most // 2)}, reverse=True),
    }
    path = Path(model.gguf)
    found: dict[str, Any]
    try:
        found = run_once({**order, "repack": True}, path=path, timeout_s=TUNING_TIMEOUT_S)
    except InvalidModel:  # some builds of llama.cpp crash on repacked weights, see ``Engine``
        found = run_once({**order, "repack": False}, path=path, timeout_s=TUNING_TIMEOUT_S)
    return found


def _tuning(model: Model, timings: Sequence[Mapping[str, Any]]) -> Tuning:
    best = timings[0]
    return Tuning(
        n_threads=best["n_threads"],
        n_batch=best["n_batch"],
        flash_attention=best["flash_attention"],
        kv_type=best["kv_type"],
        drafts=DRAFTS if best["flash_attention"] else 0,
        prompt_s=best["prompt_s"],
        token_s=best["token_s"],
        load=os.getloadavg()[0],
        sha256=model.sha256,
        machine=machine(),
        timings=timings,
    )
