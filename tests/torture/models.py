"""Row 32 of the matrix: GGUF files with changed bytes, read as ``ragtune models add`` reads them first.

A small model of its own is made and changed, mostly in its header. Each is read by a child process. What may come out:
one of ragtune's own errors, or an answer (a changed weight is no broken file). What may not: another error, or silence.
"""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from data.errors import EngineTimeout, InvalidModel, RagtuneError
from service.engine.models import inspect

FAULTS = ("untyped", "hung")
_HEADER = 4096


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
    content = build(folder / "whole.gguf").read_bytes()
    counts: Counter[str] = Counter(dict.fromkeys((*FAULTS, "refused", "crashed", "read"), 0))
    path = folder / "changed.gguf"
    for trial in range(trials):
        path.write_bytes(change(content, random.Random(seed + trial)))
        counts["trials"] += 1
        counts[_ended(path)] += 1
    return dict(counts)


def _ended(path: Path) -> str:
    try:
        inspect(path)
    except EngineTimeout:
        return "hung"
    except InvalidModel as error:
        return "crashed" if "crashed" in error.detail else "refused"
    except RagtuneError:
        return "refused"
    except Exception as error:
        print(f"{type(error).__name__}: {error}")  # noqa: T201
        return "untyped"
    return "read"
