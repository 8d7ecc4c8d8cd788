"""HTML to Markdown, faithfully: headings, lists, tables (nested ones too), code. The only importer of lxml.

Nothing is judged to be boilerplate here; ``web`` does that. Links keep their text, images their
description.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from data.errors import DamagedDocument
from data.numbers import whole_number

_SKIPPED = {"script", "style", "head", "template", "noscript", "svg", "iframe", "object", "canvas", "button", "select"}
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_INLINE = frozenset(
    re.findall(
        r"\w+",
        "a abbr acronym b bdi bdo big br cite code data del dfn em font i img ins kbd label mark math q rp rt ruby s "
        "samp small span strike strong sub sup time tt u var wbr input",
    )
)
_DEEPEST = 200
_HIDING = re.compile(
    r"(?:^|[;\s])(?:display\s*:\s*none|visibility\s*:\s*hidden|opacity\s*:\s*0*(?:\.0*)?(?![\d.])|font-size\s*:\s*0(?![\d.]))",
    re.IGNORECASE,
)
_SPACE = re.compile(r"[ \t\n\r\f\u200b]+")


def parse_tree(markup: str) -> Any:
    """Return the root element of ``markup``.

    Raises:
        DamagedDocument: no tree can be built.
    """
    from lxml import etree, html

    try:
        raw = markup.encode(errors="replace")  # as bytes, since lxml refuses a string that declares an encoding
        parser = html.HTMLParser(encoding="utf-8", no_network=True, huge_tree=True)
        return _without_hidden(html.document_fromstring(raw, parser=parser))
    except (etree.ParserError, etree.XMLSyntaxError, ValueError) as error:
        detail = f"No HTML tree can be built: {error}."
        raise DamagedDocument(detail, hint="Open it in a browser and save it again.") from error


def _without_hidden(root: Any) -> Any:
    """Take out what a browser does not show: comments, and elements that are hidden where they stand.

    What a style sheet or script hides, or a colour, is not known here.
    """
    for element in list(root.iter()):
        if element.getparent() is not None and _tag(element) != "body" and _is_hidden(element):
            element.drop_tree()
    return root


def _is_hidden(element: Any) -> bool:
    if not isinstance(element.tag, str) or _tag(element) == "template":
        return True
    named = element.get("hidden", "until-found") != "until-found"  # which a search in the page does show
    return named or _HIDING.search(element.get("style", "")) is not None


def to_markdown(markup: str) -> str:
    """Return the whole text of ``markup`` as Markdown."""
    return tree_to_markdown(parse_tree(markup))


def tree_to_markdown(root: Any) -> str:
    """Return the whole text under the element ``root`` as Markdown."""
    return "\n\n".join(block for block in _blocks(root, 0) if block.strip())


def serialize(root: Any) -> str:
    """Return the element ``root`` as HTML again."""
    from lxml import html

    return str(html.tostring(root, encoding="unicode"))


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Return ``rows`` as a Markdown table, the first row its header; ragged rows are filled up."""
    width = max((len(row) for row in rows), default=0)
    if not width:
        return ""
    lines = [_table_row(row, width) for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * width, *lines[1:]])


def _table_row(row: Sequence[str], width: int) -> str:
    cells = [" ".join(cell.split()).replace("|", "\\|") for cell in row]
    return "| " + " | ".join(cells + [""] * (width - len(cells))) + " |"


def _tag(element: Any) -> str:
    return element.tag.lower().rsplit("}", 1)[-1] if isinstance(element.tag, str) else ""


def _blocks(element: Any, depth: int) -> Iterator[str]:
    """Yield the blocks under ``element``; inline children that stand side by side make one paragraph."""
    if depth > _DEEPEST:
        yield _SPACE.sub(" ", "".join(element.itertext())).strip()
        return
    inline = [element.text or ""]
    for child in element:
        tag = _tag(child)
        if tag in _INLINE and not _holds_block(child):
            inline.append(_inline(child, depth))
        elif tag and tag not in _SKIPPED:
            yield _paragraph(inline)
            inline = []
            yield from _block(child, tag, depth + 1)
        inline.append(child.tail or "")
    yield _paragraph(inline)


def _holds_block(element: Any) -> bool:
    return any(_tag(inner) not in _INLINE for inner in element.iterdescendants() if _tag(inner))


def _paragraph(parts: Sequence[str]) -> str:
    lines = "".join(part if part == "\v" else _SPACE.sub(" ", part) for part in parts).split("\v")
    return "\n".join(line.strip() for line in lines if line.strip())


