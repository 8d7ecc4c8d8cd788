import re
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data.errors import InvalidRequest
from data.records import Chunk, Document
from retrieval.chunk import chunk, embedded_text, heading_lines
from retrieval.embed import SentenceTransformerEmbedder, starter_embedder_path
from retrieval.load import load

CORPUS = sorted((Path(__file__).resolve().parents[2] / "data" / "samples" / "corpus").glob("*.md"))
CHINESE = (
    "第一条说明了适用范围。第二条规定，用户必须先登录；否则，请求会被拒绝！那么，第三条呢？"
    "它写道：“任何人都可以查看公开的页面。”最后一条没有别的内容。"
)


@lru_cache
def count_words(text: str) -> int:
    return len(re.findall(r"[一-鿿]|\w+|[^\w\s]", text))


def document(text: str, media_type: str = "text/markdown", title: str = "Title", **meta: object) -> Document:
    return Document("d", "d.md", title, text, media_type, meta)


def assert_sound(doc: Document, chunks: list[Chunk]) -> None:
    """Chunks are exact, trimmed, in order, and hold every visible character outside heading lines."""
    covered = bytearray(len(doc.text))
    for piece in chunks:
        assert doc.text[piece.start : piece.end] == piece.text
        assert piece.text == piece.text.strip() != ""
        covered[piece.start : piece.end] = b"\1" * (piece.end - piece.start)
    for start, end, _ in heading_lines(doc):
        covered[start:end] = b"\1" * (end - start)
    assert [char for i, char in enumerate(doc.text) if not covered[i] and not char.isspace()] == []
    assert [piece.start for piece in chunks] == sorted(piece.start for piece in chunks)
    assert len({piece.id for piece in chunks}) == len(chunks)


@pytest.fixture(scope="module")
def starter() -> SentenceTransformerEmbedder:
    return SentenceTransformerEmbedder(starter_embedder_path())


@pytest.mark.parametrize("overlap", [0, 30])
@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_the_sample_corpus_is_cut_exactly(path: Path, overlap: int, starter: SentenceTransformerEmbedder) -> None:
    loaded = load(path)
    doc = document(loaded.text, loaded.media_type, loaded.title)
    chunks = chunk(doc, starter.count_tokens, chunk_size=200, chunk_overlap=overlap)
    assert_sound(doc, chunks)
    assert all(starter.count_tokens(piece.text) <= 200 for piece in chunks)
    ends = [doc.text[piece.end - 1 : piece.end + 1] for piece in chunks]
    assert all(re.search(r"[.!?][\"”)\]]?\s?$|[\"”)\]]\s?$|\n$", end) for end in ends), "a chunk ends inside a sentence"


TEXTS = st.text(alphabet=st.sampled_from("ab。，！? .\n#-`= 中文x"), max_size=300)


CODE = "```python\ndef a():\n    return 1\n\n\nclass B:\n    x = 2\n```\n"
TABLE = ["| a | b |\n|---|---|\n", "| one | two |\n", "| lone\n"]
MARKUP = [
    "# Head\n",
    "Some prose. More of it.\n\n",
    CODE,
    *TABLE,
    "~~~\n",
    "```\n",
    "中文句子。还有一句！\n",
    " \n\n",
    "\t",
]
BLOCKS = st.lists(st.sampled_from(MARKUP), max_size=25).map("".join)


@settings(max_examples=200, deadline=None)
@given(BLOCKS, st.integers(2, 30), st.sampled_from(["text/markdown", "text/plain", "text/x-python"]))
def test_any_blocks_are_cut_exactly(text: str, size: int, media_type: str) -> None:
    doc = document(text, media_type)
    assert_sound(doc, chunk(doc, count_words, chunk_size=size))


@settings(max_examples=200, deadline=None)
@given(TEXTS, st.integers(2, 30), st.sampled_from(["text/markdown", "text/plain"]))
def test_any_text_is_cut_exactly(text: str, size: int, media_type: str) -> None:
    doc = document(text, media_type)
    chunks = chunk(doc, count_words, chunk_size=size)
    assert_sound(doc, chunks)
    assert bool(chunks) == bool(text.strip())


@settings(max_examples=100, deadline=None)
@given(TEXTS, st.integers(1, 5))
def test_overlapping_chunks_are_exact_too(text: str, overlap: int) -> None:
    doc = document(text, "text/plain")
    assert_sound(doc, chunk(doc, count_words, chunk_size=10, chunk_overlap=overlap))


