"""Load one file into text: Markdown, plain text, HTML and PDF, told apart by content.

HTML and PDF are parsed in a child process with a time and a memory limit, because their parsers meet
hostile bytes; a child that hangs or crashes costs one file. Knows nothing of chunks, indexes or the
store.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from data.errors import (
    DamagedDocument,
    DocumentTooLarge,
    EmptyDocument,
    EncryptedDocument,
    InvalidRequest,
    ParseTimeout,
    UnreadableDocument,
    UnsupportedMedia,
)

_READABLE = "Markdown, plain text (UTF-8, UTF-16, GB18030, Latin-1), HTML or PDF"
_CONVERT = "Convert it to one of these and ingest that."
_MARKDOWN = {".md", ".markdown", ".mdown"}
_TEXT = {".txt", ".text"}
_HTML = {".html", ".htm", ".xhtml"}
_HTML_START = re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html)\b", re.IGNORECASE | re.DOTALL)
_CHARSET = re.compile(rb"charset\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.IGNORECASE)
_GB_PAIR = re.compile(rb"[\x81-\xfe][\xa1-\xfe]")
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")
_FIRST_HEADING = re.compile(r"^#[ \t]+(.+?)[ \t]*#*$", re.MULTILINE)
_FRONT_TITLE = re.compile(r"\A---\n(?:.*\n)*?title:[ \t]*[\"']?(.+?)[\"']?[ \t]*\n(?:.*\n)*?---\n")
_ROOT = Path(__file__).resolve().parents[1]
_ERRORS: dict[str, type[UnreadableDocument]] = {
    "EncryptedDocument": EncryptedDocument,
    "DamagedDocument": DamagedDocument,
    "ParseTimeout": ParseTimeout,
}


@dataclass(frozen=True, slots=True)
class Limits:
    """What one file may cost: bytes on disk, seconds and bytes of memory in its parser."""

    max_bytes: int = 100 * 2**20
    timeout_s: float = 120.0
    memory_bytes: int = 2 * 2**30


@dataclass(frozen=True, slots=True)
class LoadedDocument:
    """A file as text. ``page_starts`` are the offsets at which pages begin, empty without pages."""

    title: str
    text: str
    media_type: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    page_starts: tuple[int, ...] = ()


def find_files(paths: Iterable[Path | str]) -> list[tuple[Path, str]]:
    """Return (file, source) of every visible file under ``paths``, in order of source.

    The source is the path relative to the folder given, or the name of a file given by itself; where
    two files of one call would share a source, their paths as given tell them apart. A folder inside
    that cannot be listed stands for what is in it: loading it tells why.

    Raises:
        InvalidRequest: a path does not exist, or there is no file at all.
        UnreadableDocument: a path cannot be reached or listed.
    """
    found: dict[Path, tuple[Path, str]] = {}
    for path in map(Path, paths):
        for file in _files_under(path) if _is_folder(path) else [path]:
            inside = file.relative_to(path) if file != path else Path(file.name)
            if file == path or not any(part.startswith(".") for part in inside.parts):
                found.setdefault(file.resolve(), (file, inside.as_posix()))
    if not found:
        raise InvalidRequest("There is no file to ingest.", wanted=_READABLE, hint="Put documents into the folder.")
    times: dict[str, int] = {}
    for _, source in found.values():
        times[source] = times.get(source, 0) + 1
    named = [(file, source if times[source] == 1 else file.as_posix()) for file, source in found.values()]
    return sorted(named, key=lambda item: item[1])


def _is_folder(path: Path) -> bool:
    try:
        if not path.exists():
            raise InvalidRequest("There is no such file or folder.", got=str(path), hint="Check the path.")
        return path.is_dir()
    except PermissionError as error:
        raise _unreadable(str(path), error) from error


def _files_under(folder: Path) -> list[Path]:
    """Return the files under a folder, and the folders under it that cannot be listed."""
    found: list[Path] = []

    def closed(error: OSError) -> None:
        if Path(error.filename) == folder:
            raise _unreadable(str(folder), error) from error
        found.append(Path(error.filename))

    for base, folders, names in os.walk(folder, onerror=closed):
        folders.sort()
        found += [path for path in (Path(base, name) for name in sorted(names)) if _may_be_file(path)]
    return found


def _may_be_file(path: Path) -> bool:
    try:
        return path.is_file()
    except PermissionError:
        return True  # in a folder whose names alone can be read: loading it tells why


def load(path: Path | str, *, limits: Limits | None = None, source: str | None = None) -> LoadedDocument:
    """Load one file; ``source`` is the name to show in errors (the path if not given).

    Raises:
        EmptyDocument: no bytes, or no text in it.
        EncryptedDocument: it needs a password.
        DamagedDocument: its format is broken.
        DocumentTooLarge: more bytes than ``limits.max_bytes``.
        UnsupportedMedia: no loader reads this type.
        ParseTimeout: parsing ran out of time or memory.
        UnreadableDocument: the file cannot be opened.
    """
    path, limits = Path(path), limits or Limits()
    name = source or str(path)
    raw = _read(path, name, limits)
    media_type = sniff(raw, path.suffix, name)
    if media_type == "application/pdf":
        parsed = _parse(media_type, path, name, limits)
    elif media_type == "text/html":
        with tempfile.TemporaryDirectory(prefix="ragtune-") as folder:
            copy = Path(folder) / "page.html"
            copy.write_text(_decode_html(raw), encoding="utf-8")
            parsed = _parse(media_type, copy, name, limits)
    else:
        parsed = {"text": decode(raw)}
    return _document(parsed, media_type, path if source is None else Path(source), name)


def _document(parsed: Mapping[str, Any], media_type: str, path: Path, name: str) -> LoadedDocument:
    text = str(parsed["text"] or "").replace("\x00", "")
    if not text.strip():
        hint = "If it is a scan, run OCR on it first." if media_type == "application/pdf" else "Leave it out."
        raise EmptyDocument("There is no text in the file.", got=name, hint=hint)
    meta: dict[str, Any] = {}
    if parsed.get("page_starts"):
        meta["page_starts"] = list(parsed["page_starts"])
    if parsed.get("headings"):
        meta["headings"] = parsed["headings"]
    named, first = str(parsed.get("title") or ""), _markdown_title(text, media_type)
    # A page's title often adds its site to its first heading ("Duck - Wikipedia"): the heading says it shorter.
    title = first if not named or (first and first in named) else named
    title = " ".join((title or path.stem).split())[:200]
    return LoadedDocument(title, text, media_type, meta, tuple(meta.get("page_starts", ())))


def _markdown_title(text: str, media_type: str) -> str:
    if media_type not in {"text/markdown", "text/html"}:
        return ""
    found = _FRONT_TITLE.match(text[:4000]) or _FIRST_HEADING.search(text)
    return found[1] if found else ""


def _unreadable(name: str, error: OSError) -> UnreadableDocument:
    return UnreadableDocument(f"It cannot be read: {error.strerror}.", got=name, hint="Check its permissions.")


def _read(path: Path, name: str, limits: Limits) -> bytes:
    try:
        size = path.stat().st_size
        if size > limits.max_bytes:
            raise DocumentTooLarge(
                f"{name} is too large.",
                got=f"{size} bytes",
                wanted=f"at most {limits.max_bytes} bytes",
                hint="Split the file.",
            )
        raw = path.read_bytes()
    except OSError as error:
        raise _unreadable(name, error) from error
    if not raw.strip():
        raise EmptyDocument("The file is empty.", got=name, hint="Leave it out, or fill it.")
    return raw


def sniff(raw: bytes, suffix: str, name: str) -> str:
    """Return the media type of ``raw``: content decides, the suffix only tells kinds of text apart.

    Raises:
        UnsupportedMedia: neither text nor PDF.
        DamagedDocument: it is called .pdf but is none.
    """
    suffix = suffix.lower()
    if b"%PDF-" in raw[:1024]:
        return "application/pdf"
    if suffix == ".pdf":
        raise DamagedDocument("The file is called .pdf but holds no PDF.", got=name, hint="Save it again as PDF.")
    if not _is_text(raw, legacy=suffix in _MARKDOWN | _TEXT | _HTML):
        raise UnsupportedMedia("No loader reads this type of file.", got=name, wanted=_READABLE, hint=_CONVERT)
    if suffix in _MARKDOWN:
        return "text/markdown"
    if suffix in _HTML or _HTML_START.match(raw[:4096]):
        return "text/html"
    return "text/plain"


def _is_text(raw: bytes, *, legacy: bool) -> bool:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    if b"\x00" in raw:
        return False
    try:
        sample = raw.decode("utf-8")
    except UnicodeDecodeError:
        if not legacy:
            return False
        sample = decode(raw)
    return len(_CONTROL.findall(sample)) <= 0.01 * len(sample)


def decode(raw: bytes) -> str:
    r"""Decode text: UTF-8 (BOM or none), UTF-16 with a BOM, GB18030, else Latin-1; newlines become \n.

    GB18030 accepts most Latin-1 bytes too, so it is taken only where non-ASCII bytes come in pairs.
    """
    text = _decode(raw)
    return text.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "")


def _decode(raw: bytes) -> str:
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return raw.decode("utf-16", errors="replace")
    encodings = ["utf-8-sig", "cp1252"]
    high = sum(byte >= 0x80 for byte in raw)
    if sum(map(len, _GB_PAIR.findall(raw))) >= 0.9 * high:
        encodings.insert(1, "gb18030")
    for encoding in encodings:
        try:
            return raw.decode(encoding)
        except UnicodeDecodeError:
            continue
    return raw.decode("latin-1")


def _decode_html(raw: bytes) -> str:
    declared = _CHARSET.search(raw[:2048])
    if declared and not raw.startswith((b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")):
        try:
            return raw.decode(declared[1].decode("ascii"))
        except (LookupError, UnicodeDecodeError):
            return decode(raw)
    return decode(raw)


def _parse(media_type: str, path: Path, name: str, limits: Limits) -> dict[str, Any]:
    command = [sys.executable, "-m", "retrieval.parse", media_type, str(path.resolve()), str(limits.memory_bytes)]
    try:
        child = subprocess.run(command, capture_output=True, cwd=_ROOT, timeout=limits.timeout_s, check=False)
    except subprocess.TimeoutExpired as error:
        raise ParseTimeout(
            f"Parsing took longer than {limits.timeout_s:g} s and was stopped.", got=name, hint="Simplify or split it."
        ) from error
    if child.returncode != 0:
        told = child.stderr.decode(errors="replace").strip().splitlines()
        raise DamagedDocument(
            f"The parser crashed on the file (exit {child.returncode}: {told[-1] if told else 'no message'}).",
            got=name,
            hint="Open it in its own program and save it again.",
        )
    parsed: dict[str, Any] = json.loads(child.stdout)
    if "error" in parsed:
        error_type = _ERRORS[parsed["error"]]
        hint = "Remove the password first." if error_type is EncryptedDocument else "Save it again, or split it."
        raise error_type(f"The file cannot be parsed: {str(parsed['detail']).rstrip('.')}.", got=name, hint=hint)
    return parsed
