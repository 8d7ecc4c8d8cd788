"""PDF: liteparse for layout (columns, tables, headings), pypdfium2 for outline, title and what liteparse cannot.

The only importer of liteparse and pypdfium2. liteparse reads windows of pages, so memory does not grow
with the document; a document longer than ``_LAYOUT_PAGES`` is read in pypdfium2's order, 3 to 5 times
as fast.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from data.errors import DamagedDocument, EncryptedDocument, ScannedDocument
from retrieval.parsers.parsed import Budget, Parsed, check_size
from retrieval.text import without_unseen

_WINDOW_PAGES = 128
_LAYOUT_PAGES = 2000
_PDFIUM_PASSWORD = 4  # FPDF_ERR_PASSWORD of fpdfview.h
_IMAGE_OBJECT = 3  # FPDF_PAGEOBJ_IMAGE of fpdf_edit.h
_SCANNED_LETTERS = 16  # a page with an image and no more letters than these (a stamp, a page number) is a scan
_PLACEHOLDER_TITLES = {"untitled", "(anonymous)", "anonymous"}  # what PDF writers put where nobody gave a title
_CJK = r"\u3000-\u303f\u3400-\u9fff\uf900-\ufaff\uff00-\uffef"
_CJK_GAP = re.compile(rf"(?<=[{_CJK}])[ \t]+(?=[{_CJK}])")
# PDF text often lost the space after 章; after 条 it tells a heading from the article itself.
_CHAPTER = re.compile(r"第[一二三四五六七八九十百零〇\d]{1,6}([编篇章节]|条(?=[\s　:：]|$))")
_CHAPTER_LEVEL = {"编": 1, "篇": 1, "章": 2, "节": 3, "条": 4}
_LONGEST_CHAPTER = 40
_LONGEST_HEADING = 80
_NO_HEADING = re.compile(r"[●○•·▪‣*–-]\s|.*(```|https?:)")
# "3. Structure ..... 9": a page with so many of these lists headings that stand elsewhere.
_CONTENTS_LINE = re.compile(r".*\S[ .…·]+\d{1,4}")
_CONTENTS_LINES, _CONTENTS_PAGES = 3, 10
_NUMBERED = re.compile(r"(\d{1,2}(?:\.\d{1,2})*)\.?[ 　]+\S")
_LINE_ENDS_SENTENCE = re.compile(r"[.!?。！？:：;；…][\"'”’)）」』]*$")
_LIST_ITEM = re.compile(r"([•·▪‣*–-]|\(?\d{1,3}[.)、]|[a-z][.)]|（?[一二三四五六七八九十]+[、）])\s*\S")
_WRAP_SHARE = 0.7
_SOFT_HYPHEN = "\x02"  # pdfium puts it where a word was hyphenated only for the line break, and joins the lines
_MARKED = re.compile(r"(#{1,6})[ \t]+(.*)")
_ESCAPED = re.compile(r"\\([\\`*_{}\[\]()#+\-.!<>~|])")
_EMPTY_FENCE = re.compile(r"^```\w*\s*```$", re.MULTILINE)
_LOST_LETTERS, _LOST_SHARE = 12, 0.005
_NUMBERING = re.compile(r"^[\d.、)\s]+")
Named = dict[tuple[int, str], int]
"""Level of a heading by page number and title without spaces."""
_RUNNING_PAGES, _RUNNING_SHARE, _RUNNING_LENGTH = 5, 0.5, 60


def parse_pdf(raw: bytes, budget: Budget) -> Parsed:
    """Return the text of a PDF page by page, with the offset of each page and the heading lines.

    Raises:
        EncryptedDocument: it needs a password.
        DamagedDocument: it cannot be opened.
        ScannedDocument: every page is an image, and OCR is off, absent or found nothing.
        DocumentTooLarge: more text than the limit.
    """
    import pypdfium2

    try:
        pdf = pypdfium2.PdfDocument(raw)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == _PDFIUM_PASSWORD:
            raise EncryptedDocument("The PDF needs a password.", hint="Remove the password first.") from error
        raise DamagedDocument(f"The PDF cannot be opened: {error}", hint="Save it again as PDF.") from error
    try:
        outline = [(mark.level + 1, mark.get_title(), _page_of(mark)) for mark in pdf.get_toc()]
        named = _named_headings(outline)
        pages = _strip_running_lines(_read_pages(raw, pdf, named, budget))
        scanned = [number for number, text in enumerate(pages) if _is_scan(pdf, number, text)]
        recognized = _recognize(pdf, pages, scanned, budget)
        title = str(pdf.get_metadata_dict().get("Title", "")).replace("\x00", "").strip()
    except pypdfium2.PdfiumError as error:
        raise DamagedDocument(f"The PDF cannot be read: {error}", hint="Save it again as PDF.") from error
    finally:
        pdf.close()
    unread = [number + 1 for number in scanned if number not in recognized]
    if scanned and not any(page.strip() for page in pages):
        raise _all_scanned(len(pages), budget)
    parsed = assemble(pages, named)
    parsed.title = "" if title.casefold() in _PLACEHOLDER_TITLES else title
    if unread:
        parsed.meta["scanned_pages"] = unread
    if recognized:
        parsed.meta["ocr_pages"] = [number + 1 for number in recognized]
    return parsed


def _all_scanned(pages: int, budget: Budget) -> ScannedDocument:
    hint = "Install Tesseract (apt-get install tesseract-ocr), or run OCR on the file first."
    detail = f"All {pages} pages are scanned images without text."
    if budget.ocr:
        detail, hint = f"All {pages} pages are images, and OCR read no text in them.", "Scan it again, sharper."
    return ScannedDocument(detail, hint=hint)


def _read_pages(raw: bytes, pdf: Any, named: Named, budget: Budget) -> list[str]:
    count, size = len(pdf), 0
    pages: list[str] = []
    for first in range(0, count, _WINDOW_PAGES):
        last = min(count, first + _WINDOW_PAGES)
        window = _laid_out(raw, first, last) if count <= _LAYOUT_PAGES else {}
        for number in range(first, last):
            plain, laid_out = _page_text(pdf, number), window.get(number)
            if laid_out is None or _loses(laid_out, plain):
                pages.append(join_wrapped_lines(plain))
            else:
                pages.append(_part_headings(laid_out, plain, number, named))
            size += len(pages[-1])
        check_size(size, budget)
    return pages


def _loses(laid_out: str, plain: str) -> bool:
    """Say whether the page's letters that pdfium sees are not all in the layout: near tables lines can go missing."""
    seen, kept = (
        Counter(char for char in unicodedata.normalize("NFKC", text) if char.isalnum()) for text in (plain, laid_out)
    )
    return (seen - kept).total() > max(_LOST_LETTERS, _LOST_SHARE * seen.total())


