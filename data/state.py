"""The state directory: where everything is kept, who may write it, and how a file is written safely.

Knows the paths, not what is in the files.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from data.errors import InsufficientStorage, InvalidRequest, StateError, StateLocked, StateNotWritable

_NAME = re.compile(r"\w[\w.-]{0,63}")
_FULL = (errno.ENOSPC, errno.EDQUOT)
_DENIED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT)


def check_name(name: str, what: str = "name") -> str:
    """Return ``name`` if it may name a folder: 1 to 64 letters, digits, ``_``, ``-`` or ``.``.

    Raises:
        InvalidRequest: it may not (it starts with a dot or a dash, holds a slash, is empty ...).
    """
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"Invalid {what}.",
            got=repr(name),
            wanted="1 to 64 letters, digits, '_', '-' or '.', a letter or digit first",
        )
    return name


def map_os_error(error: OSError, path: Path | str) -> StateError:
    """Return the error of our tree for an operating system error met while writing ``path``."""
    if error.errno in _FULL:
        return InsufficientStorage("The disk is full.", got=str(path), hint="Free some disk space, then try again.")
    if error.errno in _DENIED:
        return StateNotWritable(
            f"Cannot write: {error.strerror}.",
            got=str(path),
            wanted="a folder this user may write",
            hint="Choose a writable --state-dir.",
        )
    return StateError(f"The file system failed: {error.strerror or error}.", got=str(path))


def write_atomic(path: Path, content: bytes) -> None:
    """Write a file so that a crash leaves the old content or the new, whole and on the disk.

    Raises:
        InsufficientStorage: the disk is full.
        StateNotWritable: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(path)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                Path(temporary).unlink()
            raise
        sync_folder(path.parent)
    except OSError as error:
        raise map_os_error(error, path) from error


def sync_folder(folder: Path) -> None:
    """Make the names in ``folder`` (created, renamed, removed) durable; of a file, its content."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it that are missing, their names on the disk.

    Raises:
        OSError: as ``Path.mkdir`` and ``os.fsync``.
    """
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_folder(path.parent)


def sync_tree(folder: Path, root: Path) -> None:
    """Make all that is in ``folder`` durable, and the names that lead to it from ``root``, one of its parents.

    Raises:
        OSError: as ``os.fsync``.
    """
    for path in sorted(folder.rglob("*"), reverse=True):  # what a folder holds before its names
        sync_folder(path)
    for path in (folder, *folder.parents):
        sync_folder(path)
        if path == root:
            return


