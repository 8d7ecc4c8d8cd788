"""Run parsers in killable child processes that are kept for the next file.

A child that runs out of time, crashes or grows is ended and replaced; the file costs a typed error and
the caller nothing. Knows the child program's messages, and nothing of formats.
"""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

from data import errors
from data.state import map_os_error
from retrieval.frames import read_frame, write_frame

_ROOT = Path(__file__).resolve().parents[1]
_KEPT = 4  # idle children, at most
_GROWN_SHARE = 0.25  # of the memory limit: a child that ever took more is not kept
_TOLD_BYTES = 2000
_OUT_OF_MEMORY = ("MemoryError", "memory allocation", "bad_alloc", "out of memory", "cannot allocate")


@dataclass(frozen=True, slots=True)
class Limits:
    """What one file may cost: bytes on disk, seconds and bytes of memory in its parser, characters of text.

    What it unpacks into is bounded too: bytes, members, their ratio to the packed bytes, and how deep
    archives may lie in archives. ``ocr`` is ``auto`` where an installed Tesseract may read scanned pages.
    """

    max_bytes: int = 100 * 2**20
    timeout_s: float = 120.0
    memory_bytes: int = 2 * 2**30
    max_text: int = 64 * 2**20
    max_unpacked: int = 1 * 2**30
    max_members: int = 20_000
    max_ratio: float = 200.0
    max_depth: int = 3
    ocr: Literal["auto", "off"] = "auto"

    def request(self) -> dict[str, Any]:
        """Return what the child is told of the limits."""
        names = ("timeout_s", "max_text", "max_unpacked", "max_members", "max_ratio", "max_depth", "ocr")
        return {name: getattr(self, name) for name in names}


class _Crashed(Exception):
    """The child is gone; the message is what it said last."""


