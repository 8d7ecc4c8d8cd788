"""Which parser reads which media type."""

from __future__ import annotations

from data.errors import UnsupportedMedia
from retrieval import sniff
from retrieval.parsers.parsed import Budget, Parsed, check_size
from retrieval.text import decode


def parse(raw: bytes, media_type: str, budget: Budget, depth: int = 0) -> Parsed:  # noqa: PLR0911
    """Parse ``raw`` as ``media_type``; libraries are imported only when their format comes.

    Raises:
        UnreadableDocument: it cannot be read.
    """
    if media_type == sniff.PDF:
        from retrieval.parsers.pdf import parse_pdf

        return parse_pdf(raw, budget)
    if media_type == sniff.HTML:
        from retrieval.parsers.web import parse_html

        return parse_html(raw)
    if media_type in {sniff.DOCX, sniff.PPTX}:
        from retrieval.parsers.office import parse_docx, parse_pptx

        return (parse_docx if media_type == sniff.DOCX else parse_pptx)(raw, budget)
    if media_type in {sniff.XLSX, sniff.XLS, sniff.ODS, sniff.CSV, sniff.TSV}:
        return _table(raw, media_type, budget)
    if media_type == sniff.EPUB:
        from retrieval.parsers.book import parse_epub

        return parse_epub(raw, budget)
    if media_type == sniff.RST:
        from retrieval.parsers.rst import parse_rst

        return parse_rst(raw, budget)
    if media_type == sniff.EMAIL:
        from retrieval.parsers.mail import parse_email

        return parse_email(raw, budget, parse_named, depth)
    return _structured(raw, media_type, budget)


def _table(raw: bytes, media_type: str, budget: Budget) -> Parsed:
    from retrieval.parsers.sheets import parse_delimited, parse_workbook

    if media_type in {sniff.CSV, sniff.TSV}:
        return parse_delimited(raw, budget, delimiter="\t" if media_type == sniff.TSV else "")
    return parse_workbook(raw, budget)


def _structured(raw: bytes, media_type: str, budget: Budget) -> Parsed:
    from retrieval.parsers.structured import parse_json, parse_json_lines, parse_notebook

    parsers = {sniff.JSON: parse_json, sniff.JSONL: parse_json_lines, sniff.NOTEBOOK: parse_notebook}
    if media_type in parsers:
        return parsers[media_type](raw, budget)
    if media_type == sniff.ZIP:
        raise UnsupportedMedia("An archive inside a message is not opened.", hint="Save it and ingest it by itself.")
    text = decode(raw)
    check_size(len(text), budget)
    return Parsed(text, markdown=media_type == sniff.MARKDOWN)


def parse_named(raw: bytes, name: str, budget: Budget, depth: int) -> Parsed:
    """Parse a file that came inside another one, by its content and name.

    Raises:
        UnreadableDocument: it cannot be read.
    """
    return parse(raw, sniff.sniff(raw, name).media_type, budget, depth)
