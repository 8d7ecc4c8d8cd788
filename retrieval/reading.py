"""Find files under folders, and read one so that what is hashed is what is parsed.

Knows nothing of formats.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from data.errors import DocumentTooLarge, EmptyDocument, FileChanged, InvalidRequest, UnreadableDocument
from retrieval.sniff import READABLE
from retrieval.text import guess_legacy

_READS = 3


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of one file, and the name that errors and citations give it."""

    source: str
    data: bytes
    modified_at: float

    @property
    def sha256(self) -> str:
        """Return the hex digest of the bytes."""
        return hashlib.sha256(self.data).hexdigest()


def find_files(paths: Iterable[Path | str]) -> list[tuple[Path, str]]:
    """Return (file, source) of every visible file under ``paths``, in order of source.

    The source is the path relative to the folder given, or the name of a file given by itself; where
    two files of one call would share a source, their paths as given tell them apart. Links to folders
    are followed, each real folder once, so that a loop of links ends. A folder that may not be listed
    is returned itself, and fails when it is read.

    Raises:
        InvalidRequest: a path does not exist, or there is no file at all.
        UnreadableDocument: a path cannot be reached or listed.
    """
    found: dict[str, tuple[Path, str]] = {}
    for path in map(Path, paths):
        if _is_folder(path):
            for real, inside in _walk(path):
                found.setdefault(real, (path / inside, inside))
        elif path.is_file():
            found.setdefault(str(path.resolve()), (path, path.name))
    if not found:
        raise InvalidRequest("There is no file to ingest.", wanted=READABLE, hint="Put documents into the folder.")
    found = {real: (path, _unicode(source)) for real, (path, source) in found.items()}
    times: dict[str, int] = {}
    for _, source in found.values():
        times[source] = times.get(source, 0) + 1
    named = [(file, source if times[source] == 1 else _unicode(file.as_posix())) for file, source in found.values()]
    return sorted(named, key=lambda item: item[1])


def _unicode(name: str) -> str:
    """Return a file name as text: names written under a legacy encoding reach Python as lone surrogates."""
    raw = os.fsencode(name)
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode(guess_legacy(raw), errors="replace")


def _is_folder(path: Path) -> bool:
    try:
        if not path.exists():
            raise InvalidRequest("There is no such file or folder.", got=str(path), hint="Check the path.")
        return path.is_dir()
    except PermissionError as error:
        raise _unreadable(str(path), error) from error


def _walk(root: Path) -> Iterator[tuple[str, str]]:
    """Yield (real path, path inside ``root``) of visible files, without a ``resolve`` for each of them."""
    waiting = [(os.path.realpath(root), "")]
    seen = {waiting[0][0]}
    while waiting:
        real, inside = waiting.pop()
        try:
            entries = list(os.scandir(real))
        except OSError as error:
            if not inside:
                raise _unreadable(str(root), error) from error
            yield real, inside
            continue
        for entry in entries:
            if entry.name.startswith("."):
                continue
            path = f"{inside}/{entry.name}" if inside else entry.name
            target = os.path.realpath(entry.path) if entry.is_symlink() else entry.path
            if entry.is_dir():
                if target not in seen:
                    seen.add(target)
                    waiting.append((target, path))
            elif _may_be_file(entry):
                yield target, path


def _may_be_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except PermissionError:
        return True  # in a folder whose names alone can be read: reading it tells why


def _unreadable(name: str, error: OSError) -> UnreadableDocument:
    return UnreadableDocument(f"It cannot be read: {error.strerror}.", got=name, hint="Check its permissions.")


def read(path: Path | str, *, max_bytes: int, source: str | None = None) -> Content:
    """Read a file whole, once: a file that changes meanwhile is read again, up to three times.

    Raises:
        EmptyDocument: no bytes, or only white space.
        DocumentTooLarge: more than ``max_bytes``.
        FileChanged: it changed every time.
        UnreadableDocument: it cannot be opened, or is no regular file.
    """
    path = Path(path)
    name = source or str(path)
    try:
        for _ in range(_READS):
            data, modified_at = _read_once(path, name, max_bytes)
            if data is not None:
                return Content(name, data, modified_at)
    except OSError as error:
        raise _unreadable(name, error) from error
    raise FileChanged("The file changed while it was read.", got=name, hint="Ingest it again when it is complete.")


def _read_once(path: Path, name: str, max_bytes: int) -> tuple[bytes | None, float]:
    """Return (bytes, time of change), None for the bytes where the file changed under the reading."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):  # ``find_files`` returns only those that cannot be listed
        os.scandir(path).close()
    if not stat.S_ISREG(mode):  # opening a named pipe would wait for ever
        raise UnreadableDocument("It is no regular file.", got=name, hint="Leave it out.")
    with path.open("rb") as file:
        before = os.fstat(file.fileno())
        if before.st_size > max_bytes:
            raise DocumentTooLarge(
                f"{name} is too large.",
                got=f"{before.st_size} bytes",
                wanted=f"at most {max_bytes} bytes",
                hint="Split the file.",
            )
        data = file.read(max_bytes + 1)
        after = os.fstat(file.fileno())
    same = len(data) == before.st_size == after.st_size and before.st_mtime_ns == after.st_mtime_ns
    if same and not data.strip():
        raise EmptyDocument("The file is empty.", got=name, hint="Leave it out, or fill it.")
    return (data if same else None), after.st_mtime