def test_white_space_between_pieces_is_not_repeated() -> None:
    text = "# Head\n| a | b |\n|---|---|\n \n\n \n\n# Head\n"
    chunks = chunk(document(text, "text/x-python"), count_words, chunk_size=17)
    assert [piece.text for piece in chunks] == ["# Head\n| a | b |\n|---|---|", "# Head"]


def test_headings_make_the_path() -> None:
    body = "One two three four five six seven eight nine ten. " * 3
    text = f"# Title\n\n{body}\n\n## Section\n\n{body}\n\n### Part *one*\n\n{body}\n\nOther\n-----\n\n{body}"
    chunks = chunk(document(text), count_words, chunk_size=40)
    assert [piece.heading for piece in chunks] == [
        "Title",
        "Title > Section",
        "Title > Section > Part one",
        "Title > Other",
    ]
    assert embedded_text(chunks[1]).startswith("Title > Section\nOne two")


def test_a_heading_inside_a_code_fence_is_text() -> None:
    text = "# Title\n\nRun this:\n\n```\n# not a heading\nls\n```\n"
    assert [text[start:end].strip() for start, end, _ in heading_lines(document(text))] == ["# Title"]
    assert "# not a heading" in chunk(document(text), count_words)[0].text


def test_front_matter_is_not_a_heading() -> None:
    text = "---\ntitle: x\n---\n\n# Real\n\nText.\n"
    assert [text[start:end].strip() for start, end, _ in heading_lines(document(text))] == ["# Real"]


def test_plain_text_has_no_headings() -> None:
    assert heading_lines(document("# no heading", "text/plain")) == []


def test_a_loaders_headings_are_used() -> None:
    text = "第一章 总则\n" + CHINESE * 2 + "\n第二章 附则\n" + CHINESE * 2
    second = text.index("第二章")
    doc = document(text, "application/pdf", "规定", headings=[[0, 6, 2], [second, second + 6, 2]])
    headings = [piece.heading for piece in chunk(doc, count_words, chunk_size=150)]
    assert headings == ["规定 > 第一章 总则", "规定 > 第二章 附则"]


def test_tiny_neighbours_share_a_chunk_under_their_common_path() -> None:
    text = "# Title\n\n## Fruit\n\n### Apple\n\nRed.\n\n### Pear\n\nGreen.\n\n## Rest\n\n" + "Long text. " * 40
    chunks = chunk(document(text), count_words, chunk_size=60)
    assert chunks[0].heading == "Title > Fruit"
    assert "Red." in chunks[0].text
    assert "Green." in chunks[0].text
    assert {piece.heading for piece in chunks[1:]} == {"Title > Rest"}


def test_chinese_is_cut_at_sentence_ends() -> None:
    chunks = chunk(document(CHINESE * 3, "text/plain"), count_words, chunk_size=40)
    assert len(chunks) > 3
    assert all(piece.text.endswith(("。", "！", "？", "。”")) for piece in chunks)


def test_pages_are_counted_from_one() -> None:
    pages = ["Alpha beta. " * 8, "Gamma delta. " * 8, "Epsilon zeta. " * 8]
    starts = [0, len(pages[0]) + 2, len(pages[0]) + len(pages[1]) + 4]
    doc = document("\n\n".join(pages), "application/pdf", page_starts=starts)
    chunks = chunk(doc, count_words, chunk_size=24)
    assert {piece.page for piece in chunks} == {1, 2, 3}
    assert all(doc.text[starts[(piece.page or 0) - 1] :].lstrip().startswith(piece.text[:5]) for piece in chunks)


def test_a_source_without_pages_has_none() -> None:
    assert chunk(document("Text."), count_words)[0].page is None


def test_an_overlap_repeats_the_end_of_the_chunk_before() -> None:
    text = " ".join(f"This is sentence number {i}." for i in range(30))
    chunks = chunk(document(text, "text/plain"), count_words, chunk_size=30, chunk_overlap=8)
    for before, after in pairwise(chunks):
        assert after.start < before.end
        assert count_words(text[after.start : before.end]) <= 8
    assert all(count_words(piece.text) <= 30 for piece in chunks)


def test_a_document_of_headings_only_is_kept_as_text() -> None:
    chunks = chunk(document("# One\n\n## Two\n"), count_words)
    assert [piece.text for piece in chunks] == ["# One\n\n## Two"]


def test_blank_text_gives_no_chunk() -> None:
    assert chunk(document(" \n\n "), count_words) == []