def _laid_out(raw: bytes, first: int, last: int) -> dict[int, str]:
    """Return pages ``first`` to ``last`` as Markdown, none of them where liteparse cannot read them."""
    import liteparse

    parser = liteparse.LiteParse(
        ocr_enabled=False,
        output_format="markdown",
        image_mode="off",
        extract_links=False,
        keep_headers_footers=True,  # what it takes for a running header may be the first row of a table
        max_pages=last,
        target_pages=f"{first + 1}-{last}",
        quiet=True,
    )
    try:
        return {page.page_num - 1: _clean_page(page.markdown or page.text) for page in parser.parse(raw).pages}
    except liteparse.ParseError:
        return {}


def _part_headings(page: str, plain: str, number: int, named: Named) -> str:
    """Put heading lines that the layout ran into a paragraph on lines of their own again."""
    for line in plain.split("\n"):
        letters = "".join(line.split())
        if letters and _heading_level(number, line.strip(), named) is not None:
            pattern = r"[ \t]*".join(map(re.escape, letters))
            end = r"\b" if letters[-1].isascii() and letters[-1].isalnum() else ""
            page = re.sub(rf"(?m)^(?!\|)([^\n]*?)({pattern}){end}[ \t]*", _set_apart, page, count=1)
    return page.strip()


def _set_apart(found: re.Match[str]) -> str:
    before = found[1].strip()
    if found.string[found.end() : found.end() + 1] in {"", "\n"} and before in {"", *("#" * n for n in range(1, 7))}:
        return found[0]
    return f"{found[1].rstrip()}\n\n{found[2]}\n\n" if before.strip("#") else f"{found[0].strip()}\n\n"