def sha256_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class StateDirectory:
    """Every path under the directory that holds all of ragtune's state."""

    def __init__(self, root: Path) -> None:
        self.root = Path(root).absolute()

    @property
    def db(self) -> Path:
        """The SQLite database: the truth from which indexes are derived."""
        return self.root / "ragtune.db"

    @property
    def blobs(self) -> Path:
        """Uploaded files, by the SHA-256 of their bytes."""
        return self.root / "blobs"

    @property
    def uploads(self) -> Path:
        """Files that a job was sent, a folder for each job, until it has ended."""
        return self.root / "uploads"

    @property
    def exports(self) -> Path:
        """Exported pairs: ``<collection>/<fingerprint>/``."""
        return self.root / "exports"

    @property
    def kv(self) -> Path:
        """Saved passage KV states."""
        return self.root / "kv"

    @property
    def reports(self) -> Path:
        """Comparison reports, one folder each."""
        return self.root / "reports"

    @property
    def calibrations(self) -> Path:
        """Fitted confidences: ``<collection>/<arm>.json``."""
        return self.root / "calibrations"

    @property
    def logs(self) -> Path:
        """Logs of the server and of the job children."""
        return self.root / "logs"

    @property
    def tmp(self) -> Path:
        """Files that nobody needs after a restart."""
        return self.root / "tmp"

    def index(self, collection: str, generation: int | None = None) -> Path:
        """Return the folder of an index generation, or of all generations of a collection."""
        folder = self.root / "index" / check_name(collection, "collection name")
        return folder if generation is None else folder / str(int(generation))

    def adapters(self, name: str | None = None, version: int | None = None) -> Path:
        """Return the folder of one adapter version, of one adapter, or of all of them."""
        folder = self.root / "adapters"
        if name is None:
            return folder
        folder /= check_name(name, "adapter name")
        return folder if version is None else folder / str(int(version))

    def models(self, name: str | None = None) -> Path:
        """Return the folder of one base model, or of all of them."""
        folder = self.root / "models"
        return folder if name is None else folder / check_name(name, "model name")

    def embedders(self, name: str | None = None, version: int | None = None) -> Path:
        """Return the folder of one version of a tuned embedder, of all its versions, or of all of them."""
        folder = self.models() / "embedders"
        if name is None:
            return folder
        folder /= check_name(name, "retriever name")
        return folder if version is None else folder / str(int(version))

    def create(self) -> StateDirectory:
        """Make the directory and its folders, readable for this user only, and prove it writable.

        A full disk is no objection where everything is there already: what only reads goes on.

        Raises:
            StateNotWritable: it cannot be made or written.
            InsufficientStorage: the disk is full, and a folder is missing.
        """
        try:
            before = self.root.is_dir() and set(self.root.iterdir())
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            for folder in (self.blobs, self.uploads, self.exports, self.kv, self.reports, self.logs, self.tmp):
                folder.mkdir(exist_ok=True)
            for folder in (self.adapters(), self.models(), self.root / "index"):
                folder.mkdir(exist_ok=True)
            if before != set(self.root.iterdir()):
                sync_folder(self.root)
                sync_folder(self.root.parent)
            self._prove_writable()
        except OSError as error:
            raise map_os_error(error, self.root) from error
        return self

    def _prove_writable(self) -> None:
        try:
            with tempfile.TemporaryFile(dir=self.root) as file:
                file.write(b"writable")
        except OSError as error:
            if error.errno not in _FULL:
                raise

    @property
    def _lock_file(self) -> Path:
        return self.root / "lock"

    def holder(self) -> dict[str, object] | None:
        """Return ``{"pid", "url"}`` of the process that holds the lock, None if nobody does."""
        try:
            with self._lock_file.open("rb") as file:
                try:
                    fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    return _read_holder(file.read())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise map_os_error(error, self._lock_file) from error
        return None

    @contextlib.contextmanager
    def lock(self, url: str = "", *, shared: bool = False) -> Iterator[None]:
        """Hold the directory for this process: nobody else may write it meanwhile.

        The lock goes with the process, however it ends. ``url`` is where the holder serves, if it
        does, and is named to whoever comes second. ``shared`` lets others hold it that share it too.

        Raises:
            StateLocked: another process (or this one, elsewhere) holds it.
            StateNotWritable: the directory cannot be written.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            file = self._lock_file.open("a+b")
        except OSError as error:
            raise map_os_error(error, self._lock_file) from error
        with file:
            try:
                fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise self._locked(_read_holder(file.read())) from error
            file.truncate(0)
            file.write(json.dumps({"pid": os.getpid(), "url": url}).encode())
            file.flush()
            yield

    @contextlib.contextmanager
    def turn(self, name: str) -> Iterator[None]:
        """Wait until no other process or thread is in the same ``turn``; processes that share the directory need it.

        Raises:
            StateNotWritable: the directory cannot be written.
        """
        path = self.root / f".{check_name(name)}.lock"
        try:
            file = path.open("wb")
        except OSError as error:
            raise map_os_error(error, path) from error
        with file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def join(self) -> None:
        """Check that this process may write because its parent holds the lock.

        Raises:
            StateLocked: the parent does not hold it (any more).
        """
        holder = self.holder()
        if holder is None or holder["pid"] != os.getppid():
            raise self._locked(holder)

    def _locked(self, holder: dict[str, object] | None) -> StateLocked:
        if holder is None:
            return StateLocked("The process that started this one no longer holds the state directory.")
        where = f", serving at {holder['url']}" if holder["url"] else ""
        return StateLocked(
            f"The state directory is in use by process {holder['pid']}{where}.",
            got=str(self.root),
            hint="Stop that process, talk to it over HTTP, or choose another --state-dir.",
        )


def _read_holder(content: bytes) -> dict[str, object]:
    # The holder may be between taking the lock and writing its name.
    try:
        found = json.loads(content)
        return {"pid": int(found["pid"]), "url": str(found["url"])}
    except (ValueError, KeyError, TypeError):
        return {"pid": 0, "url": ""}
