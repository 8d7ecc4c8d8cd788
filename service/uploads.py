"""Keeps uploaded bytes durably before an upload is acknowledged.

Documents are kept under ``blobs/<sha256>/<file name>``; files that one job is about to read lie under
``uploads/<folder>/`` until that job has ended. Knows nothing of HTTP and of what the files are.
"""

from __future__ import annotations

import glob
import hashlib
import os
import secrets
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, BinaryIO

from data.access import MACHINE, acting, current
from data.errors import DocumentTooLarge, InvalidRequest
from data.records import Job, JobStatus, content_id
from data.state import StateDirectory, map_os_error, sync_folder

if TYPE_CHECKING:
    from data.store import Store

UPLOAD = "upload"
"""The input of a job that names its folder under ``uploads/``."""
ENDED = frozenset(("succeeded", "failed", "cancelled"))
_UNFINISHED: tuple[JobStatus, ...] = ("queued", "running", "interrupted")
_LISTED = 500

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
                digest = _copy(name, file, target, max_bytes, "Split it, or raise RAGTUNE_MAX_DOCUMENT_BYTES.")
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


def forget_upload(state: StateDirectory, store: Store, sha256: str, source: str, *, before: float) -> None:
    """Remove the bytes that a document was made of, if they were uploaded; an archive goes with its last document.

    Kept is what a document of any collection is still made of, what an unfinished job is about to read, and what came
    again after ``before`` (Unix seconds).
    """
    first, *inside = PurePosixPath(source).parts
    own = state.blobs / sha256 / PurePosixPath(source).name
    paths = [own, *(state.blobs.glob(f"*/{glob.escape(first)}") if inside else ())]
    paths = [path for path in paths if path.exists()]
    jobs = _unfinished(store) if paths else None
    if jobs is None:
        return
    awaited = {path for job in jobs for path in job.inputs.get("paths", ())}
    for path in paths:
        if str(path) not in awaited and not store.documents.any_of(path.parent.name, path.name):
            _remove(path, before)


def _remove(path: Path, before: float) -> None:
    with suppress(FileNotFoundError):
        if path.stat().st_mtime <= before:
            path.unlink()
            if not any(path.parent.iterdir()):
                path.parent.rmdir()


def _unfinished(store: Store) -> list[Job] | None:
    """Return the jobs that have not ended, whoever submitted them; None where there are too many to list."""
    with acting(MACHINE):
        listed = [store.jobs.list(status, _LISTED) for status in _UNFINISHED]
    return None if any(len(jobs) == _LISTED for jobs in listed) else [job for jobs in listed for job in jobs]


def keep_for_job(
    state: StateDirectory, files: Mapping[str, BinaryIO], max_bytes: int, *, about: str, key: str | None
) -> Path:
    """Write ``files`` into a folder of their own for one job and return it; they are on the disk then.

    Args:
        state: where the folder is made.
        files: what to read, by the name each file gets.
        max_bytes: size of one file, at most.
        about: the job's other inputs, in words.
        key: the request's idempotency key: the same sender, key, files and ``about`` give the same folder,
            and so the same inputs. Without one, every call has a folder of its own.

    Raises:
        DocumentTooLarge: a file has more than ``max_bytes``.
        InsufficientStorage: the disk is full.
        StateNotWritable: the folder cannot be written.
    """
    try:
        made = Path(tempfile.mkdtemp(prefix="upload-", dir=state.tmp))
        try:
            described = []
            for name, file in files.items():
                with (made / name).open("xb") as target:
                    described.append(f"{name} {_copy(name, file, target, max_bytes)}")
            sync_folder(made)
            folder = state.uploads / content_id(about, *current().identity, key or secrets.token_hex(16), *described)
            if not folder.exists():
                made.rename(folder)
        finally:
            shutil.rmtree(made, ignore_errors=True)
        sync_folder(state.uploads)
    except OSError as error:
        raise map_os_error(error, state.uploads) from error
    return folder


def discard_upload(state: StateDirectory, inputs: Mapping[str, Any]) -> None:
    """Remove the files that were kept for a job with these ``inputs``, if any were."""
    if UPLOAD in inputs:
        shutil.rmtree(state.uploads / PurePosixPath(str(inputs[UPLOAD])).name, ignore_errors=True)


def release_upload(state: StateDirectory, job: Job) -> None:
    """Remove a job's files once it has ended; one that was interrupted goes on with them."""
    if job.status in ENDED:
        discard_upload(state, job.inputs)


def sweep_uploads(state: StateDirectory, store: Store, older_than_s: float = 0.0) -> None:
    """Remove the files of jobs that are no more, left behind by a crash.

    Files younger than ``older_than_s`` stay: while requests are served their job may not have been made yet.
    """
    jobs = _unfinished(store)
    if jobs is None:
        return  # rather keep a file too many
    kept = {job.inputs.get(UPLOAD) for job in jobs}
    for folder in state.uploads.iterdir():
        if folder.name not in kept and time.time() - folder.stat().st_mtime >= older_than_s:
            shutil.rmtree(folder, ignore_errors=True)


def _copy(name: str, source: BinaryIO, target: BinaryIO, max_bytes: int, hint: str = "") -> str:
    """Copy ``source`` to ``target``, onto the disk; return the SHA-256 of its bytes."""
    digest = hashlib.sha256()
    size = 0
    while block := source.read(_BLOCK):
        size += len(block)
        if size > max_bytes:
            raise DocumentTooLarge(
                "The file is too large",
                got=name,
                wanted=f"at most {max_bytes} bytes",
                hint=hint,
            )
        digest.update(block)
        target.write(block)
    target.flush()
    os.fsync(target.fileno())
    return digest.hexdigest()
