"""Run the measurements: all of them, or those named (``python -m bench engine training``).

Knows nothing of what is measured.
"""

from __future__ import annotations

import argparse

from bench import adapters, engine, training

BENCHMARKS = {"adapters": adapters.main, "engine": engine.main, "training": training.main}

parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
parser.add_argument("names", nargs="*", help=f"of {', '.join(BENCHMARKS)}; all by default")
names = parser.parse_args().names or list(BENCHMARKS)
if unknown := [name for name in names if name not in BENCHMARKS]:
    parser.error(f"no such benchmark: {', '.join(unknown)} (there are {', '.join(BENCHMARKS)})")
for name in names:
    BENCHMARKS[name]([])
