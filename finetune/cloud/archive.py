"""A trained adapter as one ZIP file: written where it was trained, taken apart with suspicion where it is imported.

The manifest inside names the SHA-256 of every other file. Knows nothing of models.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, BinaryIO

from data.errors import InvalidModel
from data.state import map_os_error, sha256_file, write_atomic

MANIFEST = "manifest.json"
NEEDED = ("adapter_model.safetensors", "adapter_config.json", MANIFEST)
ALLOWED = (*NEEDED, "recipe.toml", "train_log.jsonl")
"""No other file is taken out of an archive; none of them is a pickle or code."""
LARGEST_BYTES = 1 << 30
"""Unpacked, all files together: an adapter over one gibibyte is no LoRA of a model this server would serve."""
_BLOCK = 1 << 20


def pack(folder: Path, archive: Path, manifest: Mapping[str, Any]) -> Path:
    """Write the adapter in ``folder`` with its manifest as ``archive``, complete or not at all; return it.

    Raises:
        InsufficientStorage: the disk is full.
    """
    files = [name for name in ALLOWED if name != MANIFEST and (folder / name).is_file()]
    whole = {**manifest, "sha256": {name: sha256_file(folder / name) for name in files}}
    write_atomic(folder / MANIFEST, json.dumps(whole, ensure_ascii=False, indent=2).encode() + b"\n")
    part = archive.with_name(f".{archive.name}.part")
    try:
        with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as out:
            for name in (*files, MANIFEST):
                out.write(folder / name, name)
        part.replace(archive)
    except OSError as error:
        raise map_os_error(error, archive) from error
    return archive


def unpack(archive: Path | BinaryIO, folder: Path) -> Path:
    """Take an adapter out of ``archive`` (a file, or one that is open) into ``folder``, which is made; return it.

    Raises:
        InvalidModel: it is no ZIP file, or holds anything but one adapter: another file, a path, a link, more than
            ``LARGEST_BYTES``, a file that is not the one its manifest names.
        InsufficientStorage: the disk is full.
    """
    try:
        with zipfile.ZipFile(archive) as opened:
            _check_entries(opened.infolist())
            folder.mkdir(parents=True)
            left = LARGEST_BYTES
            for entry in opened.infolist():
                with opened.open(entry) as read, (folder / entry.filename).open("xb") as written:
                    left -= _copy(read, written, left)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise InvalidModel(
            f"The archive cannot be read: {error}",
            wanted="the ZIP file that the training wrote",
            hint="Download it again: it may have been cut short.",
        ) from error
    except OSError as error:
        raise map_os_error(error, folder) from error
    check_hashes(folder)
    return folder


def check_hashes(folder: Path) -> None:
    """Compare the adapter's files with the hashes in its manifest; files that are not here pass.

    Raises:
        InvalidModel: one is another file, or the weights or their configuration are not named at all.
    """
    try:
        hashes = json.loads((folder / MANIFEST).read_bytes())["sha256"]
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise InvalidModel("The adapter's manifest names no hashes", wanted="sha256 of every file") from error
    if not isinstance(hashes, dict) or not set(NEEDED) - {MANIFEST} <= hashes.keys():
        raise InvalidModel("The manifest does not name the adapter's files", got=hashes, wanted=", ".join(NEEDED[:2]))
    for name in ALLOWED:
        path = folder / name
        if name != MANIFEST and path.is_file() and sha256_file(path) != hashes.get(name):
            raise InvalidModel(
                f"{name} is not the file that the adapter's manifest names: it was changed or cut short",
                got=f"SHA-256 {sha256_file(path)[:16]}…",
                wanted=f"{str(hashes.get(name))[:16]}…",
                hint="Download it again from where it was trained, and do not edit it.",
            )


def _check_entries(entries: Sequence[zipfile.ZipInfo]) -> None:
    names = [entry.filename for entry in entries]
    if wrong := [name for name in names if name not in ALLOWED]:
        raise InvalidModel(
            "The archive holds what is no part of an adapter",
            got=", ".join(map(repr, wrong[:5])),
            wanted=f"only {', '.join(ALLOWED)}, in no folder",
            hint="Import the ZIP file as the training wrote it. Pickles and code are never taken.",
        )
    if missing := [name for name in ALLOWED if names.count(name) > 1 or (name in NEEDED and name not in names)]:
        raise InvalidModel(
            "The archive is not one adapter", got=", ".join(names) or "no files", wanted=f"{', '.join(missing)}, once"
        )
    if any(entry.external_attr >> 28 == 0xA or entry.flag_bits & 1 for entry in entries):
        raise InvalidModel("The archive holds a link or an encrypted file", wanted="plain files")
    if (size := sum(entry.file_size for entry in entries)) > LARGEST_BYTES:
        raise _too_large(size)


def _copy(read: IO[bytes], written: IO[bytes], left: int) -> int:
    """Copy at most ``left`` bytes: what an archive says about its sizes need not be true."""
    size = 0
    while block := read.read(_BLOCK):
        size += len(block)
        if size > left:
            raise _too_large(LARGEST_BYTES + 1)
        written.write(block)
    return size


def _too_large(size: int) -> InvalidModel:
    return InvalidModel(
        "The archive unpacks into more than an adapter has", got=f"{size} bytes", wanted=f"at most {LARGEST_BYTES}"
    )


def import_command(name: str, base_model: str, *, is_served: bool) -> str:
    """Return what to type at home, where the archive is; a base model that is not served there is fetched first."""
    command = f"ragtune adapters import {name}.zip"
    return command if is_served else f"ragtune models pull {base_model} --default\n{command}"
