"""The manifest of an index generation: every file's SHA-256, checked before the file is read.

A file is hashed in full once per process, and again when its inode, size or time of change differ from
what was hashed. Only what was built while this process was running, and is just as its builder left it
by inode, size and time, is taken on the builder's word: otherwise a process that serves would stand
still for the second that hashing a million chunks takes, each time a new index takes over. Knows
nothing of what the files hold.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data.errors import StorageCorrupt
from data.state import sha256_file, sync_folder, write_atomic

MANIFEST = "manifest.json"
REPAIR = "Repair it: ragtune index rebuild."

_STARTED_NS = time.time_ns()
_MAX_KNOWN = 100_000
_known: dict[tuple[int, ...], str] = {}
"""SHA-256 of the files that this process has hashed, by (device, inode, size, time of change)."""


def read_manifest(folder: Path, *, full: bool = False) -> dict[str, Any]:
    """Return a generation's manifest after comparing every file with its hash there.

    ``full`` hashes every file anew, whatever is known of it.

    Raises:
        StorageCorrupt: it is missing or unreadable, or a file is missing or was changed.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_bytes())
        files = dict(manifest["files"])
        built = dict(manifest.get("built", {}))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageCorrupt("The index has no readable manifest.", got=str(folder), hint=REPAIR) from error
    for name, wanted in files.items():
        try:
            fresh = not full and _as_built(folder / name, built.get(name))
            got = wanted if fresh else _sha256(folder / name, full=full)
        except OSError as error:
            raise StorageCorrupt("An index file is missing.", got=str(folder / name), hint=REPAIR) from error
        if got != wanted:
            raise StorageCorrupt("An index file is damaged.", got=str(folder / name), hint=REPAIR)
    return manifest


def write_manifest(folder: Path, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Hash what is in ``folder``, make it durable, and write the manifest as its last file; return it.

    Raises:
        InsufficientStorage: the disk is full.
    """
    for path in [*(path for path in folder.rglob("*") if path.is_dir()), folder]:
        sync_folder(path)
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    manifest = {
        **facts,
        "created_at": time.time(),
        "files": {name: _sha256(path) for name, path in names.items()},
        "built": {name: list(_identity(path)[1:]) for name, path in names.items()},
    }
    write_atomic(folder / MANIFEST, json.dumps(manifest, indent=1).encode())
    return manifest


def _identity(path: Path) -> tuple[int, int, int, int]:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _as_built(path: Path, built: object) -> bool:
    """Say whether a file was built since this process began, and has not been touched since."""
    identity = _identity(path)
    return list(identity[1:]) == built and identity[3] > _STARTED_NS


def _sha256(path: Path, *, full: bool = False) -> str:
    """Return a file's SHA-256, from memory if this very file was hashed before."""
    identity = _identity(path)
    if full or identity not in _known:
        if len(_known) >= _MAX_KNOWN:
            _known.clear()
        _known[identity] = sha256_file(path)
    return _known[identity]