@pytest.mark.slow
def test_a_megabyte_without_spaces_is_cut_all_the_same(starter: SentenceTransformerEmbedder) -> None:
    doc = document("a" * 1_000_000, "text/plain")
    chunks = chunk(doc, starter.count_tokens, chunk_size=200)
    assert max(len(piece.text) for piece in chunks) <= 16 * 201


@pytest.mark.parametrize(("size", "overlap"), [(10, 10), (10, 20), (0, 0), (10, -1)])
def test_impossible_sizes_are_refused(size: int, overlap: int) -> None:
    with pytest.raises(InvalidRequest):
        chunk(document("Text."), count_words, size, overlap)


def test_a_table_is_cut_between_rows_and_keeps_its_header() -> None:
    rows = "".join(f"| item {i} | costs {i} euro |\n" for i in range(40))
    text = f"# T\n\nPrices:\n\n| Name | Price |\n|---|---|\n{rows}\nThat was all."
    chunks = chunk(document(text, title="T"), count_words, chunk_size=60)
    assert len(chunks) > 3
    inner = [piece for piece in chunks if piece.text.startswith("| item")]
    assert inner
    for piece in inner:
        assert piece.heading == "T > Name | Price"
        assert all(line.startswith("|") and line.endswith("|") for line in piece.text.split("\n\n")[0].splitlines())


def test_a_code_fence_that_fits_is_not_cut() -> None:
    code = "```python\n" + "".join(f"x{i} = {i}\n\n" for i in range(8)) + "```"
    text = "Words before it. " * 10 + "\n\n" + code + "\n\n" + "Words after it. " * 10
    chunks = chunk(document(text), count_words, chunk_size=50)
    assert any(code in piece.text for piece in chunks)


def test_source_code_is_cut_at_definitions() -> None:
    text = "".join(f"def function_{i}(a, b):\n    total = a + b\n    return total * {i}\n\n\n" for i in range(12))
    chunks = chunk(document(text, "text/x-python", language="python"), count_words, chunk_size=40)
    assert len(chunks) > 4
    assert all(piece.text.startswith("def function_") for piece in chunks)


def test_a_heading_sign_in_source_code_is_a_comment() -> None:
    doc = document("# comment\nx = 1\n", "text/x-python")
    assert [piece.text for piece in chunk(doc, count_words)] == ["# comment\nx = 1"]


UNITS = (
    *("a", "a ", "\n", "#", "# h\n", "# \n", "| ", "| a | b |\n", "| a |\n|---|\n", "[[", "(", "```\n", "```a\nx\n"),
    *("字", "字。", "> ", "*", "- x\n", "    ", "<a>", "<div>\n", "&amp;", ". ", "- \n  ", "\t", "a\n=\n", "[a]: b\n"),
    *("`", " \n\n", "1. ", "\\", "_a_ ", "![", "[a](b) ", "\u200b", "\u0301", "😀", "\r\n", "---\n", "~~~\n"),
)
"""Texts that programs have choked on, where they are repeated."""


def repeated(parts: str, letters: int) -> Document:
    """Return a document of so many letters that repeats ``parts``."""
    text = (parts * (letters // len(parts) + 1))[:letters]
    return document(text)


def letters_counted(doc: Document) -> int:
    """Chunk a document; return how many letters were given to the token counter: the work that costs most."""
    seen = 0

    def count(text: str) -> int:
        nonlocal seen
        seen += len(text)
        return len(text.split())

    chunk(doc, count, chunk_size=200)
    return seen


@pytest.mark.parametrize("parts", UNITS, ids=repr)
def test_twice_the_text_is_about_twice_the_work(parts: str) -> None:
    once, twice = (letters_counted(repeated(parts, letters)) for letters in (10_000, 20_000))
    assert twice <= 2.5 * max(once, 10_000)


def test_a_table_of_many_columns_is_headed_by_the_first() -> None:
    """Nor is the whole header read again for every chunk: with a million columns that took twenty minutes."""
    columns = 20_000
    text = f"| first{' | -' * columns} |\n|{'-|' * (columns + 1)}\n| a{' | b' * columns} |\n"
    found = chunk(document(text), lambda part: len(part) // 4, chunk_size=4000)
    assert len(found) > 5
    assert all(text[piece.start : piece.end] == piece.text for piece in found)
    assert found[-1].heading.split(" > ")[-1].startswith("first | - | -")
    assert len(found[-1].heading) < 300
