"""A backup of the whole state in one tar file, written while the service runs, and the way back.

The database is copied as it is at one moment; then come the files that it may name, which never change once they are
written. A listed file or an index generation that goes while it is copied begins the backup anew; what was deleted
between the moment and the end of the listing is missing, as it would be a moment later. Left out is what
can be had again: kept passages (``kv``), logs, temporary files, exports, index generations that are not in use. The
manifest, with the hash of every file, is the last member. The archive holds all documents and the hashes of all keys:
it is as private as the state directory. Knows nothing of what is in the files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tarfile
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import IO, Any

from data.errors import Conflict, InsufficientStorage, InvalidRequest, StorageCorrupt
from data.protocols import Report
from data.records import Progress
from data.state import StateDirectory, map_os_error, sync_folder
from data.store import Store

MANIFEST = "backup.json"
DATABASE = "ragtune.db"
FORMAT = 1
_FOLDERS = ("blobs", "uploads", "adapters", "models", "reports", "calibrations")
_TRIES = 3
_BLOCK = 1 << 20
_LARGEST_MANIFEST = 1 << 28


@dataclass(frozen=True, slots=True)
class BackupSummary:
    """What a backup holds: ``files``, the database among them, ``size`` in bytes, when (Unix seconds), whence."""

    files: int
    size: int
    created_at: float
    root: str


class _Gone(Exception):
    """A file went while it was to be copied."""


def write_backup(
    state: StateDirectory, store: Store, out: Path, report: Report, *, models: bool = True
) -> BackupSummary:
    """Write the state into the new tar file ``out``; it appears whole or not at all.

    Args:
        state: what is backed up; it may be in use.
        store: the store of ``state``.
        out: where to; it must not exist and not lie in the state directory.
        report: progress in bytes.
        models: False leaves base models out (they are large, and ``models add`` brings them back).

    Raises:
        Conflict: ``out`` exists, or files kept going away while they were copied.
        InvalidRequest: ``out`` lies in the state directory.
        InsufficientStorage: the disk is full.
    """
    out = out.absolute()
    if out.exists():
        raise Conflict("The backup exists already", got=str(out), hint="Choose another name.")
    if out.resolve().is_relative_to(state.root.resolve()):
        raise InvalidRequest("A backup cannot lie in what it backs up", got=str(out), wanted=f"outside of {state.root}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(_TRIES):
            with contextlib.suppress(_Gone), tempfile.TemporaryDirectory(prefix=".backup-", dir=out.parent) as folder:
                draft = Path(folder) / "draft.tar"
                summary = _write(state, store, draft, report, models=models)
                draft.replace(out)
                sync_folder(out.parent)
                return summary
    except OSError as error:
        raise map_os_error(error, out) from error
    raise Conflict("Files kept going away while they were copied", got=f"{_TRIES} tries", hint="Try again later.")


def _write(state: StateDirectory, store: Store, draft: Path, report: Report, *, models: bool) -> BackupSummary:
    snapshot = draft.with_name(DATABASE)
    store.snapshot(snapshot)
    members = [(snapshot, DATABASE), *_files(state, store, snapshot, models=models)]
    total = sum(_size(path) for path, _ in members)
    hashes: dict[str, str] = {}
    done = 0
    # Readable for its owner alone, as the state directory.
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for path, name in members:
                hashes[name], size = _add(archive, path, name)
                done += size
                report(Progress(done, max(done, total), "bytes", None, "backup"))
            summary = BackupSummary(len(hashes), done, time.time(), str(state.root))
            _add_manifest(archive, {"format": FORMAT, **asdict(summary), "sha256": hashes})
        file.flush()
        os.fsync(file.fileno())
    return summary


def _files(state: StateDirectory, store: Store, snapshot: Path, *, models: bool) -> Iterator[tuple[Path, str]]:
    """Yield (path, name in the archive) of every file but the database."""
    folders = [state.root / name for name in _FOLDERS if models or name != "models"]
    if not models:
        folders.append(state.embedders())
    for folder in folders:
        yield from _listed(state, folder)
    with contextlib.closing(Store.open(snapshot)) as saved:
        for collection in saved.collections.names():
            number = saved.collections.current_generation(collection)
            if number is not None:
                yield from list(_listed(state, state.index(collection, number)))
                # A generation's row goes before its files: while it is there, none of them was missed.
                if all(row.number != number for row in store.generations.list(collection)):
                    raise _Gone


def _listed(state: StateDirectory, folder: Path) -> Iterator[tuple[Path, str]]:
    """Yield the files in ``folder``; what goes while it is listed is left out."""

    def lost(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for at, folders, names in os.walk(folder, onerror=lost):
        folders.sort()
        for path in (Path(at, name) for name in sorted(names)):
            if path.is_file() and not path.is_symlink():
                yield path, path.relative_to(state.root).as_posix()


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        raise _Gone from None


def _add(archive: tarfile.TarFile, path: Path, name: str) -> tuple[str, int]:
    """Add one file and return its SHA-256 and its size."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        raise _Gone from None
    with file:
        member = tarfile.TarInfo(name)
        member.size, member.mode, member.mtime = os.fstat(file.fileno()).st_size, 0o600, int(time.time())
        reader = _Hashing(file)
        archive.addfile(member, reader)
    return reader.hash.hexdigest(), member.size


