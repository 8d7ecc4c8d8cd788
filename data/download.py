"""Fetch one file over HTTP so that nothing is fetched twice: what came before an interruption is kept and continued.

A file that is not whole stands beside its place under ``.part``, across processes too; it takes its place when its
hash is the one that the hub names. The client libraries of hubs start a broken file anew in the next process. Knows
nothing of models.
"""

from __future__ import annotations

import fcntl
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Literal

from data.errors import HubError
from data.state import map_os_error

ATTEMPTS = 5
"""Tries in a row that bring nothing, before a download is given up; it can be continued later all the same."""
_TIMEOUT_S = 30.0
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file on a hub: its path there, where it is fetched, its size in bytes, and its hash (None where unknown).

    ``kind`` of the hash: ``sha256`` of the bytes, or ``git``: SHA-1 of the bytes as a git blob.
    """

    path: str
    url: str
    size: int
    digest: str | None = None
    kind: Literal["sha256", "git"] = "sha256"


def download(
    file: RemoteFile, target: Path, *, headers: dict[str, str] | None = None, advance: Callable[[int], None]
) -> Path:
    """Fetch ``file`` to ``target``, going on where an earlier call stopped.

    Args:
        file: what to fetch.
        target: where it goes; it appears complete or not at all.
        headers: sent with every request, not to another host.
        advance: told how many bytes more (of earlier calls too) are here; may raise to stop.

    Raises:
        HubError: the server refuses or stays silent, the bytes are not those the hub names, or another process
            fetches the same file.
        InsufficientStorage: the disk is full; what came is kept.
    """
    part = target.with_name(f"{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab") as out:
            _lock(out, file)
            advance(out.tell())
            _fill(file, out, headers or {}, advance)
        _check(file, part)
        part.replace(target)
    except OSError as error:
        raise map_os_error(error, part) from error
    return target


def _fill(file: RemoteFile, out: BinaryIO, headers: dict[str, str], advance: Callable[[int], None]) -> None:
    import httpx2

    failures = 0
    while out.tell() < file.size:
        before = out.tell()
        try:
            _receive(file, out, headers, advance)
            trouble = "the connection closed early"
        except (httpx2.TransportError, _Busy) as error:
            trouble = str(error) or type(error).__name__
        out.flush()
        failures = 0 if out.tell() > before else failures + 1
        if failures == ATTEMPTS:
            raise HubError(
                f"The download of {file.path} broke off: {trouble}",
                got=f"{out.tell()} of {file.size} bytes",
                hint="They are kept: the same command goes on from there.",
            )
        if out.tell() < file.size:
            time.sleep(min(failures + 0.2, 5))


class _Busy(Exception):
    """A status under which it is worth asking again."""


def _receive(file: RemoteFile, out: BinaryIO, headers: dict[str, str], advance: Callable[[int], None]) -> None:
    import httpx2

    have = out.tell()
    # Compressed, a stretch of bytes would be one of other bytes.
    asked = {**headers, "Accept-Encoding": "identity", **({"Range": f"bytes={have}-"} if have else {})}
    with httpx2.stream("GET", file.url, headers=asked, follow_redirects=True, timeout=_TIMEOUT_S) as response:
        if response.status_code in _TRY_AGAIN:
            raise _Busy(f"HTTP {response.status_code}")
        if response.status_code not in (200, 206):
            closed = response.status_code in (401, 403)
            hint = "Accept its licence on the hub and set HF_TOKEN, or use another model." if closed else ""
            raise HubError(f"The hub refuses {file.path}", got=f"HTTP {response.status_code}", hint=hint)
        if have and response.status_code == 200:  # it knows no ranges: all of it comes again
            out.truncate(0)
            advance(-have)
        for block in response.iter_bytes():  # as they come: blocks of a fixed size lose what is left of the last one
            out.write(block)
            advance(len(block))


def _lock(out: BinaryIO, file: RemoteFile) -> None:
    try:
        fcntl.flock(out, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise HubError(f"Another process is fetching {file.path}", hint="Wait until it is done.") from error


def _check(file: RemoteFile, part: Path) -> None:
    """Compare size and hash; a file of other bytes goes, since more of them would not mend it."""
    size = part.stat().st_size
    found = None if file.digest is None or size != file.size else _digest(part, file.kind)
    if size == file.size and found == file.digest:
        return
    part.unlink()
    raise HubError(
        f"{file.path} came with other bytes than the hub names",
        got=f"{size} bytes" if found is None else found,
        wanted=f"{file.size} bytes" if found is None else str(file.digest),
        hint="It was deleted. Try again; if it happens again, the mirror or a proxy changes files: use another.",
    )


def _digest(path: Path, kind: str) -> str:
    if kind == "git":
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