def _clean_page(page: str) -> str:
    """Take out Markdown's emphasis and escapes, rules, and the spaces that joined Chinese lines."""
    lines = []
    for line in _EMPTY_FENCE.sub("", page.replace("\x00", "")).strip().split("\n"):
        if line.strip() == "---":
            continue
        if not line.startswith("|"):
            line = _ESCAPED.sub(r"\1", line.replace("**", ""))  # noqa: PLW2901
        lines.append(_CJK_GAP.sub("", line))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _page_text(pdf: Any, number: int) -> str:
    page = pdf[number]
    try:
        text = page.get_textpage()
        try:
            return str(text.get_text_bounded())
        finally:
            text.close()
    finally:
        page.close()


def _strip_running_lines(pages: list[str]) -> list[str]:
    """Take out page numbers, and a first or last line that recurs on most pages but for its numbers."""
    if len(pages) < _RUNNING_PAGES:
        return [re.sub(rf"\n+{number}$", "", page) for number, page in enumerate(pages, 1)]
    for place in (0, -1):
        lines = [page.strip().split("\n")[place].strip() for page in pages]
        masks = [re.sub(r"\d+", "0", line) if len(line) <= _RUNNING_LENGTH else "" for line in lines]
        running = {mask for mask in set(masks) if mask and masks.count(mask) >= _RUNNING_SHARE * len(pages)}
        for number, mask in enumerate(masks):
            if mask in running and "\n" in pages[number].strip():
                kept = pages[number].strip().split("\n")
                pages[number] = "\n".join(kept[1:] if place == 0 else kept[:-1]).strip()
    return pages


def _is_scan(pdf: Any, number: int, text: str) -> bool:
    if sum(char.isalnum() for char in text) > _SCANNED_LETTERS:
        return False
    page = pdf[number]
    try:
        return next(iter(page.get_objects(filter=[_IMAGE_OBJECT], max_depth=3)), None) is not None
    finally:
        page.close()


def _recognize(pdf: Any, pages: list[str], scanned: Sequence[int], budget: Budget) -> list[int]:
    """Run OCR on scanned pages while time lasts; return the numbers of those that gave text."""
    from retrieval.parsers.ocr import RENDER_DPI, recognize, seconds_for_page

    done = []
    for number in scanned if budget.ocr else ():
        if seconds_for_page(budget) <= 0:
            break
        page = pdf[number]
        try:
            bitmap = page.render(scale=RENDER_DPI / 72, grayscale=True)
            text = recognize(bytes(bitmap.buffer), bitmap.width, bitmap.height, bitmap.stride, budget)
            bitmap.close()
        finally:
            page.close()
        text = join_wrapped_lines(text)
        if text.strip():
            pages[number] = f"{pages[number]}\n{text}".strip()
            done.append(number)
    return done


def _page_of(bookmark: Any) -> int | None:
    destination = bookmark.get_dest()
    index = destination.get_index() if destination else None
    return int(index) if index is not None else None


def join_wrapped_lines(page: str) -> str:
    """Join lines that end inside a sentence near the right margin; Chinese lines join without a space.

    A line counts as wrapped if it is at least 70 % as long as the page's long lines (their 90th
    percentile), does not end a sentence, and no list item or chapter heading follows.
    """
    page = page.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "").replace(f"{_SOFT_HYPHEN}\n", _SOFT_HYPHEN)
    lines = [_CJK_GAP.sub("", line.strip()) for line in page.split("\n")]
    lengths = sorted(len(part) for line in lines for part in line.split(_SOFT_HYPHEN) if part)
    long = lengths[int(len(lengths) * 0.9)] if lengths else 0
    joined: list[str] = []
    wrapped = False
    for line in lines:
        if wrapped and line and not _LIST_ITEM.match(line) and not _CHAPTER.match(line):
            tight = re.search(rf"[{_CJK}]$", joined[-1]) and re.match(rf"[{_CJK}]", line)
            joined[-1] += line if tight else f" {line}"
        else:
            joined.append(line)
        chapter = _CHAPTER.match(line)
        last_length = len(line.rsplit(_SOFT_HYPHEN, 1)[-1])
        wrapped = last_length >= _WRAP_SHARE * long > 0 and not chapter and not _LINE_ENDS_SENTENCE.search(line)
    return "\n".join(joined).replace(_SOFT_HYPHEN, "")