class _Hashing:
    """Hashes what is read through it."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.hash = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        """Return up to ``size`` bytes."""
        block = self._file.read(size)
        self.hash.update(block)
        return block


def _add_manifest(archive: tarfile.TarFile, manifest: dict[str, Any]) -> None:
    content = json.dumps(manifest, ensure_ascii=False, sort_keys=True).encode()
    member = tarfile.TarInfo(MANIFEST)
    member.size, member.mode = len(content), 0o600
    archive.addfile(member, BytesIO(content))


def restore_backup(source: Path, root: Path, report: Report) -> BackupSummary:
    """Unpack a backup into the new state directory ``root``, which appears whole or not at all.

    Every file is compared with its hash; the database is read for damage and brought up to date, its paths fit, and
    it names no index generation but those that are there.

    Raises:
        Conflict: ``root`` exists and is not empty.
        StorageCorrupt: the archive is damaged, incomplete, was tampered with, or is no backup.
        InsufficientStorage: there is no room for it.
    """
    root = root.absolute()
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise Conflict("There is something already", got=str(root), wanted="a new or empty --state-dir")
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".restore-", dir=root.parent) as folder:
            draft = Path(folder) / "state"
            draft.mkdir(mode=0o700)
            summary = _unpack(source, draft, report)
            with contextlib.closing(Store.open(draft / DATABASE)) as store:
                store.check()
                _forget_left_out(store)
                store.relocate(summary.root, str(root))
            if root.exists():
                root.rmdir()
            draft.rename(root)
            sync_folder(root.parent)
    except OSError as error:
        raise map_os_error(error, root) from error
    return summary


def _forget_left_out(store: Store) -> None:
    """Forget the index generations that no backup holds: there is no way back to one without files."""
    for collection in store.collections.names():
        for row in store.generations.list(collection):
            if not row.current:
                store.generations.delete(collection, row.number)


def _unpack(source: Path, draft: Path, report: Report) -> BackupSummary:
    try:
        archive = tarfile.open(source, mode="r:")  # noqa: SIM115  (closed below)
    except FileNotFoundError:
        raise InvalidRequest(
            "There is no such backup", got=str(source), wanted="a file that `ragtune backup` wrote"
        ) from None
    except tarfile.TarError as error:
        raise _damaged(source, str(error)) from error
    with archive:
        try:
            members = {member.name: member for member in archive}
            manifest = _manifest(archive, members, source)
            summary = BackupSummary(**{name: manifest[name] for name in ("files", "size", "created_at", "root")})
            hashes = manifest["sha256"]
        except (tarfile.TarError, KeyError, ValueError, TypeError) as error:
            raise _damaged(source, f"{type(error).__name__}: {error}") from error
        if set(members) - {MANIFEST} != set(hashes) or DATABASE not in hashes:
            raise _damaged(source, "its files are not those that its manifest names")
        free = shutil.disk_usage(draft).free
        if summary.size > free:
            raise InsufficientStorage(
                "The backup does not fit", got=f"{free} bytes free", wanted=f"{summary.size} bytes"
            )
        done = 0
        for name, wanted in hashes.items():
            done += _extract(archive, members[name], draft, wanted, source)
            report(Progress(done, summary.size, "bytes", None, "restore"))
    return summary


def _manifest(archive: tarfile.TarFile, members: dict[str, tarfile.TarInfo], source: Path) -> dict[str, Any]:
    member = members.get(MANIFEST)
    if member is None or not member.isreg() or member.size > _LARGEST_MANIFEST:
        raise _damaged(source, f"it has no {MANIFEST}: it was cut off, or is no backup")
    file = archive.extractfile(member)
    assert file is not None
    manifest: dict[str, Any] = json.loads(file.read())
    if manifest["format"] != FORMAT:
        raise StorageCorrupt(
            "This backup is of another format",
            got=manifest["format"],
            wanted=str(FORMAT),
            hint="Restore it with the ragtune that wrote it.",
        )
    return manifest


def _extract(archive: tarfile.TarFile, member: tarfile.TarInfo, draft: Path, wanted: str, source: Path) -> int:
    """Write one file under ``draft``, check its hash and return its size."""
    parts = PurePosixPath(member.name)
    if not member.isreg() or parts.is_absolute() or ".." in parts.parts or "\0" in member.name:
        raise _damaged(source, f"{member.name!r} is no file of a state directory")
    target = draft / parts
    target.parent.mkdir(parents=True, exist_ok=True)
    file = archive.extractfile(member)
    assert file is not None
    reader = _Hashing(file)
    with target.open("xb") as copy:
        while block := reader.read(_BLOCK):
            copy.write(block)
        copy.flush()
        os.fsync(copy.fileno())
    if reader.hash.hexdigest() != wanted:
        raise _damaged(source, f"{member.name!r} has another hash than its manifest says")
    return member.size


def _damaged(source: Path, why: str) -> StorageCorrupt:
    return StorageCorrupt(
        f"The backup cannot be used: {why}",
        got=str(source),
        wanted="a file as `ragtune backup` wrote it",
        hint="Use another copy.",
    )
