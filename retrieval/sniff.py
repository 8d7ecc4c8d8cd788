"""Tell a file's media type from its bytes; the name only tells kinds of text apart.

Knows nothing of parsing: ``retrieval.parsers`` reads what is named here.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePath

from data.errors import DamagedDocument, EncryptedDocument, UnsupportedMedia
from retrieval.text import is_text

PDF, HTML, MARKDOWN, PLAIN = "application/pdf", "text/html", "text/markdown", "text/plain"
DOCX = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
PPTX = "application/vnd.openxmlformats-officedocument.presentationml.presentation"
XLSX = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
XLS, ODS = "application/vnd.ms-excel", "application/vnd.oasis.opendocument.spreadsheet"
CSV, TSV, RST, EPUB = "text/csv", "text/tab-separated-values", "text/x-rst", "application/epub+zip"
NOTEBOOK, EMAIL, ZIP = "application/x-ipynb+json", "message/rfc822", "application/zip"
JSON, JSONL = "application/json", "application/x-ndjson"

READABLE = (
    "PDF, DOCX, PPTX, XLSX, XLS, ODS, CSV, HTML, EPUB, Markdown, reStructuredText, plain text, source code, "
    "notebooks, e-mail (.eml), JSON, JSONL, or a ZIP of these"
)
_CONVERT = "Convert it to one of these and ingest that."

_SUFFIXES = {
    MARKDOWN: "md markdown mdown mkd mdx",
    PLAIN: "txt text log",
    HTML: "html htm xhtml",
    CSV: "csv",
    TSV: "tsv tab",
    RST: "rst rest",
    NOTEBOOK: "ipynb",
    EMAIL: "eml",
    JSON: "json",
    JSONL: "jsonl ndjson",
    PDF: "pdf",
    DOCX: "docx docm dotx",
    PPTX: "pptx pptm ppsx",
    XLSX: "xlsx xlsm xlsb",
    XLS: "xls",
    ODS: "ods",
    EPUB: "epub",
    ZIP: "zip",
}
# Languages are named as langchain-text-splitters names them, where it knows them.
_LANGUAGES = {
    "python": "py pyi pyw",
    "js": "js mjs cjs jsx",
    "ts": "ts tsx mts",
    "java": "java",
    "kotlin": "kt kts",
    "c": "c h",
    "cpp": "cc cpp cxx hpp hh",
    "csharp": "cs",
    "go": "go",
    "rust": "rs",
    "ruby": "rb",
    "php": "php",
    "swift": "swift",
    "scala": "scala",
    "perl": "pl pm",
    "lua": "lua",
    "haskell": "hs",
    "elixir": "ex exs",
    "powershell": "ps1",
    "proto": "proto",
    "sol": "sol",
    "latex": "tex",
    "r": "r",
    "shell": "sh bash zsh",
    "sql": "sql",
    "css": "css scss less",
    "yaml": "yaml yml",
    "toml": "toml",
    "ini": "ini cfg conf properties",
    "xml": "xml xsd xsl svg",
}
_MEDIA_BY_SUFFIX = {f".{end}": media for media, ends in _SUFFIXES.items() for end in ends.split()}
_LANGUAGE_BY_SUFFIX = {f".{end}": language for language, ends in _LANGUAGES.items() for end in ends.split()}
_BINARY = {PDF, DOCX, PPTX, XLSX, XLS, ODS, EPUB, ZIP}
_SPREADSHEETS = {XLSX, XLS, ODS}
_HTML_START = re.compile(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*<(!doctype\s+html|html)\b", re.IGNORECASE | re.DOTALL)
_MAIL_LINE = re.compile(
    rb"(From|To|Cc|Date|Subject|Received|Return-Path|Message-ID|MIME-Version|Delivered-To|Content-Type|Reply-To"
    rb"|X-[\w-]+|DKIM-Signature|Authentication-Results): ",
    re.IGNORECASE,
)
_MAIL_LINES = 3
_UNREADABLE: tuple[tuple[bytes, str, str], ...] = (
    (b"{\\rtf", "Rich Text (RTF)", "Save it as .docx."),
    (b"%!PS", "PostScript", "Convert it to PDF."),
    (b"\x89PNG", "an image", "Put it into a PDF: scanned pages are read where Tesseract is installed."),
    (b"\xff\xd8\xff", "an image", "Put it into a PDF: scanned pages are read where Tesseract is installed."),
    (b"GIF8", "an image", "Leave it out."),
    (b"\x1f\x8b", "gzip", "Unpack it, or pack it as ZIP."),
    (b"7z\xbc\xaf", "7-Zip", "Unpack it, or pack it as ZIP."),
    (b"Rar!", "RAR", "Unpack it, or pack it as ZIP."),
    (b"BZh", "bzip2", "Unpack it, or pack it as ZIP."),
    (b"SQLite format 3", "an SQLite database", "Export its tables as CSV."),
)
_ZIP_START, _OLE_START = (b"PK\x03\x04", b"PK\x05\x06"), b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_ZIP_END = struct.Struct("<4s4H2LH")  # PKWARE APPNOTE 4.3.16
_ZIP_ENTRY = struct.Struct("<4s4B4HL2L5H2L")  # PKWARE APPNOTE 4.3.12
_ZIP_NAMES = 2000
_OLE_SLOT = 128  # a directory entry of [MS-CFB] 2.6.1; its name takes the first 64 bytes


@dataclass(frozen=True, slots=True)
class Kind:
    """What a file is. ``language`` names that of source code; ``mismatch`` is a suffix that says otherwise."""

    media_type: str
    language: str = ""
    mismatch: str = ""


def sniff(raw: bytes, name: str) -> Kind:
    """Return what ``raw`` is: content decides, the suffix of ``name`` only tells kinds of text apart.

    Raises:
        UnsupportedMedia: nothing that a loader reads.
        EncryptedDocument: an Office file under a password.
        DamagedDocument: it is called .pdf but is none.
    """
    suffix = PurePath(name).suffix.lower()
    named = _MEDIA_BY_SUFFIX.get(suffix, "")
    media = _binary_type(raw, name)
    if not media and suffix == ".pdf":
        raise DamagedDocument("The file is called .pdf but holds no PDF.", got=name, hint="Save it again as PDF.")
    if not media:
        language = _LANGUAGE_BY_SUFFIX.get(suffix, "")
        media = _text_type(raw, name, named, language)
        if media == f"text/x-{language}":
            return Kind(media, language)
    known = bool(named) or suffix in _LANGUAGE_BY_SUFFIX
    return Kind(media, mismatch=suffix if known and named not in {media, PLAIN} and media != PLAIN else "")


def _binary_type(raw: bytes, name: str) -> str:
    if b"%PDF-" in raw[:1024]:
        return PDF
    if raw.startswith(_ZIP_START):
        return _zip_type(raw, name)
    if raw.startswith(_OLE_START):
        return _ole_type(raw, name)
    for start, kind, hint in _UNREADABLE:
        if raw.startswith(start):
            raise UnsupportedMedia(f"The file is {kind}, which no loader reads.", got=name, wanted=READABLE, hint=hint)
    return ""


def _text_type(raw: bytes, name: str, named: str, language: str) -> str:
    if not is_text(raw, legacy=bool(named or language) and named not in _BINARY):
        raise UnsupportedMedia("No loader reads this type of file.", got=name, wanted=READABLE, hint=_CONVERT)
    if _HTML_START.match(raw[:4096]) and named != MARKDOWN and not language:
        return HTML
    if language:
        return f"text/x-{language}"
    if named in _SPREADSHEETS:
        return CSV  # many programs export tab-separated text under the name .xls
    if named and named not in _BINARY and named != PLAIN:
        return named
    lines = raw[:8192].lstrip().split(b"\n", 20)[:20]
    if _MAIL_LINE.match(lines[0]) and sum(bool(_MAIL_LINE.match(line)) for line in lines) >= _MAIL_LINES:
        return EMAIL
    body = raw[:64].lstrip()[:1] + raw[-64:].rstrip()[-1:]
    return JSON if not named and body in {b"{}", b"[]"} else PLAIN


def zip_names(raw: bytes) -> Iterator[str]:
    """Yield the first names in a ZIP file's directory, as its bytes say; nothing where that is damaged."""
    end = raw.rfind(b"PK\x05\x06", max(0, len(raw) - 70_000))
    if end < 0 or end + _ZIP_END.size > len(raw):
        return
    size, offset = _ZIP_END.unpack_from(raw, end)[5:7]
    position = max(0, end - size) if offset + size > end else offset
    for _ in range(_ZIP_NAMES):
        if raw[position : position + 4] != b"PK\x01\x02" or position + _ZIP_ENTRY.size > len(raw):
            return
        lengths = _ZIP_ENTRY.unpack_from(raw, position)[12:15]
        start = position + _ZIP_ENTRY.size
        yield raw[start : start + lengths[0]].decode("utf-8", errors="replace")
        position = start + sum(lengths)


