"""HTML pages: the main content without navigation. The only importer of trafilatura."""

from __future__ import annotations

import re
from copy import deepcopy
from typing import Any

from data.errors import DamagedDocument
from retrieval.parsers.markup import parse_tree, serialize, tree_to_markdown
from retrieval.parsers.parsed import Parsed
from retrieval.text import decode

_CHARSET = re.compile(rb"charset\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.IGNORECASE)
_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\xef\xbb\xbf")
_NO_XML = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
"""What lxml reads in a page and refuses to write into one (XML 1.0, production 2)."""
_MARKER = "tablemarker{}x"
_LOST_SHARE = 0.3  # of a page's text outside navigation: below it, the extraction is not believed
_CHROME = ["nav", "header", "footer", "aside", "form", "menu", "dialog"]


def parse_html(raw: bytes) -> Parsed:
    """Return the main content as Markdown, tables as they are, and the page's title.

    Tables go around trafilatura, which mangles captions and nested tables: it sees a marker word
    where each stood.
    """
    import trafilatura

    markup = _NO_XML.sub(" ", decode_html(raw))
    found = trafilatura.extract_metadata(markup)
    root = parse_tree(markup)
    whole = _without_chrome(root)
    tables = _take_tables(root)
    text = trafilatura.extract(
        serialize(root), output_format="markdown", include_formatting=True, include_comments=False, favor_recall=True
    )
    for number, table in enumerate(tables):
        text = re.sub(rf"[ \t]*{_MARKER.format(number)}[ \t]*", lambda _, put=table: f"\n\n{put}\n\n", text or "")
    if len(text or "") < _LOST_SHARE * len(whole):
        text = whole
    text = re.sub(r"\n{3,}", "\n\n", text or "").strip()
    if not text and re.search(
        r"\w", re.sub(r"<(script|style|head)\b.*?</\1>|<[^>]*>", "", markup, flags=re.DOTALL | re.I)
    ):
        raise DamagedDocument("No HTML tree can be built.", hint="Open it in a browser and save it again.")
    return Parsed(text, (found.title or "") if found else "")


def _without_chrome(root: Any) -> str:
    copy = deepcopy(root)
    for element in [inner for tag in _CHROME for inner in copy.iter(tag)]:
        if element.getparent() is not None:
            element.drop_tree()
    return tree_to_markdown(copy)


def _take_tables(root: Any) -> list[str]:
    """Put a marker paragraph in the place of every outermost data table; return the tables as Markdown."""
    taken: list[str] = []
    for table in list(root.iter("table")):
        if any(True for _ in table.iterancestors("table", *_CHROME)):
            continue
        text = _table_alone(table)
        if text.count("\n") < 2 or text.count("|") < 6:  # one column or row: a table that only lays out the page
            continue
        marker = table.makeelement("p")
        marker.text, marker.tail = _MARKER.format(len(taken)), _NO_XML.sub(" ", table.tail or "")
        table.getparent().replace(table, marker)
        taken.append(text)
    return taken


def _table_alone(table: Any) -> str:
    """Return one table element as Markdown."""
    wrapper = table.makeelement("div")
    copy = deepcopy(table)
    copy.tail = None
    wrapper.append(copy)
    return tree_to_markdown(wrapper)


def decode_html(raw: bytes) -> str:
    """Decode a page as it declares, or as its bytes look where the declaration is wrong or absent."""
    declared = _CHARSET.search(raw[:2048])
    if declared and not raw.startswith(_MARKS):
        try:
            return raw.decode(declared[1].decode("ascii"))
        except (LookupError, ValueError):  # no such encoding, or one that is none of texts, such as punycode
            return decode(raw)
    return decode(raw)
