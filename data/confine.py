"""Takes from this process, and what it starts, what a reader of hostile files needs not: the network, and writing.

Linux only, by two of its interfaces that ask for no privilege: a Landlock ruleset (from Linux 5.13; landlock(7)) allows
writing beneath the named folders and nowhere else, and a seccomp filter (seccomp(2)) refuses new sockets. Both hold for
native code, and cannot be taken back. Files that are open already stay as they are; reading is not restricted, and
modes of files can be changed. Where the kernel has one of them not, the other holds alone, and the caller is told.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Sequence
from pathlib import Path

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
"""Landlock's system calls, the same on every architecture."""
_VERSION, _PATH_BENEATH = 1, 1
_WRITE_FILE, _REFER, _TRUNCATE = 1 << 1, 1 << 13, 1 << 14
_WRITES = _WRITE_FILE | sum(1 << bit for bit in range(4, 13))
"""landlock.h: writing to files, removing, and making directories, files, sockets, pipes, devices and links."""
_TCP, _ABSTRACT_SOCKETS, _SIGNALS = 0b11, 1 << 0, 1 << 1
"""landlock.h, from version 6 on: binding and connecting; sockets without a file, and signals, to those outside."""
_ARCHITECTURES = {
    "x86_64": (0xC000003E, {"socket": 41, "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311}),
    "aarch64": (0xC00000B7, {"socket": 198, "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271}),
}
"""audit.h's number of an architecture, and its numbers of system calls (unistd.h)."""
_IO_URING_SETUP = 425
_X32 = 0x40000000
_LOAD, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x15, 0x35, 0x06
_ALLOW, _REFUSE = 0x7FFF0000, 0x00050000 | 1
"""seccomp.h: let pass; fail with EPERM."""
_AF_UNIX = 1


def confine(writable: Sequence[Path], *, unix_sockets: bool = False) -> frozenset[str]:
    """Give up the network, and writing anywhere but beneath ``writable``, for good; return what is refused from now on.

    Signals to processes that it did not start are refused too, from Linux 6.12 on.

    To be called before there are threads.

    Args:
        writable: folders, and files, that may be written.
        unix_sockets: whether sockets within this machine may still be made.

    Returns:
        ``"writes"`` and ``"network"``, each where the kernel has it.
    """
    if sys.platform != "linux":
        return frozenset()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return frozenset()
    held = {"writes": _keep_writes(libc, writable), "network": _refuse_sockets(libc, unix_sockets=unix_sockets)}
    return frozenset(name for name, holds in held.items() if holds)


def _keep_writes(libc: ctypes.CDLL, writable: Sequence[Path]) -> bool:
    version = libc.syscall(_CREATE_RULESET, None, 0, _VERSION)
    if version < 1:
        return False
    handled = _WRITES | (_REFER if version >= 2 else 0) | (_TRUNCATE if version >= 3 else 0)
    wanted = struct.pack("=Q", handled)
    if version >= 6:
        wanted = struct.pack("=QQQ", handled, _TCP, _SIGNALS | _ABSTRACT_SOCKETS)
    ruleset = libc.syscall(_CREATE_RULESET, wanted, len(wanted), 0)
    if ruleset < 0:
        return False
    try:
        for path in (*writable, Path(os.devnull)):
            handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            try:
                allowed = handled if path.is_dir() else handled & (_WRITE_FILE | _TRUNCATE)
                rule = struct.pack("=Qi", allowed, handle)
                if libc.syscall(_ADD_RULE, ruleset, _PATH_BENEATH, rule, 0) != 0:
                    return False
            finally:
                os.close(handle)
        return bool(libc.syscall(_RESTRICT_SELF, ruleset, 0) == 0)
    finally:
        os.close(ruleset)


def _refuse_sockets(libc: ctypes.CDLL, *, unix_sockets: bool) -> bool:
    if platform.machine() not in _ARCHITECTURES or sys.byteorder != "little":
        return False
    program = b"".join(
        struct.pack("=HBBI", *line) for line in _filter(*_ARCHITECTURES[platform.machine()], unix_sockets)
    )
    kept = ctypes.create_string_buffer(program, len(program))
    head = struct.pack("@HP", len(program) // 8, ctypes.addressof(kept))
    return bool(libc.prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.c_char_p(head), 0, 0) == 0)


def _filter(architecture: int, calls: dict[str, int], unix_sockets: bool) -> list[tuple[int, int, int, int]]:
    """Return a BPF program over seccomp_data: its number at 0, the architecture at 4, the first argument at 16.

    Another architecture's calls have other numbers, so they are refused. io_uring makes sockets that no filter sees.
    """
    refused = [number for name, number in calls.items() if name != "socket"] + [_IO_URING_SETUP]
    lines = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, architecture), (_RETURN, 0, 0, _REFUSE), (_LOAD, 0, 0, 0)]
    for number in refused:
        lines += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _REFUSE)]
    lines += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _REFUSE)]
    lines += [(_EQUAL, 1, 0, calls["socket"]), (_RETURN, 0, 0, _ALLOW)]
    if unix_sockets:
        lines += [(_LOAD, 0, 0, 16), (_EQUAL, 0, 1, _AF_UNIX), (_RETURN, 0, 0, _ALLOW)]
    return [*lines, (_RETURN, 0, 0, _REFUSE)]
