"""Office files, books, web pages, mail and PDFs: structure survives into Markdown, with titles and pages."""

import io
import shutil
import zipfile
from email.message import EmailMessage
from pathlib import Path

import openpyxl
import pptx
import pytest
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.lib.utils import ImageReader
from reportlab.pdfgen import canvas
from reportlab.platypus import BaseDocTemplate, Frame, PageTemplate, Paragraph, SimpleDocTemplate, Table, TableStyle

from data.errors import EncryptedDocument, ScannedDocument
from retrieval.load import Limits, load
from retrieval.parsers.pdf import assemble

pytestmark = pytest.mark.slow

_W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'
_M = 'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math"'
_TYPES = (
    '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Override PartName="/word/document.xml" ContentType='
    '"application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"/>'
    '<Override PartName="/word/styles.xml" ContentType='
    '"application/vnd.openxmlformats-officedocument.wordprocessingml.styles+xml"/></Types>'
)
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_RELATIONS = '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">{}</Relationships>'


def zipped(path: Path, members: dict[str, str | bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as packed:
        for name, content in members.items():
            packed.writestr(name, content)
    return path


def docx(path: Path, body: str) -> Path:
    main = f'<Relationship Id="r1" Type="{_OFFICE}/officeDocument" Target="word/document.xml"/>'
    styles = f'<Relationship Id="r1" Type="{_OFFICE}/styles" Target="styles.xml"/>'
    named = "".join(
        f'<w:style w:type="paragraph" w:styleId="Heading{n}"><w:name w:val="heading {n}"/></w:style>' for n in (1, 2)
    )
    return zipped(
        path,
        {
            "[Content_Types].xml": _TYPES,
            "_rels/.rels": _RELATIONS.format(main),
            "word/_rels/document.xml.rels": _RELATIONS.format(styles),
            "word/styles.xml": f"<w:styles {_W}>{named}</w:styles>",
            "word/document.xml": f"<w:document {_W} {_M}><w:body>{body}</w:body></w:document>",
        },
    )


def paragraph(text: str, style: str = "") -> str:
    properties = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{properties}<w:r><w:t>{text}</w:t></w:r></w:p>"


def test_word_keeps_headings_tables_and_equations(tmp_path: Path) -> None:
    cell = "<w:tc>{}</w:tc>".format
    rows = [["Bird", "Eggs"], ["Duck", "9"]]
    table = "".join("<w:tr>" + "".join(cell(paragraph(text)) for text in row) + "</w:tr>" for row in rows)
    equation = "<w:p><m:oMath><m:r><m:t>E=mc²</m:t></m:r></m:oMath></w:p>"
    body = paragraph("Birds", "Heading1") + paragraph("中文正文。") + f"<w:tbl>{table}</w:tbl>" + equation
    loaded = load(docx(tmp_path / "a.docx", body + paragraph("Ducks", "Heading2") + paragraph("They swim.")))
    assert loaded.title == "Birds"
    assert loaded.meta["markup"] == "markdown"
    assert loaded.text == (
        "# Birds\n\n中文正文。\n\n| Bird | Eggs |\n| --- | --- |\n| Duck | 9 |\n\nE=mc²\n\n## Ducks\n\nThey swim."
    )


def test_slides_are_sections_with_their_tables_and_notes(tmp_path: Path) -> None:
    deck = pptx.Presentation()
    slide = deck.slides.add_slide(deck.slide_layouts[5])
    slide.shapes.title.text = "Results"
    grid = slide.shapes.add_table(2, 2, 0, 3_000_000, 4_000_000, 1_000_000).table
    for place, text in enumerate(["City", "Rain", "Bergen", "2250 mm"]):
        grid.cell(place // 2, place % 2).text = text
    slide.shapes.add_textbox(0, 2_000_000, 10, 10).text_frame.text = "Measured in 2024"
    slide.notes_slide.notes_text_frame.text = "Say it slowly."
    deck.slides.add_slide(deck.slide_layouts[6])
    deck.save(str(tmp_path / "a.pptx"))
    text = load(tmp_path / "a.pptx").text
    assert text == (
        "## Slide 1: Results\n\nMeasured in 2024\n\n| City | Rain |\n| --- | --- |\n| Bergen | 2250 mm |\n\n"
        "Notes: Say it slowly.\n\n## Slide 2"
    )


def test_a_workbook_has_a_section_for_each_sheet(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    book.active.title = "价格"
    for row in [["Item", "Price", None], [None, None, None], ["Tea | green", 3.5, None], ["Rice", 2.0, None]]:
        book.active.append(row)
    book.create_sheet("Empty")
    book.save(tmp_path / "a.xlsx")
    loaded = load(tmp_path / "a.xlsx")
    assert loaded.text == "## 价格\n\n| Item | Price |\n| --- | --- |\n| Tea \\| green | 3.5 |\n| Rice | 2 |"


def epub(path: Path, *, entities: str = "", protected: bool = False) -> Path:
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf"><metadata xmlns:dc="http://purl.org/dc/elements/1.1/">'
        "<dc:title>鸭子的书</dc:title></metadata><manifest>"
        '<item id="b" href="two.xhtml" media-type="application/xhtml+xml"/>'
        '<item id="a" href="one%20first.xhtml" media-type="application/xhtml+xml"/>'
        '<item id="n" href="nav.xhtml" media-type="application/xhtml+xml" properties="nav"/></manifest>'
        '<spine><itemref idref="n"/><itemref idref="a"/><itemref idref="b"/></spine></package>'
    )
    container = '<container><rootfiles><rootfile full-path="OEBPS/a.opf"/></rootfiles></container>'
    members: dict[str, str | bytes] = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": entities + container,
        "OEBPS/a.opf": package,
        "OEBPS/one first.xhtml": "<html><body><h1>One</h1><p>The first.</p></body></html>",
        "OEBPS/two.xhtml": "<html><body><h1>Two</h1><p>The second.</p></body></html>",
        "OEBPS/nav.xhtml": "<html><body><p>Contents</p></body></html>",
    }
    if protected:
        method = '<EncryptionMethod Algorithm="http://www.w3.org/2001/04/xmlenc#aes128-cbc"/>'
        members["META-INF/encryption.xml"] = f"<encryption>{method}</encryption>"
    return zipped(path, members)


def test_a_book_is_read_in_the_order_of_its_spine(tmp_path: Path) -> None:
    loaded = load(epub(tmp_path / "a.epub"))
    assert (loaded.title, loaded.media_type) == ("鸭子的书", "application/epub+zip")
    assert loaded.text == "# One\n\nThe first.\n\n# Two\n\nThe second."


def test_a_protected_book_says_so(tmp_path: Path) -> None:
    with pytest.raises(EncryptedDocument):
        load(epub(tmp_path / "a.epub", protected=True))


def test_tables_of_a_page_keep_caption_and_inner_table(tmp_path: Path) -> None:
    inner = "<table><tr><th>Type</th><th>Sound</th></tr><tr><td>Short</td><td>quak</td></tr></table>"
    words = "Ducks are birds that live on fresh water and on sea water alike. " * 4
    page = (
        f"<html><body><article><h1>Ducks</h1><p>{words}</p><table><caption>Basic facts</caption>"
        f"<tr><th>Name</th><th>Comment</th></tr><tr><td>Mallard</td><td>Says: {inner}</td></tr>"
        f"<tr><td>Teal</td><td>Small</td></tr></table><p>{words}</p></article></body></html>"
    )
    (tmp_path / "a.html").write_text(page)
    text = load(tmp_path / "a.html").text
    outer = "Basic facts\n\n| Name | Comment |\n| --- | --- |\n| Mallard | Says: |\n| Teal | Small |"
    assert outer + "\n\n| Type | Sound |\n| --- | --- |\n| Short | quak |" in text


@pytest.mark.parametrize("span", ["²", "9" * 5000, "two", "-1", "0", ""])
def test_a_span_that_is_no_number_costs_no_document(tmp_path: Path, span: str) -> None:
    path = tmp_path / "page.html"
    words = "Ducks live on ponds and rivers, where they look for food in the mud. " * 5
    rows = f'<tr><td colspan="{span}">Sound</td><td rowspan="{span}">quak</td></tr><tr><td>Food</td><td>reed</td></tr>'
    path.write_text(f"<html><body><article><p>{words}</p><table>{rows}</table></article></body></html>", "utf-8")
    assert "quak" in load(path).text


def test_a_malformed_message_inside_another_is_named_and_the_rest_is_read(tmp_path: Path) -> None:
    """Found by fuzzing: the library cannot write again what it read."""
    inner = 'Subject: in\nContent-Type: multipart/x; boundary="b"\n\n--b中\n\nlost\n--b--\n'
    head = "From: a@example.org\nSubject: Out\nDate: Mon, 30 Nov 2026 09:00:00 +0000\nMIME-Version: 1.0\n"
    parts = f"--o\n\nThe body.\n--o\nContent-Type: message/rfc822\n\n{inner}\n--o--\n"
    (tmp_path / "a.eml").write_bytes(f'{head}Content-Type: multipart/mixed; boundary="o"\n\n{parts}'.encode())
    loaded = load(tmp_path / "a.eml")
    assert "The body." in loaded.text
    assert [row["error"] for row in loaded.meta["attachments"]] == ["damaged-document"]


def test_a_body_in_an_encoding_that_is_none_of_texts_is_read_all_the_same(tmp_path: Path) -> None:
    """Punycode's decoder raises UnicodeError, which is no UnicodeDecodeError."""
    head = "From: a@example.org\nSubject: S\nDate: Mon, 30 Nov 2026 09:00:00 +0000\n"
    (tmp_path / "a.eml").write_text(f"{head}Content-Type: text/plain; charset=punycode\n\nThe body.\n")
    loaded = load(tmp_path / "a.eml")
    assert loaded.media_type == "message/rfc822"
    assert "The body." in loaded.text


def test_a_message_whose_date_is_beyond_all_calendars_is_read_without_it(tmp_path: Path) -> None:
    """Found by fuzzing: Python's own reader of headers overflows."""
    year = "9" * 20
    (tmp_path / "far.eml").write_text(f"Subject: Far\nDate: Mon, 30 Nov {year} 09:00:00 +0000\n\nThe body.\n")
    loaded = load(tmp_path / "far.eml")
    assert "The body." in loaded.text
    assert "date" not in loaded.meta


@pytest.mark.parametrize("control", ["\x12", "&#x12;", "\x0b"])
def test_a_page_with_a_control_character_behind_a_table_is_read(tmp_path: Path, control: str) -> None:
    """Found by fuzzing: lxml reads it, and refuses to move it."""
    rows = "".join(f"<tr><td>{n}</td><td>duck</td></tr>" for n in range(4))
    main = f"<p>{'Words. ' * 30}</p><table>{rows}</table>after{control}wards"
    (tmp_path / "a.html").write_text(f"<html><body><article>{main}</article></body></html>", "utf-8")
    text = load(tmp_path / "a.html").text
    assert "| 2 | duck |" in text
    assert "after" in text


def test_a_page_in_an_encoding_that_is_none_of_texts_is_read_all_the_same(tmp_path: Path) -> None:
    page = b'<html><head><meta charset="punycode"></head><body><p>' + b"The ducks quack. " * 9 + b"</p></body></html>"
    (tmp_path / "a.html").write_bytes(page)
    assert "ducks quack" in load(tmp_path / "a.html").text


def test_mail_brings_its_attachments_along_or_names_them(tmp_path: Path) -> None:
    message = EmailMessage()
    message["Subject"], message["From"], message["Date"] = "预算", "a@example.org", "Mon, 03 Jun 2024 10:00:00 +0200"
    message.set_content("Please see the table.\n")
    message.add_alternative("<p>Please see the <b>table</b>.</p>", subtype="html")
    message.add_attachment(b"a,b\n1,2\n", maintype="text", subtype="csv", filename="t.csv")
    message.add_attachment(b"\x00\x01" * 99, maintype="application", subtype="x-thing", filename="x.bin")
    (tmp_path / "a.eml").write_bytes(message.as_bytes())
    loaded = load(tmp_path / "a.eml")
    assert loaded.title == "预算"
    assert loaded.meta["date"] == "2024-06-03T10:00:00+02:00"
    assert "## Attachment: t.csv\n\n| a | b |\n| --- | --- |\n| 1 | 2 |" in loaded.text
    assert [item["name"] for item in loaded.meta["attachments"]] == ["t.csv", "x.bin"]
    assert loaded.meta["attachments"][1]["error"] == "unsupported-media"
    assert loaded.text.count("Please see the table.") == 1


def test_two_columns_are_read_one_after_the_other(tmp_path: Path) -> None:
    left, middle, right = A4[0] / 2 - 60, 760, A4[0] / 2 + 10
    document = BaseDocTemplate(str(tmp_path / "a.pdf"), pagesize=A4)
    frames = [Frame(40, 40, left, middle), Frame(right, 40, left, middle)]
    document.addPageTemplates(PageTemplate(frames=frames))
    style = getSampleStyleSheet()["BodyText"]
    words = [f"Sentence number {n} tells of the bridge over the river and of its many repairs." for n in range(60)]
    document.build([Paragraph(line, style) for line in words])
    text = " ".join(load(tmp_path / "a.pdf").text.split())
    places = [text.index(f"number {n} tells") for n in range(60)]
    assert places == sorted(places)


def test_a_ruled_table_of_a_pdf_becomes_a_table(tmp_path: Path) -> None:
    rows = [["City", "Inhabitants", "River"], ["Hamburg", "1900000", "Elbe"], ["Bremen", "570000", "Weser"]]
    grid = Table(rows, style=TableStyle([("GRID", (0, 0), (-1, -1), 1, "black")]))
    before = Paragraph("The following cities lie on rivers.", getSampleStyleSheet()["BodyText"])
    SimpleDocTemplate(str(tmp_path / "a.pdf")).build([before, grid])
    rows_read = [line.replace(" ", "") for line in load(tmp_path / "a.pdf").text.split("\n") if line.startswith("|")]
    assert "|Hamburg|1900000|Elbe|" in rows_read
    assert "|City|Inhabitants|River|" in rows_read


def test_running_headers_and_page_numbers_go(tmp_path: Path) -> None:
    pdf = canvas.Canvas(str(tmp_path / "a.pdf"))
    for page in range(1, 7):
        pdf.drawString(72, 800, "ACME Handbook")
        pdf.drawString(72, 600, f"Chapter text {'abcdef'[page - 1]} stands here alone.")
        pdf.drawString(72, 30, f"Page {page} of 6")
        pdf.showPage()
    pdf.save()
    loaded = load(tmp_path / "a.pdf")
    assert "ACME" not in loaded.text
    assert "Page 3" not in loaded.text
    assert [loaded.text[start:][:14] for start in loaded.page_starts] == [f"Chapter text {c}" for c in "abcdef"]


def scan(path: Path, text: str) -> Path:
    """Make a PDF of two pages: one of text, and one that is only a picture of ``text``."""
    import pypdfium2

    source = io.BytesIO()
    drawn = canvas.Canvas(source)
    drawn.setFont("Helvetica", 28)
    drawn.drawString(72, 700, text)
    drawn.save()
    picture = pypdfium2.PdfDocument(source.getvalue())[0].render(scale=2).to_pil()
    pdf = canvas.Canvas(str(path))
    pdf.drawString(72, 700, "This page has text of its own, quite enough of it.")
    pdf.showPage()
    pdf.drawImage(ImageReader(picture), 0, 0, *A4)
    pdf.save()
    return path


def test_scanned_pages_among_others_are_named(tmp_path: Path) -> None:
    loaded = load(scan(tmp_path / "a.pdf", "Invoice 4711"), limits=Limits(ocr="off"))
    assert loaded.meta["scanned_pages"] == [2]
    assert "ocr_pages" not in loaded.meta


def test_a_scan_says_that_it_is_one(tmp_path: Path) -> None:
    import pypdf

    writer = pypdf.PdfWriter()
    writer.append(scan(tmp_path / "a.pdf", "Invoice 4711"), pages=(1, 2))
    writer.write(tmp_path / "b.pdf")
    with pytest.raises(ScannedDocument) as raised:
        load(tmp_path / "b.pdf", limits=Limits(ocr="off"))
    assert "Tesseract" in raised.value.hint


@pytest.mark.skipif(not shutil.which("tesseract"), reason="needs Tesseract: apt-get install tesseract-ocr")
def test_tesseract_reads_a_scanned_page(tmp_path: Path) -> None:
    loaded = load(scan(tmp_path / "a.pdf", "Invoice 4711"))
    assert loaded.meta["ocr_pages"] == [2]
    assert "scanned_pages" not in loaded.meta
    assert "Invoice 4711" in loaded.text[loaded.page_starts[1] :]


def test_entries_of_a_table_of_contents_are_no_headings() -> None:
    pages = [
        "# Guide\n\n### 1. Language 2\n\n### 2. Structure 2\n\n2.1 Commas 3\n\n### 3. Sources",
        "1. Language\n\nPlain words.\n\n### It ends like a sentence, so it is one.\n\n1. an item of a list",
        "2. Structure\n\nMore words.\n\n2.1 Commas\n\n### ● an item of a list\n\n3. Sources",
    ]
    parsed = assemble(pages, {})
    found = [(parsed.text[start:end], level) for start, end, level in parsed.meta["headings"]]
    assert found == [("1. Language", 1), ("2. Structure", 1), ("2.1 Commas", 2), ("3. Sources", 1)]


def test_layout_headings_count_where_nothing_lists_them() -> None:
    page = "# Guide\n\nWords.\n\n### It ends like a sentence, so it is one.\n\n### ● an item\n\n## Part two"
    parsed = assemble([page], {})
    assert [parsed.text[start:end] for start, end, _ in parsed.meta["headings"]] == ["Guide", "Part two"]
