import io
import time
from collections.abc import Callable
from pathlib import Path

import pypdf
import pytest
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.cidfonts import UnicodeCIDFont
from reportlab.pdfgen import canvas

from data.errors import (
    DamagedDocument,
    DocumentTooLarge,
    EmptyDocument,
    EncryptedDocument,
    InvalidRequest,
    ParseTimeout,
    RagtuneError,
    UnsupportedMedia,
)
from retrieval.load import Limits, find_files, load
from retrieval.text import decode

Pages = list[list[str]]
MakePdf = Callable[..., Path]
PARAGRAPH = [
    "The committee met in the old town hall on the first Monday of every month and",
    "discussed the repairs of the bridge, which had been closed since the great flood of",
    "1897 and was now used by nobody.",
]


@pytest.fixture
def make_pdf(tmp_path: Path) -> MakePdf:
    """Draws lines of text page by page, with an optional outline, title and password."""

    def make(
        pages: Pages, *, title: str = "", outline: dict[int, str] | None = None, font: str = "", password: str = ""
    ) -> Path:
        buffer = io.BytesIO()
        pdf = canvas.Canvas(buffer)
        if title:
            pdf.setTitle(title)
        if font:
            pdfmetrics.registerFont(UnicodeCIDFont(font))
        for number, lines in enumerate(pages):
            pdf.setFont(font or "Helvetica", 11)
            for row, line in enumerate(lines):
                pdf.drawString(72, 760 - 16 * row, line)
            if outline and number in outline:
                pdf.bookmarkPage(f"page{number}")
                pdf.addOutlineEntry(outline[number], f"page{number}", 0)
            pdf.showPage()
        pdf.save()
        writer = pypdf.PdfWriter(clone_from=pypdf.PdfReader(io.BytesIO(buffer.getvalue())))
        if password:
            writer.encrypt(password, algorithm="RC4-128")
        path = tmp_path / "made.pdf"
        with path.open("wb") as file:
            writer.write(file)
        return path

    return make


def write(folder: Path, name: str, content: bytes | str) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_markdown_keeps_its_text_and_takes_its_title_from_the_first_heading(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, "a.md", "# The Title\r\n\r\nText *here*.\r\n"))
    assert loaded.title == "The Title"
    assert loaded.text == "# The Title\n\nText *here*.\n"
    assert loaded.media_type == "text/markdown"


def test_front_matter_gives_the_title(tmp_path: Path) -> None:
    assert load(write(tmp_path, "a.md", "---\nlayout: x\ntitle: 'Named'\n---\n# Other\n")).title == "Named"


def test_text_is_titled_by_its_file_name(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, "notes 2024.txt", "Some notes."), source="folder/notes 2024.txt")
    assert (loaded.title, loaded.media_type, loaded.page_starts) == ("notes 2024", "text/plain", ())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gb18030"])
def test_chinese_is_read_in_every_usual_encoding(tmp_path: Path, encoding: str) -> None:
    text = "检索增强生成把相关段落放进提示词。2024年，第一版。\n"
    assert load(write(tmp_path, "a.txt", text.encode(encoding))).text == text


def test_latin_1_is_not_taken_for_chinese() -> None:
    text = "Élan, naïve façade — œuvre: café à l'été, Ærø and Øystein's smörgåsbord."
    assert decode(text.encode("cp1252")) == text


def test_html_loses_its_boilerplate_and_keeps_headings(tmp_path: Path) -> None:
    sentence = "Ducks are mostly aquatic birds, and may be found in both fresh water and sea water. "
    page = (
        "<!DOCTYPE html><html><head><title>Duck - Encyclopedia</title><script>var hidden=1</script></head><body>"
        "<nav><a href='/'>Home</a><a href='/x'>Login</a></nav><article><h1>Duck</h1>"
        f"<p>{sentence * 3}</p><h2>Feeding</h2><p>{sentence * 3}</p></article>"
        "<footer>Cookies</footer></body></html>"
    )
    loaded = load(write(tmp_path, "duck", page))
    assert loaded.media_type == "text/html"
    assert loaded.title == "Duck"
    assert "## Feeding" in loaded.text
    assert "aquatic birds" in loaded.text
    assert "hidden" not in loaded.text
    assert "Login" not in loaded.text


def test_html_in_its_declared_charset(tmp_path: Path) -> None:
    page = "<html><head><meta charset='gbk'><title>词</title></head><body><p>中文网页的正文。</p></body></html>"
    assert "中文网页的正文" in load(write(tmp_path, "a.html", page.encode("gbk"))).text


def test_pdf_pages_begin_where_they_say(make_pdf: MakePdf) -> None:
    loaded = load(make_pdf([["First page."], ["Second page."], ["Third page."]], title="Three Pages"))
    assert loaded.title == "Three Pages"
    assert loaded.media_type == "application/pdf"
    assert [loaded.text[start:].split()[0] for start in loaded.page_starts] == ["First", "Second", "Third"]


def test_lines_that_the_pdf_layout_broke_are_joined(make_pdf: MakePdf) -> None:
    text = load(make_pdf([[*PARAGRAPH, "- an item", "- another item"]])).text
    assert "every month and discussed" in text
    assert "great flood of 1897" in text
    assert "\n- an item\n- another item" in text


