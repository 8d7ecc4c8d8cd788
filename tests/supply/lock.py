"""Writes the hashes of all that is installed: ``make lock``, after a change of constraints.txt or pyproject.toml.

uv resolves under constraints.txt and asks the index for the hashes of each file of a version, for every platform. Two
things are left out, and so pinned by version alone: torch, which machines without an NVIDIA GPU take from another
index, with what only it needs; and llama-cpp-python, since pip compiles an archive again in every new environment where
it has to have a hash, which is five minutes on two cores, and builds for GPUs come from other indexes too.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
LOCK = ROOT / "requirements.lock"
TOOLS = HERE / "tools.lock"
OWN_INDEX = re.compile(r"torch|triton|nvidia-.*|cuda-.*|llama-cpp-python")
_HEAD = "# Made by make lock (tests/supply/lock.py): each file that may be installed, by its SHA-256.\n"
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==")


def compile_lock(*sources: str) -> str:
    """Return the pins and hashes that ``sources`` resolve to, on every platform, from Python 3.11.5 on.

    soupsieve, which the documentation's theme brings, asks for that.
    """
    command = [sys.executable, "-m", "uv", "pip", "compile", "--universal", "--python-version", "3.11.5", "--quiet"]
    command += ["--generate-hashes", "--no-annotate", "--no-header", *sources]
    return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout


def without(text: str, left_out: re.Pattern[str]) -> str:
    """Return a lock without the pins, and their hashes, whose name is ``left_out``."""
    kept, keep = [], True
    for line in text.splitlines(keepends=True):
        if named := _PIN.match(line):
            keep = left_out.fullmatch(named[1]) is None
        if keep:
            kept.append(line)
    return "".join(kept)


def main() -> None:
    """Write both locks: of ragtune with every extra, and of the tools that look at what is installed."""
    extras = [word for name in ("train", "starter", "mcp", "cluster", "telemetry", "dev") for word in ("--extra", name)]
    LOCK.write_text(_HEAD + without(compile_lock("pyproject.toml", *extras, "-c", "constraints.txt"), OWN_INDEX))
    TOOLS.write_text(_HEAD + compile_lock(str(HERE / "tools.in")))


if __name__ == "__main__":
    main()
