"""Runs a piece of work in a forked process that may be killed at any moment, and keeps what it said until then."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass

Say = Callable[[str], None]


@dataclass(frozen=True)
class Ended:
    """What a child said, line by line, and how it ended: ``signal`` 0 if it went by itself with ``status``."""

    said: list[str]
    status: int
    signal: int


def run_forked(
    work: Callable[[Say], None], kill_after_s: float | None = None, kill_at_line: int | None = None
) -> Ended:
    """Run ``work(say)`` in a child and kill it after so many seconds of work, or lines said, if it has not ended.

    Seconds are of the processor, all threads together: a busy machine then kills it as far into its work as an idle
    one. A line that was said is with the parent, whatever happens to the child next: it is what a client has in hand.
    The parent must have no threads: they would not be in the child.
    """
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        _child(work, reader, writer)
    os.close(writer)
    blocks = []
    killed = False
    while True:
        left = None if kill_after_s is None or killed else kill_after_s - worked_s(pid)
        if left is not None and left <= 0:
            os.kill(pid, signal.SIGKILL)
            killed = True
            continue
        if not select.select([reader], [], [], left)[0]:
            continue
        block = os.read(reader, 1 << 16)
        if not block:
            break
        blocks.append(block)
        if kill_at_line is not None and not killed and b"".join(blocks).count(b"\n") >= kill_at_line:
            os.kill(pid, signal.SIGKILL)
            killed = True
    os.close(reader)
    _, status = os.waitpid(pid, 0)
    lines = b"".join(blocks).decode().splitlines()
    return Ended(lines, os.waitstatus_to_exitcode(status), os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0)


def worked_s(pid: int) -> float:
    """Return the processor time of a process that was not waited for yet, in seconds (Linux)."""
    return time.clock_gettime(~pid << 3 | 2)  # CPUCLOCK_SCHED of a process: include/linux/posix-timers_types.h


def _child(work: Callable[[Say], None], reader: int, writer: int) -> None:
    os.close(reader)
    status = 1
    try:
        work(lambda line: os.write(writer, f"{line}\n".encode()) and None)
        status = 0
    except BaseException:
        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(status)