def _inline(element: Any, depth: int) -> str:
    tag = _tag(element)
    if tag == "br":
        return "\v"
    if tag == "img":
        return element.get("alt") or ""
    if tag in _SKIPPED or not tag or tag == "rp" or depth > _DEEPEST:
        return ""
    inside = _SPACE.sub(" ", element.text or "") + "".join(
        _inline(child, depth + 1) + _SPACE.sub(" ", child.tail or "") for child in element
    )
    if (tag in {"code", "kbd", "samp", "tt"} or "literal" in (element.get("class") or "").split()) and inside.strip():
        return f"`{inside.strip()}`"
    return inside


def _block(element: Any, tag: str, depth: int) -> Iterator[str]:
    if tag in _HEADINGS:
        name = " ".join(_inline(element, depth).replace("\v", " ").split())
        yield f"{'#' * _HEADINGS[tag]} {name}" if name else ""
    elif tag == "pre":
        yield _fenced(element)
    elif tag in {"ul", "ol"}:
        yield "\n".join(_list(element, tag == "ol", depth))
    elif tag == "table":
        yield from _table(element, depth)
    elif tag == "hr":
        return
    elif tag == "blockquote":
        inside = "\n\n".join(block for block in _blocks(element, depth) if block)
        yield "\n".join(f"> {line}" if line else ">" for line in inside.split("\n")) if inside else ""
    else:
        yield from _blocks(element, depth)


def _fenced(element: Any) -> str:
    body = "".join(element.itertext()).strip("\n")
    classes = " ".join(inner.get("class") or "" for inner in [element, *element.iterdescendants("code")])
    found = re.search(r"\b(?:language|lang|highlight-source)-([\w+#-]+)|\bcode ([\w+#-]+)", classes)
    fence = "```" if "```" not in body else "~~~~"
    return f"{fence}{(found[1] or found[2]) if found else ''}\n{body}\n{fence}" if body.strip() else ""


def _list(element: Any, ordered: bool, depth: int) -> Iterator[str]:
    number = 0
    for item in element:
        if _tag(item) in {"ul", "ol"}:  # a list right inside a list: what editors make of an indented one
            yield from ("  " + line for line in _list(item, _tag(item) == "ol", depth + 1))
            continue
        blocks = [block for block in _blocks(item, depth + 1) if block] if _tag(item) else []
        if not blocks:
            continue
        number += 1
        mark = f"{number}. " if ordered else "- "
        lines = "\n".join(blocks).split("\n")
        yield mark + lines[0]
        yield from (" " * len(mark) + line for line in lines[1:])


def _table(element: Any, depth: int) -> Iterator[str]:
    """Yield a table's caption, its rows, then the tables inside its cells, each under its cell's words."""
    for caption in element.iterchildren("caption"):
        yield _paragraph([_inline(caption, depth)])
    rows: list[list[str]] = []
    nested: list[str] = []
    covered: dict[int, int] = {}
    for line in _rows(element):
        cells: list[str] = []
        for cell in line:
            while covered.get(len(cells), 0):
                covered[len(cells)] -= 1
                cells.append("")
            blocks = [block for block in _blocks(cell, depth + 1) if block]
            nested += [block for block in blocks if block.startswith("|")]
            plain = [" ".join(block.split()) for block in blocks if not block.startswith("|")]
            for offset in range(_span(cell, "colspan")):
                covered[len(cells)] = max(covered.get(len(cells), 0), _span(cell, "rowspan") - 1)
                cells.append("; ".join(plain) if not offset else "")
        rows.append(cells)
    if any(any(cell for cell in row) for row in rows):
        yield markdown_table(_without_empty(rows))
    yield from nested


def _without_empty(rows: list[list[str]]) -> list[list[str]]:
    rows = [row for row in rows if any(row)]
    width = max(len(row) for row in rows)
    used = [column for column in range(width) if any(column < len(row) and row[column] for row in rows)]
    return [[row[column] if column < len(row) else "" for column in used] for row in rows]


def _rows(element: Any) -> Iterator[list[Any]]:
    for child in element:
        if _tag(child) == "tr":
            yield [cell for cell in child if _tag(cell) in {"td", "th"}]
        elif _tag(child) in {"thead", "tbody", "tfoot"}:
            yield from _rows(child)


def _span(cell: Any, name: str) -> int:
    return min(max(whole_number(cell.get(name) or "1") or 1, 1), 100)
