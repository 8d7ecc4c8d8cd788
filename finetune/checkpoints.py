"""What a run leaves for the next: checkpoints that are whole, and which run they belong to.

Knows nothing of models or of how a checkpoint is written.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from data.errors import InsufficientStorage
from data.state import make_folder, map_os_error, write_atomic

FOLDER = "checkpoints"
RESULT = "result.json"
"""The metrics of a finished run, written when everything else is there."""
BEST = "best.safetensors"
"""The LoRA with the lowest held-out loss so far; its step and loss stand in the file's metadata."""

# torch's writer names no cause: "[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534".
_CUT_SHORT = re.compile(r"inline_container|PytorchStreamWriter|No space left on device|os error 28")


def prepare(out: Path, fingerprint: str) -> Path | None:
    """Make ``out`` ready and return the checkpoint to continue from, if the run of this fingerprint left one."""
    make_folder(out)
    mark = out / "run.sha256"
    if mark.is_file() and mark.read_text(encoding="utf-8") == fingerprint:
        return newest(out)
    for file in (RESULT, BEST):
        (out / file).unlink(missing_ok=True)
    shutil.rmtree(out / FOLDER, ignore_errors=True)
    write_atomic(mark, fingerprint.encode())
    return None


def newest(out: Path, before: int | None = None) -> Path | None:
    """Return the checkpoint of the latest step (below ``before``, if given), None if there is none."""
    # trainer_state.json is written last: a checkpoint without it was cut short.
    found = {step_of(path): path for path in (out / FOLDER).glob("checkpoint-*") if _is_whole(path)}
    steps = [step for step in found if before is None or step < before]
    return found[max(steps)] if steps else None


def _is_whole(path: Path) -> bool:
    return (path / "trainer_state.json").is_file()


def step_of(checkpoint: Path | None) -> int:
    """Return the number of optimizer steps behind a checkpoint, 0 for none."""
    return int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0


def drop_from(out: Path, step: int) -> None:
    """Delete the checkpoints of ``step`` and later."""
    for path in (out / FOLDER).glob("checkpoint-*"):
        if step_of(path) >= step:
            shutil.rmtree(path, ignore_errors=True)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn what Python, torch and safetensors raise for a full or failing disk into errors of our tree.

    Raises:
        InsufficientStorage: the disk is full.
        StateError: the file system failed otherwise.
    """
    try:
        yield
    except OSError as error:
        raise map_os_error(error, path) from error
    except (RuntimeError, SafetensorError) as error:
        if not _CUT_SHORT.search(str(error)):
            raise
        raise InsufficientStorage(
            "A checkpoint could not be written to its end",
            got=str(path),
            hint="Free some disk space and start again: the run goes on from the checkpoint before.",
        ) from error