def test_outline_entries_become_headings(make_pdf: MakePdf) -> None:
    loaded = load(make_pdf([["Opening", *PARAGRAPH], ["Closing Words", *PARAGRAPH]], outline={1: "Closing Words"}))
    headings = [(loaded.text[start:end], level) for start, end, level in loaded.meta["headings"]]
    assert headings == [("Closing Words", 1)]


def test_chinese_chapters_become_headings(make_pdf: MakePdf) -> None:
    lines = ["第一章 总则", "为了规范本站的使用，制定本规定。", "第二章 附则", "本规定自公布之日起施行。"]
    loaded = load(make_pdf([lines], font="STSong-Light"))
    headings = [loaded.text[start:end] for start, end, _ in loaded.meta["headings"]]
    assert headings == ["第一章总则", "第二章附则"]
    assert "为了规范本站的使用，制定本规定。" in loaded.text


def test_an_encrypted_pdf_says_so(make_pdf: MakePdf) -> None:
    with pytest.raises(EncryptedDocument) as raised:
        load(make_pdf([["Secret."]], password="open sesame"))
    assert "password" in raised.value.hint


def test_a_pdf_without_text_asks_for_ocr(make_pdf: MakePdf) -> None:
    with pytest.raises(EmptyDocument) as raised:
        load(make_pdf([[], []]))
    assert "OCR" in raised.value.hint


def test_a_cut_pdf_is_damaged(make_pdf: MakePdf, tmp_path: Path) -> None:
    whole = make_pdf([["Text."]]).read_bytes()
    with pytest.raises(DamagedDocument):
        load(write(tmp_path, "cut.pdf", whole[:40]))


def test_bytes_called_pdf_are_damaged(tmp_path: Path) -> None:
    with pytest.raises(DamagedDocument):
        load(write(tmp_path, "no.pdf", "just text"))


def test_a_pdf_is_known_by_content_whatever_its_name(make_pdf: MakePdf, tmp_path: Path) -> None:
    assert load(make_pdf([["Hidden."]]).rename(tmp_path / "x.txt")).media_type == "application/pdf"


@pytest.mark.parametrize("content", [b"", b"  \n\t\n", b"\xef\xbb\xbf\n"])
def test_a_file_without_text_is_empty(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(EmptyDocument):
        load(write(tmp_path, "a.txt", content))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.bin", bytes(range(256)) * 4),
        ("a.dat", "表の文字".encode("shift-jis")),
        ("a.png", b"\x89PNG\r\n\x1a\n\x00\x00"),
        ("a.rtf", b"{\\rtf1\\ansi Hello}"),
    ],
)
def test_what_no_loader_reads_is_unsupported(tmp_path: Path, name: str, content: bytes) -> None:
    with pytest.raises(UnsupportedMedia) as raised:
        load(write(tmp_path, name, content), source="folder/" + name)
    assert raised.value.got == "folder/" + name
    assert "PDF" in raised.value.wanted
    assert raised.value.hint


def test_other_utf_8_text_is_plain_text(tmp_path: Path) -> None:
    assert load(write(tmp_path, "a.unknown", "a,b\n1,2\n")).media_type == "text/plain"


def test_a_file_over_the_limit_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "big.txt"
    with path.open("wb") as file:
        file.truncate(200 * 2**20)
    with pytest.raises(DocumentTooLarge) as raised:
        load(path)
    assert raised.value.status == 413


def test_an_unreadable_file_says_why(tmp_path: Path) -> None:
    with pytest.raises(RagtuneError) as raised:
        load(tmp_path / "gone.txt")
    assert raised.value.type == "unreadable-document"


def test_a_slow_parser_is_killed(tmp_path: Path) -> None:
    path = write(tmp_path, "slow.html", "<html><body>" + "<div><p>text " * 3000 + "</body></html>")
    started = time.monotonic()
    with pytest.raises(ParseTimeout):
        load(path, limits=Limits(timeout_s=0.01))
    assert time.monotonic() - started < 10


def test_a_parser_that_wants_too_much_memory_fails_alone(tmp_path: Path) -> None:
    path = write(tmp_path, "a.html", "<html><body>" + "<p>some words here</p>" * 200_000 + "</body></html>")
    with pytest.raises((ParseTimeout, DamagedDocument)):
        load(path, limits=Limits(memory_bytes=90 * 2**20))


def test_files_are_found_by_source(tmp_path: Path) -> None:
    (tmp_path / "sub" / ".git").mkdir(parents=True)
    for name in ("b.md", "sub/a.md", ".hidden", "sub/.git/config"):
        write(tmp_path, name, "x")
    alone = write(tmp_path.parent, "alone.txt", "x")
    assert [source for _, source in find_files([tmp_path, alone])] == ["alone.txt", "b.md", "sub/a.md"]


def test_two_files_of_one_name_keep_apart(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write(tmp_path / folder, "README.md", folder)
    sources = [source for _, source in find_files([tmp_path / "one", tmp_path / "two"])]
    assert len(set(sources)) == 2


def test_a_file_given_twice_is_found_once(tmp_path: Path) -> None:
    path = write(tmp_path, "a.md", "x")
    assert len(find_files([path, tmp_path, str(path)])) == 1


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_no_file_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest):
        find_files([tmp_path / name])