def _named_headings(outline: Iterable[tuple[int, str, int | None]]) -> Named:
    """Return the level of each (page, title) of the outline, titles also without their numbering."""
    named: Named = {}
    for level, title, page in outline:
        if page is not None:
            named[page, _squeeze(title)] = level
            named.setdefault((page, _squeeze(_NUMBERING.sub("", title))), level)
    return named


def assemble(pages: Sequence[str], named: Named) -> Parsed:
    """Join ``pages`` and find their headings: lines the outline names, and lines that read 第…章, 节, 条.

    Without an outline the lines that the layout made headings count, if they read like one and are no
    entry of a table of contents. Other ``#`` marks are taken off.
    """
    pages = [without_unseen(page) for page in pages]
    named = named or _listed_headings(pages)
    starts, headings, lines, position = [], [], [], 0
    for number, page in enumerate(pages):
        starts.append(position)
        page_lines = page.split("\n")
        contents = _contents_from(page_lines) if number < _CONTENTS_PAGES else len(page_lines)
        for place, line in enumerate(page_lines):
            marked = _MARKED.fullmatch(line)
            plain = marked[2] if marked else line
            level = _heading_level(number, plain, named)
            if level is None and marked and not named and place < contents and _reads_as_heading(plain):
                level = len(marked[1])
            if level is not None and plain:
                headings.append([position, position + len(plain), level])
            lines.append(plain)
            position += len(plain) + 1
        lines.append("")
        position += 1
    text = "\n".join(lines[:-1])
    return Parsed(text, markdown=False, meta={"page_starts": starts, "headings": headings})


def _listed_headings(pages: Sequence[str]) -> Named:
    """Return the numbered lines that a table of contents lists, by page: an outline for files without one.

    The table may go on over one more page, whose own lines must stand in its first part to count.
    """
    tables = [number for number, page in enumerate(pages[:_CONTENTS_PAGES]) if _lists_contents(page)]
    tables = [number for place, number in enumerate(tables) if number == tables[0] + place]
    if not tables:
        return {}
    last = tables[-1]
    first_part = _squeeze("".join(pages[number] for number in tables))
    listed = first_part + _squeeze("".join(pages[last + 1 : last + 2]))
    named: Named = {}
    for number, page in enumerate(pages[last + 1 :], last + 1):
        for line in page.split("\n"):
            marked = _MARKED.fullmatch(line)
            plain = marked[2] if marked else line.strip()
            numbered = _NUMBERED.match(plain)
            squeezed = _squeeze(plain)
            if numbered and _reads_as_heading(plain) and squeezed in (first_part if number == last + 1 else listed):
                named[number, squeezed] = numbered[1].count(".") + 1
    return named


def _lists_contents(page: str) -> bool:
    lines = page.split("\n")
    return _contents_from(lines) < len(lines)


def _contents_from(lines: Sequence[str]) -> int:
    """Return the place of a page's first line of a table of contents, the number of lines if it has none."""
    entries = [place for place, line in enumerate(lines) if _CONTENTS_LINE.fullmatch(line) and len(line) < 200]
    return entries[0] if len(entries) >= _CONTENTS_LINES else len(lines)


def _reads_as_heading(line: str) -> bool:
    too_long = len(line) > _LONGEST_HEADING
    return not (too_long or _NO_HEADING.match(line) or _LINE_ENDS_SENTENCE.search(line))


def _heading_level(page: int, line: str, named: Named) -> int | None:
    squeezed = _squeeze(line)
    for key in ((page, squeezed), (page, _squeeze(_NUMBERING.sub("", line)))):
        if key in named and key[1]:
            return named[key]
    chapter = _CHAPTER.match(line)
    if chapter and len(line) <= _LONGEST_CHAPTER and not _LINE_ENDS_SENTENCE.search(line):
        return _CHAPTER_LEVEL[chapter[1]]
    return None


def _squeeze(text: str) -> str:
    return "".join(text.split()).casefold()
