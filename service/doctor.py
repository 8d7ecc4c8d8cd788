"""What this machine and this installation are, checked: for ``ragtune doctor`` and bug reports.

Each check says what it found and, where something is wrong, what to do. Knows nothing of output.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from data.errors import RagtuneError
from data.state import StateDirectory
from service.places import open_milvus, require_ray

if TYPE_CHECKING:
    from service.workspace import Workspace

Verdict = Literal["ok", "warning", "failed"]

PYTHON_FROM, PYTHON_BELOW = (3, 11), (3, 14)
"""As ``requires-python`` in pyproject.toml."""
DISK_WANTED = 4 * 1024**3
"""Bytes: the starter models, an index, adapters and their checkpoints, with room."""
MEMORY_WANTED = 4 * 1024**3
"""Bytes: training the starter model."""
CLUSTER_S = 45.0
"""Ray itself waits for minutes; a cluster that is there answers in some seconds, of which its import takes the most."""
ROOT = Path(__file__).resolve().parents[1]
"""Where the packages are found."""
_COMPILERS = ("c++", "g++", "clang++", "cl")
_CPU_FEATURES = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd")


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was found, and what to do if it is not ``ok``."""

    check: str
    verdict: Verdict
    found: str
    hint: str = ""


def check_python() -> Finding:
    """Check the interpreter's version."""
    fits = PYTHON_FROM <= sys.version_info[:2] < PYTHON_BELOW
    wanted = f"Install Python {'.'.join(map(str, PYTHON_FROM))} to 3.{PYTHON_BELOW[1] - 1} and run: make install"
    return Finding("python", "ok" if fits else "failed", platform.python_version(), "" if fits else wanted)


def check_compiler() -> Finding:
    """Look for a C++ compiler, which installing llama-cpp-python needs (running does not)."""
    found = next((path for name in _COMPILERS if (path := shutil.which(name))), None)
    hint = (
        "Needed only to install or upgrade llama-cpp-python: apt install g++ (Debian), xcode-select --install (macOS)"
    )
    return Finding("compiler", "ok" if found else "warning", found or "none on PATH", "" if found else hint)


def check_packages() -> Finding:
    """Check that the heavy packages are installed, and name their versions."""
    wanted = ("llama-cpp-python", "torch", "transformers", "peft", "faiss-cpu", "tantivy", "sentence-transformers")
    versions, missing = [], []
    for name in wanted:
        try:
            versions.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            missing.append(name)
    hint = f"Missing: {', '.join(missing)}. Run: pip install 'ragtune[train]'" if missing else ""
    return Finding("packages", "warning" if missing else "ok", ", ".join(versions), hint)


def check_cpu() -> Finding:
    """Name the cores and the vector instructions that serving and training use."""
    flags: set[str] = set()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        text = cpuinfo.read_text(errors="replace")
        flags = {flag for line in text.splitlines() if line.startswith(("flags", "Features")) for flag in line.split()}
    known = [feature for feature in _CPU_FEATURES if feature in flags]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found = f"{os.cpu_count()} cores, {memory / 1024**3:.1f} GiB memory, {' '.join(known) or platform.machine()}"
    if memory < MEMORY_WANTED:
        return Finding("machine", "warning", found, "Training may run out of memory; use a machine with 4 GiB or more.")
    return Finding("machine", "ok", found)


def check_disk(folder: Path) -> Finding:
    """Check the free space where the state is kept."""
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(existing).free
    found = f"{free / 1024**3:.1f} GiB free at {existing}"
    hint = "Free some space, or move the state: RAGTUNE_STATE_DIR"
    return Finding("disk", "ok" if free >= DISK_WANTED else "warning", found, "" if free >= DISK_WANTED else hint)


def check_state(folder: Path) -> Finding:
    """Check that the state directory can be written, and who uses it."""
    try:
        state = StateDirectory(folder)
        state.create()
        holder = state.holder()
    except RagtuneError as error:
        return Finding("state", "failed", str(error), error.hint)
    used = f", in use by process {holder['pid']} {holder['url']}".rstrip() if holder else ""
    return Finding("state", "ok", f"{state.root}{used}")


def _checked(check: str, run: Callable[[], str]) -> Finding:
    try:
        return Finding(check, "ok", run())
    except RagtuneError as error:
        return Finding(check, "failed", error.detail, error.hint)


def check_store(workspace: Workspace) -> Finding:
    """Open the store and count what it holds."""

    def count() -> str:
        store = workspace.store
        adapters, models = len(store.adapters.list()), len(store.models.list())
        where = "PostgreSQL: " if workspace.shares_state else ""
        return f"{where}{store.documents.count()} documents, {adapters} adapters, {models} models"

    return _checked("store", count)


