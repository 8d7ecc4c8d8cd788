"""Word and PowerPoint files as Markdown. The only importer of mammoth and python-pptx."""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from html import unescape
from typing import Any

from data.errors import DamagedDocument
from retrieval.parsers.archive import check_container
from retrieval.parsers.markup import markdown_table, to_markdown
from retrieval.parsers.parsed import BLANK, Budget, Parsed, join_within

_STYLES = """
p[style-name='Title'] => h1:fresh
p[style-name='Subtitle'] => p:fresh
p[style-name='Quote'] => blockquote > p:fresh
p[style-name='Intense Quote'] => blockquote > p:fresh
"""
_EQUATION = re.compile(rb"<m:oMath\b[^>]*>.*?</m:oMath>", re.DOTALL)
_EQUATION_FRAME = re.compile(rb"</?m:oMathPara\b[^>]*>|<m:oMathParaPr\b.*?</m:oMathParaPr>", re.DOTALL)
_EQUATION_TEXT = re.compile(rb"<m:t\b[^>]*>(.*?)</m:t>", re.DOTALL)
_HIDDEN_RUN = re.compile(
    rb"<w:r\b[^>]*>(?:(?!</w:r>).)*?<w:vanish(?:\s+w:val=\"(?:1|true|on)\")?\s*/>(?:(?!</w:r>).)*</w:r>", re.DOTALL
)
_CORE_TITLE = re.compile(rb"<dc:title\b[^>]*>(.*?)</dc:title>", re.DOTALL)
_DEEPEST_GROUP = 20


def parse_docx(raw: bytes, budget: Budget) -> Parsed:
    """Return a Word document with its headings, lists and tables; equations as one line of symbols.

    Raises:
        DamagedDocument: no Word document can be read from it.
        DecompressionBomb: it unpacks beyond the limits.
    """
    import mammoth

    check_container(raw, budget)
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as packed:
            title = _core_title(packed)
            whole = _as_shown(packed) or raw
        found = mammoth.convert_to_html(
            io.BytesIO(whole), style_map=_STYLES, convert_image=mammoth.images.img_element(lambda _: {})
        )
    except MemoryError:
        raise
    except Exception as error:  # mammoth documents no exceptions of its own
        detail = f"The Word document cannot be read: {error}."
        raise DamagedDocument(detail, hint="Open it in Word and save it again.") from error
    return Parsed(join_within([to_markdown(found.value or "<p></p>")], budget), title)


def _core_title(packed: zipfile.ZipFile) -> str:
    if "docProps/core.xml" not in packed.namelist():
        return ""
    found = _CORE_TITLE.search(packed.read("docProps/core.xml"))
    return unescape(found[1].decode("utf-8", errors="replace")).strip() if found else ""


def _as_shown(packed: zipfile.ZipFile) -> bytes | None:
    """Return the document without hidden text and with each equation as a run of text; None if it has neither.

    Mammoth gives hidden text out as if it were shown, and drops equations.
    """
    body = packed.read("word/document.xml")
    if b"<m:oMath" not in body and b"<w:vanish" not in body:
        return None
    body = _HIDDEN_RUN.sub(b"", body)
    body = _EQUATION.sub(_plain_equation, _EQUATION_FRAME.sub(b"", body))
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as copy:
        for name in packed.namelist():
            if not name.startswith("word/media/"):
                copy.writestr(name, body if name == "word/document.xml" else packed.read(name))
    return buffer.getvalue()


def _plain_equation(found: re.Match[bytes]) -> bytes:
    return b'<w:r><w:t xml:space="preserve">' + b"".join(_EQUATION_TEXT.findall(found[0])) + b"</w:t></w:r>"


def parse_pptx(raw: bytes, budget: Budget) -> Parsed:
    """Return the slides as ``## Slide n: title`` sections with text, tables, chart data and notes.

    Raises:
        DamagedDocument: no presentation can be read from it.
        DecompressionBomb: it unpacks beyond the limits.
    """
    import pptx

    check_container(raw, budget)
    try:
        deck = pptx.Presentation(io.BytesIO(raw))
        text = join_within((_slide(slide, number) for number, slide in enumerate(deck.slides, 1)), budget)
        title = deck.core_properties.title or ""
    except MemoryError:
        raise
    except (KeyError, ValueError, AttributeError, IndexError, SyntaxError, zipfile.BadZipFile) as error:
        detail = f"The presentation cannot be read: {error}."
        raise DamagedDocument(detail, hint="Open it in PowerPoint and save it again.") from error
    # The title that PowerPoint writes where nobody gave one says nothing.
    return Parsed(text, "" if title == "PowerPoint Presentation" else title)


def _slide(slide: Any, number: int) -> str:
    heading = slide.shapes.title
    named = " ".join(heading.text_frame.text.split()) if heading is not None and heading.has_text_frame else ""
    blocks = [f"## Slide {number}: {named}" if named else f"## Slide {number}"]
    shapes = [shape for shape in slide.shapes if heading is None or shape.shape_id != heading.shape_id]
    for shape in sorted(shapes, key=lambda shape: (shape.top or 0, shape.left or 0)):
        blocks += _shape(shape, 0)
    if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
        notes = slide.notes_slide.notes_text_frame.text.strip()
        blocks += [f"Notes: {notes}"] if notes else []
    return BLANK.join(block for block in blocks if block)


def _shape(shape: Any, depth: int) -> Iterator[str]:
    from pptx.enum.shapes import MSO_SHAPE_TYPE

    if shape.shape_type == MSO_SHAPE_TYPE.GROUP and depth < _DEEPEST_GROUP:
        for inner in sorted(shape.shapes, key=lambda inner: (inner.top or 0, inner.left or 0)):
            yield from _shape(inner, depth + 1)
    elif getattr(shape, "has_table", False) and shape.has_table:
        yield markdown_table([[cell.text for cell in row.cells] for row in shape.table.rows])
    elif getattr(shape, "has_chart", False) and shape.has_chart:
        yield _chart(shape.chart)
    elif shape.has_text_frame:
        yield "\n".join(_paragraphs(shape.text_frame))


def _paragraphs(frame: Any) -> Iterator[str]:
    filled = [paragraph for paragraph in frame.paragraphs if paragraph.text.strip()]
    for paragraph in filled:
        line = " ".join(paragraph.text.split())
        yield f"{'  ' * paragraph.level}- {line}" if len(filled) > 1 else line


def _chart(chart: Any) -> str:
    name = chart.chart_title.text_frame.text if chart.has_title and chart.chart_title.has_text_frame else ""
    tables = [name] if name else []
    for plot in chart.plots:
        series = list(plot.series)
        rows = [["", *(one.name or "" for one in series)]]
        values = [list(one.values) for one in series]
        for place, category in enumerate(plot.categories):
            rows.append([str(category), *(str(one[place]) if place < len(one) else "" for one in values)])
        tables.append(markdown_table(rows))
    return BLANK.join(tables)
