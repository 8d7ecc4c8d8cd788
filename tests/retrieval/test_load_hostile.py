"""Hostile and broken files: each costs a typed error, never the process; archives and folders too."""

import contextlib
import io
import os
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from data.errors import (
    DamagedDocument,
    DecompressionBomb,
    DocumentTooLarge,
    EncryptedDocument,
    FileChanged,
    ParseTimeout,
    UnreadableDocument,
    UnsupportedMedia,
)
from retrieval import reading
from retrieval.child import Parsers
from retrieval.load import Content, Limits, expand, find_files, is_archive, load, parse, read

pytestmark = pytest.mark.slow


def packed(members: dict[str, bytes], level: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", level) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def content(data: bytes, name: str = "a.zip") -> Content:
    return Content(name, data, 0.0)


@pytest.fixture
def parsers() -> Iterator[Parsers]:
    with Parsers() as made:
        yield made


WORKBOOK = {
    "[Content_Types].xml": b"<Types/>",
    "xl/workbook.xml": b"<workbook/>",
}


def test_an_archive_yields_its_files_and_those_of_archives_in_it() -> None:
    inner = packed({"deep.md": "# 深".encode()})
    data = packed(
        {"a/one.md": b"# One", "in.zip": inner, ".hidden": b"x", "__MACOSX/a": b"x", "bad.zip": b"PK\x03\x04"}
    )
    assert is_archive(content(data))
    found = list(expand(content(data)))
    documents = {item.source: parse(item).title for item in found if isinstance(item, Content)}
    assert documents == {"a.zip/a/one.md": "One", "a.zip/in.zip/deep.md": "深"}
    errors = [item for item in found if isinstance(item, UnreadableDocument)]
    assert [(error.type, error.got) for error in errors] == [("damaged-document", "a.zip/bad.zip")]


def test_a_file_that_is_no_archive_expands_to_itself() -> None:
    alone = content(b"words", "a.txt")
    assert list(expand(alone)) == [alone]


def test_an_archive_is_no_single_document() -> None:
    with pytest.raises(UnsupportedMedia):
        parse(content(packed({"a.md": b"x"})))


def test_member_names_do_not_lead_out_of_the_archive() -> None:
    found = [
        item.source
        for item in expand(content(packed({"../../evil.md": b"x", "/abs.md": b"y"})))
        if isinstance(item, Content)
    ]
    assert found == ["a.zip/evil.md", "a.zip/abs.md"]


def test_chinese_member_names_of_old_archives_are_read() -> None:
    name = "规章制度.md"
    data = packed({"x" * len(name.encode("gbk")): b"text"}).replace(b"x" * len(name.encode("gbk")), name.encode("gbk"))
    assert [item.source for item in expand(content(data)) if isinstance(item, Content)] == [f"a.zip/{name}"]


def test_an_encrypted_member_fails_alone() -> None:
    data = bytearray(packed({"secret.md": b"x", "open.md": b"words"}))
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    first, second = expand(content(bytes(data)))
    assert isinstance(first, EncryptedDocument)
    assert isinstance(second, Content)


@pytest.mark.parametrize(
    ("members", "limits"),
    [
        ({"zeros.txt": b"0" * 40_000_000}, Limits()),
        ({"a.md": b"x" * 1000, "b.md": b"y" * 1000}, Limits(max_unpacked=1500)),
        ({f"{n}.md": b"x" for n in range(50)}, Limits(max_members=20)),
        ({"[Content_Types].xml": b"<Types/>", "xl/workbook.xml": b" " * 40_000_000}, Limits()),
    ],
    ids=["ratio", "bytes", "members", "office"],
)
def test_bombs_are_refused(members: dict[str, bytes], limits: Limits) -> None:
    file = content(packed(members))
    with pytest.raises(DecompressionBomb) as raised:
        [parse(item, limits=limits) for item in expand(file, limits=limits) if isinstance(item, Content)]
    assert raised.value.hint


def test_archives_nested_too_deep_are_refused() -> None:
    data = packed({"a.md": b"text"})
    for _ in range(5):
        data = packed({"in.zip": data})
    (only,) = expand(content(data))
    assert isinstance(only, DecompressionBomb)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entity_bombs_are_refused(encoding: str) -> None:
    bomb = '<?xml version="1.0"?><!DOCTYPE l [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;">]><l>&b;</l>'
    with pytest.raises(DecompressionBomb):
        parse(content(packed(WORKBOOK | {"xl/sharedStrings.xml": bomb.encode(encoding)}), "a.xlsx"))


@pytest.mark.parametrize(
    ("name", "members"),
    [
        ("a.docx", {"[Content_Types].xml": b"<Types/>", "word/document.xml": b"<nothing"}),
        ("a.pptx", {"[Content_Types].xml": b"<Types/>", "ppt/presentation.xml": b""}),
        ("a.xlsx", WORKBOOK),
        ("a.epub", {"mimetype": b"application/epub+zip", "META-INF/container.xml": b"<c/>"}),
    ],
)
def test_office_files_with_nothing_in_them_are_damaged(name: str, members: dict[str, bytes]) -> None:
    with pytest.raises((DamagedDocument, UnreadableDocument)) as raised:
        parse(content(packed(members), name))
    assert raised.value.got == name


def test_a_cut_office_file_is_damaged() -> None:
    whole = packed(WORKBOOK | {"xl/media/x": os.urandom(3000)})
    with pytest.raises(UnreadableDocument):
        parse(content(whole[:-200], "a.xlsx"))


def test_an_encrypted_office_file_says_so() -> None:
    entry = "EncryptedPackage".encode("utf-16-le").ljust(128, b"\x00")
    data = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1".ljust(512, b"\x00") + b"\x00" * 128 + entry
    with pytest.raises(EncryptedDocument) as raised:
        parse(content(data, "a.docx"))
    assert "password" in raised.value.hint


def test_a_wrong_extension_is_seen_through(tmp_path: Path) -> None:
    path = tmp_path / "page.docx"
    path.write_text("<!doctype html><html><body><p>Just a page of words.</p></body></html>")
    loaded = load(path)
    assert (loaded.media_type, loaded.meta["mismatch"]) == ("text/html", ".docx")


def test_more_text_than_the_limit_is_refused() -> None:
    rows = b"some,words\n" * 5000
    with pytest.raises(DocumentTooLarge):
        parse(content(rows, "a.csv"), limits=Limits(max_text=10_000))


def test_deep_json_and_deep_html_end_well() -> None:
    assert parse(content(b"[" * 100_000 + b"1" + b"]" * 100_000, "a.json")).text
    deep = b"<html><body>" + b"<div>" * 50_000 + b"the words inside" + b"</div>" * 50_000 + b"</body></html>"
    with contextlib.suppress(DamagedDocument, ParseTimeout):
        assert "words" in parse(content(deep, "a.html")).text


def test_a_child_that_was_stopped_is_replaced(parsers: Parsers) -> None:
    table = content(b"a,b\n1,2\n", "a.csv")
    slow = content(b'"' + b"x," * 4_000_000 + b'"\n' + b"y," * 4_000_000, "slow.csv")
    assert parse(table, parsers=parsers).text
    with pytest.raises((ParseTimeout, DamagedDocument, DocumentTooLarge)):
        parse(slow, limits=Limits(timeout_s=0.2), parsers=parsers)
    assert parse(table, parsers=parsers).text


def test_a_sparse_sheet_that_needs_all_memory_fails_alone(parsers: Parsers, tmp_path: Path) -> None:
    import openpyxl

    book = openpyxl.Workbook()
    book.active["A1"], book.active["XFD1048576"] = "first", "last"
    book.save(tmp_path / "a.xlsx")
    limits = Limits(memory_bytes=512 * 2**20, timeout_s=20)
    with pytest.raises(UnreadableDocument):
        load(tmp_path / "a.xlsx", limits=limits, parsers=parsers)
    assert parse(content(b"a,b\n1,2\n", "a.csv"), limits=limits, parsers=parsers).text


def test_threads_parse_side_by_side(parsers: Parsers) -> None:
    done: list[str] = []

    def work(number: int) -> None:
        done.extend(parse(content(f"a,b\n{number},{n}\n".encode(), "a.csv"), parsers=parsers).text for n in range(5))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(done)) == 15