def check_vectors(workspace: Workspace) -> Finding:
    """Ask the Milvus server which collections it has."""

    def ask() -> str:
        server = open_milvus(workspace.settings)
        try:
            return f"Milvus: {len(server.call('list_collections'))} collections"
        finally:
            server.close()

    return _checked("vectors", ask)


def check_cluster(workspace: Workspace) -> Finding:
    """Connect to the Ray cluster from a process of its own, for at most ``CLUSTER_S``, and count its nodes."""
    address = workspace.settings.ray_address or ""
    hint = "Start one: ray start --head; join one: ray start --address=HEAD:6379. Or unset RAGTUNE_RAY_ADDRESS."
    try:
        require_ray()
        command = [sys.executable, "-m", "retrieval.ray.look", address]
        said = subprocess.run(command, capture_output=True, text=True, timeout=CLUSTER_S, cwd=ROOT, check=False).stdout
        found = json.loads(said.splitlines()[-1])
    except RagtuneError as error:
        return Finding("cluster", "failed", error.detail, error.hint)
    except subprocess.TimeoutExpired:
        return Finding("cluster", "failed", f"No answer from {address} in {CLUSTER_S:g} s.", hint)
    except (ValueError, IndexError):
        return Finding("cluster", "failed", f"Ray ended while it connected to {address}.", hint)
    if "error" in found:
        return Finding("cluster", "failed", f"{found['error']['detail']} ({address})", found["error"]["hint"])
    nodes = found["nodes"]
    if not nodes:
        return Finding("cluster", "warning", f"Ray {found['version']}: no node lends a processor", hint)
    processors, gpus = (sum(node[name] for node in nodes) for name in ("processors", "gpus"))
    hosts = ", ".join(sorted({node["host"] for node in nodes}))
    told = f"Ray {found['version']}: {len(nodes)} nodes with {processors} processors and {gpus} GPUs ({hosts})"
    return Finding("cluster", "ok", told)


def check_embedder() -> Finding:
    """Look for the packaged embedder."""

    def find() -> str:
        from retrieval.embed import starter_embedder_path

        return str(starter_embedder_path())

    return _checked("embedder", find)


def check_engine(workspace: Workspace) -> Finding:
    """Load the base model, or ask the server in its place what it is, and generate one token."""

    def load() -> str:
        found = workspace.check_engine()
        workspace.warm()
        return f"{found} answers"

    return _checked("engine", load)


def check_tuning(workspace: Workspace) -> Finding:
    """Say how the base model is served, and whether that was measured here; add up the memory it takes."""
    from service.engine.memory import demand

    try:
        model = workspace.model
        tuning = workspace.models.tuning(model)
        options = workspace.engine_options(model)
        memory = demand(model, options)
    except RagtuneError as error:
        return Finding("serving", "failed", error.detail, error.hint)
    again = f"Close other work, then: ragtune models tune {model.name}"
    if tuning is None:
        return Finding("serving", "warning", f"by defaults, nothing was measured for {model.name}; {memory}", again)
    if tuning.disturbed:
        found = f"{tuning} (measured beside other work, load {tuning.load:.1f}); {memory}"
        return Finding("serving", "warning", found, again)
    return Finding("serving", "ok", f"{tuning}; {memory}")


def check_server(workspace: Workspace) -> Finding:
    """Ask the server that serves instead of the local engine which models it has; generate nothing."""
    return _checked("engine", workspace.check_engine)


def examine(workspace: Workspace, *, engine: bool = True) -> list[Finding]:
    """Run every check, the quick ones first.

    Args:
        workspace: what to check.
        engine: also load the base model (seconds to minutes), or have the server generate.
    """
    folder = workspace.settings.state_dir
    findings = [
        check_python(),
        check_compiler(),
        check_packages(),
        check_cpu(),
        check_disk(folder),
        check_state(folder),
    ]
    if findings[-1].verdict == "failed":
        return findings
    findings += [check_store(workspace)]
    findings += [check_vectors(workspace)] if workspace.settings.milvus_uri else []
    findings += [check_cluster(workspace)] if workspace.settings.ray_address else []
    findings += [check_embedder()]
    if workspace.settings.engine_url:
        return [*findings, check_engine(workspace) if engine else check_server(workspace)]
    if importlib.util.find_spec("llama_cpp") is None:
        hint = "It is compiled by pip and needs a C++ compiler: pip install llama-cpp-python"
        return [*findings, Finding("engine", "failed", "llama-cpp-python is not installed", hint)]
    return [*findings, check_tuning(workspace), check_engine(workspace)] if engine else findings
