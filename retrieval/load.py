"""Load one file into text: its type is told by content, and all but plain kinds of text parse in a child.

The child (``retrieval.child``) has limits on time, memory and output, because parsers meet hostile
bytes; one that hangs or crashes costs one file. Knows nothing of chunks, indexes or the store.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from data import errors
from data.errors import DocumentTooLarge, EmptyDocument, UnreadableDocument, UnsupportedMedia
from data.numbers import whole_number
from retrieval.child import SHARED, Limits, Parsers
from retrieval.heading import heading_name
from retrieval.reading import Content, find_files, read
from retrieval.sniff import HTML, MARKDOWN, PDF, PLAIN, ZIP, Kind, sniff
from retrieval.text import decode_as, normalize

__all__ = ["Content", "Limits", "LoadedDocument", "expand", "find_files", "is_archive", "load", "parse", "read"]

_HEADING = re.compile(r"^#[ \t]+\S[^\n]*$", re.MULTILINE)
_FRONT_LETTERS = 4000
_TITLE_LETTERS = 200


@dataclass(frozen=True, slots=True)
class LoadedDocument:
    """A file as text. ``page_starts`` are the offsets at which pages begin, empty without pages.

    ``meta`` may hold ``markup`` ("markdown": the text's headings, tables and fences are Markdown's),
    ``language`` (of source code), ``headings`` and ``page_starts`` (offsets), ``scanned_pages``,
    ``ocr_pages``, ``encoding`` (where it is not Unicode), ``mismatch`` (a suffix that names another
    type), ``date`` and ``attachments`` (of a message). ``sha256`` and ``size`` are of the very bytes
    that were parsed, ``modified_at`` is the file's time.
    """

    title: str
    text: str
    media_type: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    page_starts: tuple[int, ...] = ()
    sha256: str = ""
    size: int = 0
    modified_at: float = 0.0


def load(
    path: Path | str, *, limits: Limits | None = None, source: str | None = None, parsers: Parsers | None = None
) -> LoadedDocument:
    """Load one file; ``source`` is the name to show in errors (the path if not given).

    Raises:
        EmptyDocument: no bytes, or no text in it.
        EncryptedDocument: it needs a password.
        DamagedDocument: its format is broken.
        ScannedDocument: its pages are images, and no OCR read them.
        DocumentTooLarge: more bytes than ``limits.max_bytes``, or more text than ``limits.max_text``.
        DecompressionBomb: it unpacks into too much.
        UnsupportedMedia: no loader reads this type, or it is an archive: see ``expand``.
        ParseTimeout: parsing ran out of time or memory.
        FileChanged: it was written while it was read.
        UnreadableDocument: the file cannot be opened.
    """
    limits = limits or Limits()
    return parse(read(path, max_bytes=limits.max_bytes, source=source), limits=limits, parsers=parsers)


def parse(content: Content, *, limits: Limits | None = None, parsers: Parsers | None = None) -> LoadedDocument:
    """Turn bytes that were read already into a document; raises what ``load`` does."""
    limits, name = limits or Limits(), content.source
    kind = sniff(content.data, name)
    if kind.media_type == ZIP:
        hint = "Ingest the archive: each file in it becomes a document."
        raise UnsupportedMedia("An archive is no single document.", got=name, hint=hint)
    if kind.media_type in {PLAIN, MARKDOWN} or kind.language:
        text, title, meta = _plain(content, kind, limits)
    else:
        request = {"op": "parse", "media_type": kind.media_type}
        header, payload = (parsers or SHARED).ask(request, content.data, name, limits)
        text, title, meta = payload.decode(), str(header["title"]), dict(header["meta"])
        if header["markdown"]:
            meta["markup"] = "markdown"
    if kind.mismatch:
        meta["mismatch"] = kind.mismatch
    if not text.strip():
        hint = "If it is a scan, run OCR on it first." if kind.media_type == PDF else "Leave it out."
        raise EmptyDocument("There is no text in the file.", got=name, hint=hint)
    return _document(content, kind, text, title, {key: value for key, value in meta.items() if value})


def _plain(content: Content, kind: Kind, limits: Limits) -> tuple[str, str, dict[str, Any]]:
    decoded, encoding = decode_as(content.data)
    text = normalize(decoded)
    if len(text) > limits.max_text:
        wanted = f"at most {limits.max_text} characters"
        raise DocumentTooLarge("The file holds too much text.", got=content.source, wanted=wanted, hint="Split it.")
    meta = {
        "language": kind.language,
        "encoding": "" if encoding.startswith("utf") and "+" not in encoding else encoding,
    }
    if kind.media_type == MARKDOWN:
        meta["markup"] = "markdown"
    return text, "", meta


def _document(content: Content, kind: Kind, text: str, named: str, meta: dict[str, Any]) -> LoadedDocument:
    first = _markdown_title(text) if meta.get("markup") else ""
    # A page's title often adds its site to its first heading ("Duck - Wikipedia"): the heading says it shorter.
    title = first if not named or (first and first in named and kind.media_type == HTML) else named
    title = " ".join((title or PurePath(content.source).stem).split())[:_TITLE_LETTERS]
    return LoadedDocument(
        title=title,
        text=text,
        media_type=kind.media_type,
        meta=_clean(meta),
        page_starts=tuple(meta.get("page_starts", ())),
        sha256=content.sha256,
        size=len(content.data),
        modified_at=content.modified_at,
    )


def _clean(value: Any) -> Any:
    """Return what a parser told about a file with its texts normalized: a hostile file may hold half characters."""
    if isinstance(value, str):
        return normalize(value)
    if isinstance(value, dict):
        return {_clean(key): _clean(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_clean(each) for each in value]
    return value


def _markdown_title(text: str) -> str:
    return _front_title(text[:_FRONT_LETTERS]) or next(
        filter(None, (heading_name(found[0]) for found in _HEADING.finditer(text))), ""
    )


def _front_title(text: str) -> str:
    """Return the title that YAML between two lines of three dashes gives, at the head of a text."""
    first, *lines = text.split("\n")
    if first != "---" or "---" not in lines[:-1]:
        return ""
    given = (line.partition(":")[2] for line in lines[: lines.index("---")] if line.startswith("title:"))
    return next((words.strip().strip("\"'") for words in given), "")


def is_archive(content: Content) -> bool:
    """Say whether a file is a ZIP of documents (an Office or EPUB file, a ZIP inside, is not)."""
    try:
        return content.data.startswith(b"PK") and sniff(content.data, content.source).media_type == ZIP
    except UnreadableDocument:
        return False


def _unpacked(folder: Path, name: str) -> Path:
    """Return the path of an unpacked member; a child that a file took over could name any file, or link to it.

    Raises:
        DamagedDocument: it is none that was unpacked.
    """
    path = folder / name
    if whole_number(name) is None or path.is_symlink():
        raise errors.DamagedDocument("The archive's parser named a file that it did not unpack.", got=name)
    return path


def expand(
    content: Content, *, limits: Limits | None = None, parsers: Parsers | None = None
) -> Iterator[Content | UnreadableDocument]:
    """Yield the files in an archive, archives in it opened too; a file that is no archive yields itself.

    Sources are ``archive.zip/inner/name.md``. A member that cannot be unpacked yields its error, whose
    ``got`` is that source. Nothing is unpacked outside a temporary folder, which goes afterwards.

    Raises:
        DamagedDocument: the archive cannot be opened.
        DecompressionBomb: it unpacks into too much.
    """
    if not is_archive(content):
        yield content
        return
    limits = limits or Limits()
    parsers = parsers or SHARED
    with tempfile.TemporaryDirectory(prefix="unpacked-", dir=parsers.folder) as folder:
        request = {"op": "unpack", "folder": folder}
        header, _ = parsers.ask(request, content.data, content.source, limits)
        for member in header["members"]:
            source = f"{content.source}/{member['name']}"
            if "error" in member:
                yield getattr(errors, member["error"])(member["detail"], got=source, hint=member["hint"])
                continue
            path = _unpacked(Path(folder), str(member["file"]))
            try:
                inner = read(path, max_bytes=limits.max_bytes, source=source)
            except UnreadableDocument as error:
                yield error
            else:
                yield Content(source, inner.data, content.modified_at)
            path.unlink(missing_ok=True)