def _zip_type(raw: bytes, name: str) -> str:
    names = set(zip_names(raw))
    for main, media in (("word/", DOCX), ("ppt/", PPTX), ("xl/", XLSX)):
        if "[Content_Types].xml" in names and any(inner.startswith(main) for inner in names):
            return media
    if "mimetype" in names:
        found = re.search(rb"mimetype.{0,64}?(application/[\w.+-]+?)(?:PK|\s|$)", raw[:400], re.DOTALL)
        kind = found[1].decode() if found else ""
        if kind in {EPUB, ODS}:
            return kind
        if kind.startswith("application/vnd.oasis"):
            hint = "Save it as .docx or .pptx."
            raise UnsupportedMedia("No loader reads this OpenDocument.", got=name, wanted=READABLE, hint=hint)
    return EPUB if "META-INF/container.xml" in names else ZIP


def _ole_type(raw: bytes, name: str) -> str:
    if _ole_has(raw, "EncryptedPackage"):
        raise EncryptedDocument("The Office file needs a password.", got=name, hint="Remove the password first.")
    if _ole_has(raw, "Workbook") or _ole_has(raw, "Book"):
        return XLS
    for stream, wanted in (("WordDocument", ".docx"), ("PowerPoint Document", ".pptx")):
        if _ole_has(raw, stream):
            hint = f"Save it as {wanted}."
            raise UnsupportedMedia("The file is of Office 97-2003.", got=name, wanted=READABLE, hint=hint)
    hint = "Save an Outlook message as .eml." if name.lower().endswith(".msg") else _CONVERT
    raise UnsupportedMedia("No loader reads this type of file.", got=name, wanted=READABLE, hint=hint)


def _ole_has(raw: bytes, stream: str) -> bool:
    """Say whether the compound file's directory has an entry of that name."""
    entry = stream.encode("utf-16-le").ljust(64, b"\x00")
    position = raw.find(entry)
    while position >= 0:
        if position % _OLE_SLOT == 0:
            return True
        position = raw.find(entry, position + 1)
    return False