class _Child:
    """One child program, with the file's turn ended from outside when its time is over."""

    def __init__(self, memory_bytes: int, folder: Path) -> None:
        self.memory_bytes, self.folder = memory_bytes, folder
        self._told: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-m", "retrieval.parsers", str(memory_bytes), str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._told,
            cwd=_ROOT,
            start_new_session=True,  # so that a program the child started ends with it
        )

    def is_alive(self) -> bool:
        """Say whether it still runs."""
        return self._process.poll() is None

    def ask(self, request: Mapping[str, Any], data: bytes, timeout_s: float) -> tuple[dict[str, Any], bytes]:
        """Send one request and return the answer.

        Raises:
            TimeoutError: there was none in time; the child is ended.
            _Crashed: the child ended by itself.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            self.kill()

        timer = threading.Timer(timeout_s, end)
        timer.daemon = True
        timer.start()
        try:
            write_frame(self._process.stdin, request, data)
            answer = read_frame(self._process.stdout, 4 * int(request["max_text"]) + 2**20)
        except (OSError, ValueError) as error:
            if not late.is_set():
                raise _Crashed(self._last_words()) from error
            answer = None
        finally:
            timer.cancel()
        if late.is_set():
            raise TimeoutError
        if answer is None:
            raise _Crashed(self._last_words())
        return answer

    def _last_words(self) -> str:
        self.kill()
        code = self._process.wait()
        self._told.seek(max(0, self._told.seek(0, os.SEEK_END) - _TOLD_BYTES))
        told = self._told.read().decode(errors="replace").strip().splitlines()
        reason = signal.Signals(-code).name if code < 0 else f"exit {code}"
        return f"{reason}: {told[-1] if told else 'no message'}"

    def kill(self) -> None:
        """End it now, with whatever it started."""
        if self._process.poll() is None:
            try:
                os.killpg(self._process.pid, signal.SIGKILL)
            except ProcessLookupError:
                return

    def close(self) -> None:
        """End it and free what it holds."""
        self.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._told):
            try:
                if stream is not None:
                    stream.close()
            except OSError:  # what was not sent yet cannot be sent any more
                continue


class Parsers:
    """A few children, shared by threads: each file takes one, and gives it back if it is still fit."""

    def __init__(self) -> None:
        self._idle: list[_Child] = []
        self._lock = threading.Lock()
        self._folder: Path | None = None
        self.peak_bytes = 0

    def __enter__(self) -> Parsers:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def folder(self) -> Path:
        """The one folder that the children may write into; it goes with ``close``.

        Raises:
            StateError: it cannot be made.
        """
        with self._lock:
            if self._folder is None:
                try:
                    self._folder = Path(tempfile.mkdtemp(prefix="ragtune-parsers-"))
                except OSError as error:
                    raise map_os_error(error, tempfile.gettempdir()) from error
            return self._folder

    def ask(self, request: Mapping[str, Any], data: bytes, name: str, limits: Limits) -> tuple[dict[str, Any], bytes]:
        """Have one request answered; after a crash once more by a fresh child: other files may have spoiled this one.

        Raises:
            UnreadableDocument: the answer is an error, or there is none.
            StateError: the child cannot be started, or the disk is full.
        """
        request = {**limits.request(), **request}
        try:
            try:
                header, payload = self._ask(request, data, limits)
            except _Crashed:
                header, payload = self._ask(request, data, limits, fresh=True)
        except TimeoutError as error:
            detail = f"Parsing took longer than {limits.timeout_s:g} s and was stopped."
            raise errors.ParseTimeout(detail, got=name, hint="Simplify or split it.") from error
        except _Crashed as error:
            if any(sign in str(error) for sign in _OUT_OF_MEMORY):
                detail = f"Parsing took more than {limits.memory_bytes} bytes of memory."
                raise errors.ParseTimeout(detail, got=name, hint="Simplify or split it.") from error
            detail = f"The parser crashed on the file ({error})."
            raise errors.DamagedDocument(detail, got=name, hint="Save it again with its own program.") from error
        if "error" in header:
            error_type = getattr(errors, header["error"])
            raise error_type(header["detail"], got=name, wanted=header.get("wanted", ""), hint=header.get("hint", ""))
        return header, payload

    def _ask(
        self, request: Mapping[str, Any], data: bytes, limits: Limits, *, fresh: bool = False
    ) -> tuple[dict[str, Any], bytes]:
        child = self._take(limits.memory_bytes, fresh=fresh)
        try:
            header, payload = child.ask(request, data, limits.timeout_s)
        except BaseException:
            child.close()
            raise
        peak = int(header.pop("peak_bytes", 0))
        self.peak_bytes = max(self.peak_bytes, peak)
        self._give_back(child, peak)
        return header, payload

    def _take(self, memory_bytes: int, *, fresh: bool) -> _Child:
        folder = self.folder
        with self._lock:
            for child in [] if fresh else reversed(self._idle):
                if (child.memory_bytes, child.folder) == (memory_bytes, folder):
                    self._idle.remove(child)
                    if child.is_alive():
                        return child
                    child.close()
                    break
        try:
            return _Child(memory_bytes, folder)
        except OSError as error:
            raise map_os_error(error, tempfile.gettempdir()) from error

    def _give_back(self, child: _Child, peak: int) -> None:
        dropped = [child]
        if peak <= _GROWN_SHARE * child.memory_bytes and child.is_alive():
            with self._lock:
                self._idle.append(child)
                dropped = [self._idle.pop(0)] if len(self._idle) > _KEPT else []
        for one in dropped:
            one.close()

    def close(self) -> None:
        """End every idle child and remove what they wrote."""
        with self._lock:
            idle, self._idle = self._idle, []
            folder, self._folder = self._folder, None
        for child in idle:
            child.close()
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)

    def forget(self) -> None:
        """Let go of the children without ending them: they belong to the process this one was forked from."""
        self._idle = []
        self._lock = threading.Lock()
        self._folder = None


SHARED = Parsers()
"""The children that ``load`` uses; they end with the process, and by themselves after a minute without work."""
atexit.register(SHARED.close)
os.register_at_fork(after_in_child=SHARED.forget)
