"""The child program that reads hostile formats: ``python -m retrieval.parse MEDIA PATH MEMORY_BYTES``.

Prints one JSON object: ``{"title", "text", "page_starts", "headings"}`` or ``{"error", "detail"}``.
Text of HTML comes out as Markdown; ``headings`` are ``[start, end, level]`` spans of a PDF's heading
lines. It limits its own memory before it imports a parser; time is limited by ``load``, which starts
it. It deliberately knows nothing of documents, chunks or the store, and is the only importer of
pypdfium2 and trafilatura.
"""

from __future__ import annotations

import json
import re
import resource
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

_CJK = r"\u3000-\u303f\u3400-\u9fff\uf900-\ufaff\uff00-\uffef"
_CJK_GAP = re.compile(rf"(?<=[{_CJK}])[ \t]+(?=[{_CJK}])")
# PDF text often lost the space after 章; after 条 it tells a heading from the article itself.
_CHAPTER = re.compile(r"第[一二三四五六七八九十百零〇\d]{1,6}([编篇章节]|条(?=[\s　:：]|$))")
_CHAPTER_LEVEL = {"编": 1, "篇": 1, "章": 2, "节": 3, "条": 4}
_LINE_ENDS_SENTENCE = re.compile(r"[.!?。！？:：;；…][\"'”’)）」』]*$")
_LIST_ITEM = re.compile(r"([•·▪‣*–-]|\(?\d{1,3}[.)、]|[a-z][.)]|（?[一二三四五六七八九十]+[、）])\s*\S")
_WRAP_SHARE = 0.7
_LONGEST_CHAPTER = 40
_PLACEHOLDER_TITLES = {"untitled", "(anonymous)", "anonymous"}  # what PDF writers put where nobody gave a title
_SOFT_HYPHEN = "\x02"  # pdfium puts it where a word was hyphenated only for the line break, and joins the lines
_PDFIUM_PASSWORD = 4  # FPDF_ERR_PASSWORD of fpdfview.h


def parse_html(markup: str) -> dict[str, Any]:
    """Return the main content of ``markup`` as Markdown, without navigation and other boilerplate."""
    import trafilatura

    if trafilatura.load_html(markup) is None and re.sub(r"<[^>]*>", "", markup).strip():
        # trafilatura reports damage and want of memory alike, by returning nothing.
        return {"error": "DamagedDocument", "detail": "no HTML tree can be built within the memory limit"}
    found = trafilatura.extract_metadata(markup)
    text = trafilatura.extract(
        markup, output_format="markdown", include_formatting=True, include_comments=False, favor_recall=True
    )
    return {"title": (found.title or "") if found else "", "text": text or trafilatura.html2txt(markup)}


def parse_pdf(path: Path) -> dict[str, Any]:
    """Return the text of a PDF page by page, with lines that the layout broke joined again."""
    import pypdfium2

    try:
        pdf = pypdfium2.PdfDocument(path)
    except pypdfium2.PdfiumError as error:
        encrypted = getattr(error, "err_code", None) == _PDFIUM_PASSWORD
        return {"error": "EncryptedDocument" if encrypted else "DamagedDocument", "detail": str(error)}
    try:
        pages = [join_wrapped_lines(page.get_textpage().get_text_bounded()) for page in pdf]
        outline = [(mark.level + 1, mark.get_title(), _page_of(mark)) for mark in pdf.get_toc()]
        title = str(pdf.get_metadata_dict().get("Title", "")).replace("\x00", "").strip()
    except pypdfium2.PdfiumError as error:
        return {"error": "DamagedDocument", "detail": str(error)}
    finally:
        pdf.close()
    title = "" if title.casefold() in _PLACEHOLDER_TITLES else title
    starts, position = [], 0
    for page in pages:
        starts.append(position)
        position += len(page) + 2
    return {
        "title": title,
        "text": "\n\n".join(pages),
        "page_starts": starts,
        "headings": find_headings(pages, starts, outline),
    }


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


def find_headings(
    pages: Sequence[str], starts: Sequence[int], outline: Iterable[tuple[int, str, int | None]]
) -> list[list[int]]:
    """Return ``[start, end, level]`` of lines that the outline names or that read 第…章, 节, 条."""
    named = {(page, _squeeze(title)): level for level, title, page in outline if page is not None}
    found = []
    for number, page in enumerate(pages):
        position = starts[number]
        for line in page.split("\n"):
            chapter = _CHAPTER.match(line)
            level = named.get((number, _squeeze(line)))
            if level is None and chapter and len(line) <= _LONGEST_CHAPTER and not _LINE_ENDS_SENTENCE.search(line):
                level = _CHAPTER_LEVEL[chapter[1]]
            if level is not None and line:
                found.append([position, position + len(line), level])
            position += len(line) + 1
    return found


def _squeeze(text: str) -> str:
    return "".join(text.split()).casefold()


def main(arguments: Sequence[str]) -> int:
    """Parse one file and print the result; memory beyond the limit ends the process."""
    media, path, memory_bytes = arguments[0], Path(arguments[1]), int(arguments[2])
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        result = parse_pdf(path) if media == "application/pdf" else parse_html(path.read_text(encoding="utf-8"))
    except (MemoryError, RecursionError) as error:
        result = {"error": "ParseTimeout", "detail": f"{type(error).__name__} while parsing"}
    sys.stdout.write(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
