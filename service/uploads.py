"""Keeps uploaded bytes durably under ``blobs/<sha256>/<file name>`` before an upload is acknowledged.

Knows nothing of HTTP and of what the files are.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from data.errors import DocumentTooLarge, InvalidRequest
from data.state import StateDirectory, map_os_error, sync_folder

_BLOCK = 1 << 20
_LONGEST_NAME = 255


def file_name(raw: str | None) -> str:
    """Return the last part of a client's file name, which becomes the document's source.

    Raises:
        InvalidRequest: it has no name that a file can have.
    """
    name = PurePosixPath((raw or "").replace("\\", "/")).name
    if not name or name.startswith(".") or "\0" in name or len(name.encode()) > _LONGEST_NAME:
        raise InvalidRequest("An uploaded file has no usable name", got=raw, wanted="a file name such as report.pdf")
    return name


def keep_upload(state: StateDirectory, name: str, file: BinaryIO, max_bytes: int) -> Path:
    """Write ``file`` to the blobs folder and return its path; it is on the disk when this returns.

    Raises:
        DocumentTooLarge: more than ``max_bytes``.
        InsufficientStorage: the disk is full.
        StateNotWritable: the folder cannot be written.
    """
    try:
        handle, temporary = tempfile.mkstemp(prefix="upload-", dir=state.tmp)
        try:
            with os.fdopen(handle, "wb") as target:
                digest = _copy(name, file, target, max_bytes)
                target.flush()
                os.fsync(target.fileno())
            path = state.blobs / digest / name
            path.parent.mkdir(exist_ok=True)
            Path(temporary).replace(path)
        finally:
            Path(temporary).unlink(missing_ok=True)
        sync_folder(path.parent)
        sync_folder(state.blobs)
    except OSError as error:
        raise map_os_error(error, state.blobs) from error
    return path


def forget_upload(state: StateDirectory, sha256: str, name: str) -> None:
    """Remove the bytes that were uploaded as ``name``, if they were; the same bytes under another name stay."""
    folder = state.blobs / sha256
    (folder / PurePosixPath(name).name).unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _copy(name: str, source: BinaryIO, target: BinaryIO, max_bytes: int) -> str:
    digest = hashlib.sha256()
    size = 0
    while block := source.read(_BLOCK):
        size += len(block)
        if size > max_bytes:
            raise DocumentTooLarge(
                "The file is too large",
                got=name,
                wanted=f"at most {max_bytes} bytes",
                hint="Split it, or raise RAGTUNE_MAX_DOCUMENT_BYTES.",
            )
        digest.update(block)
        target.write(block)
    return digest.hexdigest()
