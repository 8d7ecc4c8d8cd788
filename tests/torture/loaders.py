"""Row 35 of the matrix: bytes that coverage leads to, given to each loader that is ours.

Each loader is fuzzed by a process of its own (``loader_fuzz``), from the files in ``corpus`` on. What may come out: a
document, or one of ragtune's own errors. What may not: another error, a chunk that is not a stretch of its text, half a
minute over a few kilobytes, or two gigabytes.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.torture.matrix import ROOT

CORPUS = Path(__file__).with_name("corpus")
FORMATS = tuple(sorted(folder.name for folder in CORPUS.iterdir() if folder.is_dir()))
LIMITS = ("-max_len=4096", "-timeout=30", "-rss_limit_mb=2048")
ENDS = {0: "", 70: "hung", 71: "untyped", 77: "untyped", -signal.SIGALRM: "untyped"}
"""What libFuzzer's statuses say: all is well, too slow, out of memory, an error that is none of ours. Its own timer may
end it while it leaves with the last."""
_DONE = re.compile(rb"Done (\d+) runs?")


def fuzz(name: str, runs: int, seed: int, folder: Path) -> Counter[str]:
    """Fuzz the loader of one format; return how often it ran, and what was found.

    Raises:
        RuntimeError: the fuzzer itself failed.
    """
    (folder / name).mkdir(parents=True, exist_ok=True)
    order = [sys.executable, "-m", "tests.torture.loader_fuzz", name, folder / name, CORPUS / name, *LIMITS]
    order += [f"-runs={runs}", f"-seed={seed + 1}", f"-dict={CORPUS / 'tokens.dict'}", f"-artifact_prefix={folder}/"]
    same = {**os.environ, "PYTHONHASHSEED": "0"}  # or the same seed leads elsewhere
    ended = subprocess.run(order, cwd=ROOT, env=same, capture_output=True, check=False)
    done = _DONE.search(ended.stderr)
    found = ENDS.get(ended.returncode)
    if found is None or (not found and done is None):
        raise RuntimeError(f"the fuzzer of {name} ended with {ended.returncode}: {ended.stderr[-2000:].decode()}")
    if found:  # the traceback, and the bytes to put into the corpus once that is mended
        kept = [path.read_bytes() for path in folder.glob("*-*") if path.is_file()]
        sys.stderr.write(f"{ended.stdout[-4000:].decode(errors='replace')}\n{ended.stderr[-500:].decode()}\n{kept}\n")
    return Counter({"trials": int(done[1]) if done else 1, **({found: 1} if found else {})})


def run(trials: int, seed: int, folder: Path) -> dict[str, int]:
    """Fuzz every loader, each with its share of ``trials``; a loader stops at what it finds."""
    counts: Counter[str] = Counter(dict.fromkeys(("trials", "untyped", "hung"), 0))
    for name in FORMATS:
        counts.update(fuzz(name, max(1, trials // len(FORMATS)), seed, folder))
    return dict(counts)
