"""ZIP containers: refuse those that unpack into too much, and unpack the others' members into a folder."""

from __future__ import annotations

import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from data.errors import DamagedDocument, DecompressionBomb, EncryptedDocument, UnreadableDocument
from data.state import map_os_error
from retrieval.parsers.parsed import Budget
from retrieval.text import guess_legacy

_RATIO_MATTERS = 16 * 2**20  # under so many bytes unpacked, no ratio hurts
_PROLOG_BYTES = 64 * 1024
_ENTITY = re.compile(rb"<\x00?!\x00?E\x00?N\x00?T\x00?I\x00?T\x00?Y", re.IGNORECASE)
_MARKUP = (".xml", ".rels", ".xhtml", ".html", ".htm", ".opf", ".ncx", ".vml")
_BLOCK = 2**20
_ENCRYPTED_BIT = 0x1
_UTF_8_BIT = 0x800
_BROKEN = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, OSError, ValueError, RuntimeError)


def open_zip(raw: bytes | Path, budget: Budget) -> zipfile.ZipFile:
    """Open a ZIP whose directory keeps within the limits.

    Raises:
        DamagedDocument: its directory cannot be read.
        DecompressionBomb: it declares too many members, or too many bytes.
    """
    try:
        packed = zipfile.ZipFile(io.BytesIO(raw) if isinstance(raw, bytes) else raw)
    except _BROKEN as error:
        hint = "Save or pack it again; it may be cut off."
        raise DamagedDocument(f"The ZIP container cannot be opened: {error}.", hint=hint) from error
    members = packed.infolist()
    total = sum(member.file_size for member in members)
    stored = sum(member.compress_size for member in members)
    if len(members) > budget.max_members:
        raise _bomb(f"{len(members)} members", f"at most {budget.max_members}")
    if total > budget.max_unpacked:
        raise _bomb(f"{total} bytes unpacked", f"at most {budget.max_unpacked}")
    if total > _RATIO_MATTERS and total > budget.max_ratio * max(stored, 1):
        raise _bomb(f"{total} bytes from {stored}", f"at most {budget.max_ratio:g} times as many")
    return packed


def _bomb(got: str, wanted: str) -> DecompressionBomb:
    return DecompressionBomb(
        f"The file unpacks into too much ({got}).", wanted=wanted, hint="Unpack it yourself and ingest what you trust."
    )


def check_container(raw: bytes, budget: Budget) -> None:
    """Refuse an Office or EPUB file that unpacks into too much, or whose XML declares entities.

    Raises:
        DamagedDocument: it cannot be opened, or a member is broken.
        DecompressionBomb: either of the two.
    """
    with open_zip(raw, budget) as packed:
        for member in packed.infolist():
            if not member.filename.lower().endswith(_MARKUP):
                continue
            try:
                with packed.open(member) as file:
                    prolog = file.read(_PROLOG_BYTES)
            except _BROKEN as error:
                detail = f"A part of the file is broken ({member.filename}): {error}."
                raise DamagedDocument(detail, hint="Open it in its own program and save it again.") from error
            if _ENTITY.search(prolog):
                hint = "Save it again with the program that made it."
                raise DecompressionBomb("Its XML declares entities, which can expand without end.", hint=hint)


def unpack(raw: bytes, folder: Path, budget: Budget) -> list[dict[str, Any]]:
    """Write every member into ``folder`` under a number; ZIP files among them are unpacked too.

    Each result is ``{"name", "file"}`` or ``{"name", "error", "detail", "hint"}``; names of inner
    archives' members are ``inner.zip/name``. Folders, hidden files and empty names are left out.

    Raises:
        DamagedDocument: the outer container cannot be opened.
        DecompressionBomb: it declares too much, or all levels together hold too much.
    """
    return _Unpacker(folder, budget).run(raw)


