"""Run one side of a comparison in a fresh process, so that no side inherits another's memory or warm-up.

A side prints its result as its last line, in JSON. Knows nothing of what is measured.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

from data.records import Model

STATE = Path("var/bench")
"""Where the starter model and its adapters are prepared; kept between runs."""


def run_side(module: str, side: str, *options: str, python: str = sys.executable) -> dict[str, Any]:
    """Run ``python -m module --side side`` and return what it printed last; its standard error goes to a log.

    The caller must stay small: Linux starts a child's peak memory at its parent's.

    Raises:
        SystemExit: the side failed; it names the log.
    """
    STATE.mkdir(parents=True, exist_ok=True)
    log = STATE / f"{module}.{side}.log"
    with log.open("wb") as stderr:
        command = [python, "-m", module, "--side", side, *options]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stderr, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{module}, side {side}: exit status {done.returncode}; see {log}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def peak_mb() -> float:
    """Return the peak resident memory of this process plus that of its largest ended child, in MB (10^6 bytes).

    Memory that both share counts twice.
    """
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss: bytes on macOS, KiB on Linux
    whose = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return round(sum(resource.getrusage(who).ru_maxrss for who in whose) * unit / 1e6, 1)


def prepare() -> dict[str, Any]:
    """Prepare the starter model and its packaged adapters; return the model's fields and the GGUF of each adapter."""
    from dataclasses import asdict

    from service.arms import find_adapter
    from service.settings import Settings
    from service.workspace import Workspace

    with Workspace(Settings.load(state_dir=STATE, model="starter", embedder="starter")) as workspace:
        names = workspace.ensure_starter_adapters()
        files = {name: str(workspace.adapter_gguf(find_adapter(workspace.store, name))) for name in names}
        return {"model": {**asdict(workspace.model), "meta": {}}, "adapters": files}


def read_prepared(text: str) -> tuple[Model, dict[str, str]]:
    """Return the model and the adapter files of a JSON text that ``prepare`` made."""
    found = json.loads(text)
    return Model(**found["model"]), found["adapters"]


def ratio(ours: float, peer: float) -> float:
    """Return ours over the peer's, to three digits."""
    return float(f"{ours / peer:.3g}")
