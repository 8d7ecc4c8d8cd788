"""llama.cpp's backend: start-up, its log, and what a failed load has to say.

Knows nothing of models beyond their file's first bytes.
"""

from __future__ import annotations

import ctypes
import os
from collections import deque
from pathlib import Path

from data.errors import InvalidModel, UnsupportedArchitecture

# libgomp reads this when it is loaded, with llama_cpp below. A decode step has hundreds of barriers: sleeping at each
# made it 4 times slower on two idle cores, spinning on (the default) as slow on busy ones. A short spin is neither.
os.putenv("GOMP_SPINCOUNT", "3000")

import llama_cpp

LLAMA_VERSION: str = llama_cpp.__version__
"""Of llama-cpp-python, which comes with one llama.cpp."""

_WARN, _ERROR, _CONTINUED = 3, 4, 5  # enum ggml_log_level in ggml.h

_log: deque[str] = deque(maxlen=200)
_keep_in_log = False


@llama_cpp.llama_log_callback  # type: ignore[untyped-decorator]
def _record(level: int, text: bytes, _user_data: object) -> None:
    global _keep_in_log  # noqa: PLW0603 - the C callback has no other place for its state
    if level != _CONTINUED:
        _keep_in_log = level in (_WARN, _ERROR)
    if _keep_in_log:
        _log.append(text.decode(errors="replace").rstrip("\n"))


def start_backend() -> None:
    """Send llama.cpp's log to a ring buffer and initialise its backends."""
    llama_cpp.llama_log_set(_record, ctypes.c_void_p(0))
    llama_cpp.llama_backend_init()


def log_tail(lines: int = 4) -> str:
    """Return the last warnings and errors of llama.cpp."""
    return "; ".join(list(_log)[-lines:])


def clear_log() -> None:
    """Forget what was logged, before a call whose failure will be explained by the log."""
    _log.clear()


def check_magic(path: Path) -> None:
    """Raise ``InvalidModel`` unless ``path`` begins as a GGUF file does."""
    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise InvalidModel(f"{path} cannot be read: {error.strerror}") from error
    if magic != b"GGUF":
        raise InvalidModel(
            f"{path.name} is not a GGUF file",
            got=repr(magic),
            wanted="a file that begins with GGUF",
            hint="Download the file again; a web page or a Git LFS pointer may have been saved in its place.",
        )


def load_error(path: Path) -> InvalidModel:
    """Return the error for a file that llama.cpp refused, as its log explains it."""
    log = log_tail()
    if "unknown model architecture" in log:
        return UnsupportedArchitecture(
            f"llama.cpp cannot run {path.name}", got=log, hint="Use a Llama, Qwen, Gemma, Phi … model."
        )
    return InvalidModel(
        f"{path.name} cannot be loaded: it is truncated or damaged",
        got=log or None,
        hint="Download or convert the file again.",
    )