def test_a_file_that_keeps_changing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "log.txt"
    path.write_text("first")
    real, calls = os.fstat, []

    def grows(descriptor: int) -> os.stat_result:
        calls.append(descriptor)
        with path.open("a") as file:
            file.write("more")
        return real(descriptor)

    monkeypatch.setattr(reading.os, "fstat", grows)
    with pytest.raises(FileChanged):
        read(path, max_bytes=1000)
    assert len(calls) == 6


def test_what_is_hashed_is_what_is_parsed(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"some words\r\n")
    loaded, raw = load(path), read(path, max_bytes=100)
    assert (loaded.sha256, loaded.size, loaded.modified_at) == (raw.sha256, 12, path.stat().st_mtime)


def test_a_named_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UnreadableDocument):
        load(tmp_path / "pipe")


def test_a_long_single_line_loads(tmp_path: Path) -> None:
    (tmp_path / "line.txt").write_bytes(b"word " * 4_000_000)
    assert len(load(tmp_path / "line.txt").text) == 20_000_000


def test_loops_of_links_end_and_linked_folders_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "root" / "sub").mkdir(parents=True)
    (tmp_path / "root" / "sub" / "a.md").write_text("x")
    (tmp_path / "root" / "sub" / "up").symlink_to(tmp_path / "root")
    (tmp_path / "root" / "broken").symlink_to(tmp_path / "nowhere")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "b.md").write_text("y")
    (tmp_path / "root" / "linked").symlink_to(tmp_path / "outside")
    assert [source for _, source in find_files([tmp_path / "root"])] == ["linked/b.md", "sub/a.md"]


def test_a_folder_that_may_not_be_listed_is_no_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    (tmp_path / "a.md").write_text("x")
    real = os.scandir

    def refuse(path: str | Path) -> Iterator[os.DirEntry[str]]:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(reading.os, "scandir", refuse)
    assert [source for _, source in find_files([tmp_path])] == ["a.md", "closed"]
    with pytest.raises(UnreadableDocument):
        load(tmp_path / "closed")


def test_a_png_bomb_inside_a_slide_is_not_decoded() -> None:
    header = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + b"IHDR" + header + struct.pack(">I", zlib.crc32(b"IHDR" + header))
    with pytest.raises(UnsupportedMedia):
        parse(content(b"\x89PNG\r\n\x1a\n" + chunk, "a.pptx"))
