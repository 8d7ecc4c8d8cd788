"""The child program: parses file after file from standard input under a memory limit.

A request is ``{"op": "parse" | "unpack", ...}`` with the file's bytes; the answer has the text as its
payload, or names an error. It makes no socket, writes into one folder only, and ends when its parent is gone
or has nothing for it for a minute.
"""

from __future__ import annotations

import os
import resource
import select
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, BinaryIO

from data.confine import confine
from data.errors import RagtuneError
from retrieval.frames import read_frame, write_frame
from retrieval.parsers.parsed import Budget, Parsed, check_size
from retrieval.parsers.registry import parse
from retrieval.text import normalize

_IDLE_S = 60.0
_ANY_SIZE = 2**62


def _refuse_network(event: str, _: tuple[Any, ...]) -> None:
    if event in {"socket.connect", "socket.getaddrinfo", "socket.bind", "urllib.Request"}:
        raise PermissionError(f"a parser asked for {event}")


def _peak_bytes() -> int:
    """Return the most memory that this program has had resident.

    On Linux ``ru_maxrss`` is not that: a child that was begun by ``vfork`` inherits its parent's, which may be a
    server with a model in it (getrusage(2) speaks of the process, and the process is older than the program).
    """
    try:
        with Path("/proc/self/status").open(encoding="ascii", errors="replace") as status:
            high_water = next(line for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return int(high_water.split()[1]) * 1024


def _budget(request: dict[str, Any]) -> Budget:
    ocr = False
    if request["ocr"] == "auto":
        from retrieval.parsers.ocr import installed

        ocr = bool(installed()[0]) if request.get("media_type") == "application/pdf" else False
    return Budget(
        max_text=request["max_text"],
        max_unpacked=request["max_unpacked"],
        max_members=request["max_members"],
        max_ratio=request["max_ratio"],
        max_depth=request["max_depth"],
        ends_at=time.monotonic() + request["timeout_s"],
        ocr=ocr,
    )


def _answer(request: dict[str, Any], raw: bytes) -> tuple[dict[str, Any], bytes]:
    try:
        budget = _budget(request)
        if request["op"] == "unpack":
            from retrieval.parsers.archive import unpack

            return {"members": unpack(raw, Path(request["folder"]), budget)}, b""
        return _document(parse(raw, request["media_type"], budget), budget)
    except RagtuneError as error:
        found = {"error": type(error).__name__, "detail": error.detail, "wanted": error.wanted, "hint": error.hint}
        return found, b""
    except (MemoryError, RecursionError) as error:
        what = "out of memory" if isinstance(error, MemoryError) else "nested too deeply"
        return {"error": "ParseTimeout", "detail": f"Parsing ran {what}.", "hint": "Simplify or split it."}, b""


def _document(parsed: Parsed, budget: Budget) -> tuple[dict[str, Any], bytes]:
    # Offsets in meta count characters of the text as parsed: only text without them may still change length.
    text = parsed.text if parsed.meta.get("page_starts") else normalize(parsed.text)
    check_size(len(text), budget)
    payload = text.encode("utf-8", errors="replace")
    header = {"title": normalize(parsed.title), "markdown": parsed.markdown, "meta": parsed.meta}
    return header, payload


def main(memory_bytes: int, folder: Path, source: BinaryIO, target: BinaryIO) -> int:
    """Answer requests until there are none; memory beyond the limit ends the request or the process.

    What a request unpacks, and what libraries write while they work, lies in ``folder``. The audit hook is for machines
    whose kernel cannot confine a process; it holds for Python code alone.
    """
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.putenv("OMP_THREAD_LIMIT", "1")  # Tesseract's own threads cost more than they bring
    tempfile.tempdir = str(folder)
    os.putenv("TMPDIR", str(folder))
    confine([folder])
    sys.addaudithook(_refuse_network)
    while select.select([source], [], [], _IDLE_S)[0]:
        found = read_frame(source, _ANY_SIZE)
        if found is None:
            break
        header, payload = _answer(*found)
        header["peak_bytes"] = _peak_bytes()
        write_frame(target, header, payload)
    return 0


if __name__ == "__main__":
    # What a library prints must not stand between the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    with os.fdopen(os.dup(0), "rb", buffering=0) as raw_input, answers:
        from io import BufferedReader

        sys.exit(main(int(sys.argv[1]), Path(sys.argv[2]), BufferedReader(raw_input), answers))