class _Unpacker:
    """Counts bytes and members over all levels of nesting."""

    def __init__(self, folder: Path, budget: Budget) -> None:
        self._folder, self._budget = folder, budget
        self._bytes = self._files = 0
        self._names: set[str] = set()

    def run(self, raw: bytes) -> list[dict[str, Any]]:
        with open_zip(raw, self._budget) as packed:
            return list(self._members(packed, "", 1))

    def _members(self, packed: zipfile.ZipFile, prefix: str, depth: int) -> Iterator[dict[str, Any]]:
        for member in packed.infolist():
            name = _member_name(member)
            if member.is_dir() or not name or any(part.startswith((".", "__MACOSX")) for part in name.split("/")):
                continue
            name = prefix + name
            if name in self._names:
                detail = "The archive has two members of this name."
                yield {"name": name, "error": DamagedDocument.__name__, "detail": detail, "hint": "Rename one."}
                continue
            self._names.add(name)
            try:
                file = self._write(packed, member)
                yield from self._nested(file, name, depth) if _is_zip(file) else [{"name": name, "file": file.name}]
            except UnreadableDocument as error:
                if isinstance(error, DecompressionBomb) and not prefix and self._bytes > self._budget.max_unpacked:
                    raise
                yield {"name": name, "error": type(error).__name__, "detail": error.detail, "hint": error.hint}

    def _nested(self, file: Path, name: str, depth: int) -> Iterator[dict[str, Any]]:
        from retrieval.sniff import ZIP, sniff

        if sniff(file.read_bytes(), name).media_type != ZIP:
            yield {"name": name, "file": file.name}
            return
        if depth >= self._budget.max_depth:
            raise _bomb(f"{depth} archives inside each other", f"at most {self._budget.max_depth}")
        with open_zip(file, self._budget) as packed:
            yield from self._members(packed, f"{name}/", depth + 1)
        file.unlink()

    def _write(self, packed: zipfile.ZipFile, member: zipfile.ZipInfo) -> Path:
        if member.flag_bits & _ENCRYPTED_BIT:
            raise EncryptedDocument("The archive's member needs a password.", hint="Unpack it and ingest the files.")
        self._files += 1
        if self._files > self._budget.max_members:
            raise _bomb(f"over {self._budget.max_members} members", f"at most {self._budget.max_members}")
        path = self._folder / str(self._files)
        try:
            target = path.open("wb", buffering=0)
        except OSError as error:
            raise map_os_error(error, path) from error
        with target:
            for block in self._blocks(packed, member):
                rest = memoryview(block)
                try:
                    while rest:
                        rest = rest[target.write(rest) :]
                except OSError as error:
                    raise map_os_error(error, path) from error
        return path

    def _blocks(self, packed: zipfile.ZipFile, member: zipfile.ZipInfo) -> Iterator[bytes]:
        try:
            with packed.open(member) as source:
                while block := source.read(_BLOCK):
                    self._bytes += len(block)
                    if self._bytes > self._budget.max_unpacked:
                        raise _bomb(f"over {self._budget.max_unpacked} bytes", f"at most {self._budget.max_unpacked}")
                    yield block
        except _BROKEN as error:
            detail = f"The archive's member cannot be unpacked: {error}."
            raise DamagedDocument(detail, hint="Pack the archive again.") from error


def _is_zip(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(4) == b"PK\x03\x04"


def _member_name(member: zipfile.ZipInfo) -> str:
    """Return a member's name without ways out of the archive; old archives' Chinese and Japanese names are read."""
    name = member.filename
    if not member.flag_bits & _UTF_8_BIT and not name.isascii():
        raw = name.encode("cp437", errors="replace")
        try:
            name = raw.decode("utf-8")
        except UnicodeDecodeError:
            name = raw.decode(guess_legacy(raw), errors="replace")
    parts = PurePosixPath(name.replace("\\", "/")).parts
    return "/".join(part for part in parts if part not in {"/", "..", "."})
