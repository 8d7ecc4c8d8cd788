"""EPUB books: the chapters in reading order, as Markdown. The only importer of defusedxml."""

from __future__ import annotations

import io
import posixpath
import zipfile
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from data.errors import DamagedDocument, DecompressionBomb, EncryptedDocument
from retrieval.parsers.archive import check_container
from retrieval.parsers.markup import to_markdown
from retrieval.parsers.parsed import Budget, Parsed, join_within
from retrieval.text import decode

_CONTAINER = "META-INF/container.xml"
_CHAPTERS = {"application/xhtml+xml", "text/html", "application/x-dtbook+xml"}
_FONT_ONLY = ("http://www.idpf.org/2008/embedding", "http://ns.adobe.com/pdf/enc#RC")  # these hide fonts, not text


def parse_epub(raw: bytes, budget: Budget) -> Parsed:
    """Return the text of every chapter of the spine, and the book's title.

    Raises:
        EncryptedDocument: its chapters are under digital rights management.
        DamagedDocument: no package, or a chapter that it names is missing.
        DecompressionBomb: it unpacks beyond the limits, or its XML declares entities.
    """
    from defusedxml.common import DefusedXmlException
    from defusedxml.ElementTree import ParseError

    check_container(raw, budget)
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as packed:
            if _is_protected(packed):
                raise EncryptedDocument("The book is copy-protected.", hint="Use a copy without protection.")
            found = _xml(packed, _CONTAINER).find(".//{*}rootfile")
            place = found.get("full-path", "") if found is not None else ""
            package = _xml(packed, place)
            name = package.find(".//{*}metadata/{*}title")
            text = join_within(_chapters(packed, package, posixpath.dirname(place)), budget)
    except DefusedXmlException as error:
        hint = "Save it again with the program that made it."
        raise DecompressionBomb("Its XML declares entities, which can expand without end.", hint=hint) from error
    except (ParseError, KeyError, zipfile.BadZipFile) as error:
        detail = f"The book's package cannot be read: {error}."
        raise DamagedDocument(detail, hint="Save it again with the program that made it.") from error
    return Parsed(text, (name.text or "").strip() if name is not None else "")


def _xml(packed: zipfile.ZipFile, name: str) -> Any:
    from defusedxml.ElementTree import fromstring

    return fromstring(packed.read(name))


def _is_protected(packed: zipfile.ZipFile) -> bool:
    if "META-INF/encryption.xml" not in packed.namelist():
        return False
    methods = [found.get("Algorithm", "") for found in _xml(packed, "META-INF/encryption.xml").iter()]
    return any(method and method not in _FONT_ONLY for method in methods)


def _chapters(packed: zipfile.ZipFile, package: Any, folder: str) -> Iterator[str]:
    items = {item.get("id"): item for item in package.iterfind(".//{*}manifest/{*}item")}
    for reference in package.iterfind(".//{*}spine/{*}itemref"):
        item = items.get(reference.get("idref"))
        if item is None or item.get("media-type") not in _CHAPTERS or "nav" in (item.get("properties") or "").split():
            continue
        text = to_markdown(
            decode(packed.read(posixpath.normpath(posixpath.join(folder, unquote(item.get("href") or "")))))
        )
        if text:
            yield text
