"""Row 32 of the matrix: GGUF files with changed bytes, read as ``ragtune models add`` reads them first, then loaded.

A small model of its own is made and changed, mostly in its header. Each is read by a worker process, which is forked
here and started by its command for every fiftieth. What is read is loaded whole, as the engine loads it. What may come
out: one of ragtune's own errors, or an answer (a changed weight is no broken file). What may not: another error, or
silence.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

from data.errors import EngineTimeout, InvalidModel, RagtuneError
from service.engine.child import run_once
from service.engine.engine import EngineOptions
from service.engine.models import inspect
from tests.torture.matrix import ROOT
from tests.torture.workers import forked

FAULTS = ("untyped", "hung")
_HEADER = 4096
_BY_COMMAND = 50
_LOAD_TIMEOUT_S = 120.0


def build(path: Path) -> Path:
    """Write a small GGUF with a vocabulary."""
    from finetune.convert import hf_to_gguf
    from tests.finetune.tiny import save_model, train_tokenizer

    folder = save_model(path.with_suffix(""), "qwen2", tokenizer=train_tokenizer("qwen2"))
    return hf_to_gguf(folder, path)


def change(content: bytes, chance: random.Random) -> bytes:
    """Cut a file short, or change one to sixteen of its bytes, its counts and lengths more often than its weights."""
    if chance.random() < 0.2:
        return content[: chance.randrange(len(content))]
    changed = bytearray(content)
    for _ in range(chance.choice((1, 1, 2, 4, 16))):
        place = chance.randrange(min(_HEADER, len(changed)) if chance.random() < 0.8 else len(changed))
        changed[place] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    return bytes(changed)


def run(trials: int, seed: int, folder: Path) -> dict[str, int]:
    """Read ``trials`` changed models; return how each ended."""
    content = _built(folder)
    counts: Counter[str] = Counter(dict.fromkeys((*FAULTS, "refused", "crashed", "read", "loaded"), 0))
    path = folder / "changed.gguf"
    for trial in range(seed, seed + trials):
        path.write_bytes(change(content, random.Random(trial)))
        counts["trials"] += 1
        with forked() if trial % _BY_COMMAND else nullcontext():
            ended = _ended(path, inspect)
            counts[ended] += 1
            if ended == "read":
                counts["loaded" if (ended := _ended(path, load)) == "read" else ended] += 1
    return dict(counts)


def _built(folder: Path) -> bytes:
    """Return the whole model; made in a process of its own, because this one forks and must have no threads."""
    command = "import sys; from pathlib import Path; from tests.torture.models import build; build(Path(sys.argv[1]))"
    whole = folder / "whole.gguf"
    subprocess.run([sys.executable, "-c", command, str(whole)], cwd=ROOT, check=True)
    return whole.read_bytes()


def load(path: Path) -> None:
    """Have a worker load a model as the engine does when it starts.

    Raises:
        As ``run_once``.
    """
    options = EngineOptions(n_threads=1, n_ctx=256, sequences=1).order()
    order = {"op": "start", "gguf": str(path), "identity": path.name, "repack": False, **options}
    run_once(order, path=path, timeout_s=_LOAD_TIMEOUT_S)


def _ended(path: Path, read: Callable[[Path], object], *, again: bool = True) -> str:
    try:
        read(path)
    except EngineTimeout:
        # A file that hangs its reader does so each time; a machine that was stopped meanwhile does not.
        return _ended(path, read, again=False) if again else "hung"
    except InvalidModel as error:
        return "crashed" if "crashed" in error.detail else "refused"
    except RagtuneError:
        return "refused"
    except Exception as error:
        print(f"{type(error).__name__}: {error}")  # noqa: T201
        return "untyped"
    return "read"
