"""Tables, structured text, source code and encodings."""

import json
from pathlib import Path

import pytest

from retrieval.load import load
from retrieval.text import decode, decode_as

RST = """
Title
=====

Words with ``code`` and :class:`~package.Thing` and :ref:`a label <target>`.

.. toctree::

   other

.. versionadded:: 2.0
   It now **works**.

.. code-block:: python
   :linenos:

   print("hi")

Second
------

.. include:: /etc/passwd

===== =====
Name  Sound
===== =====
Duck  quack
===== =====
"""


def write(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.csv", "a,b\n1,2"), ("a.csv", "a;b\n1;2\n"), ("a.tsv", "a\tb\n1\t2"), ("a.csv", '"a","b"\r\n"1","2"\r\n')],
)
def test_delimited_text_becomes_a_table(tmp_path: Path, name: str, content: str) -> None:
    assert load(write(tmp_path, name, content)).text == "| a | b |\n| --- | --- |\n| 1 | 2 |"


def test_ragged_rows_are_filled_up_and_cells_stay_in_theirs(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, "a.csv", 'x,y\n1\n1,"two\nlines",3|4\n'))
    assert loaded.text.split("\n") == [
        "| x | y |  |",
        "| --- | --- | --- |",
        "| 1 |  |  |",
        "| 1 | two lines | 3\\|4 |",
    ]


def test_text_under_the_name_of_a_workbook_is_read_as_the_table_it_is(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, "export.xls", "a\tb\n1\t2\n"))
    assert loaded.media_type == "text/csv"
    assert loaded.meta["mismatch"] == ".xls"
    assert "| 1 | 2 |" in loaded.text


def test_restructured_text_keeps_what_sphinx_adds_and_opens_no_files(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, "a.rst", RST))
    assert loaded.title == "Title"
    assert "Words with `code` and package.Thing and a label." in loaded.text
    assert "It now works." in loaded.text
    assert '```python\nprint("hi")\n```' in loaded.text
    assert "## Second\n\n| Name | Sound |\n| --- | --- |\n| Duck | quack |" in loaded.text
    assert "root:" not in loaded.text
    assert "other" not in loaded.text


def test_a_notebook_is_prose_code_and_output(tmp_path: Path) -> None:
    cells = [
        {"cell_type": "markdown", "source": ["# Study\n", "Some words."]},
        {
            "cell_type": "code",
            "source": "1 + 1",
            "outputs": [
                {"data": {"text/plain": ["2"]}},
                {"data": {"text/plain": "<Figure size 640x480>", "image/png": "iVBOR"}},
            ],
        },
    ]
    loaded = load(write(tmp_path, "a.ipynb", json.dumps({"cells": cells, "metadata": {}})))
    assert loaded.title == "Study"
    assert loaded.text == "# Study\nSome words.\n\n```python\n1 + 1\n```\n\n```text\n2\n```"


def test_json_becomes_lines_of_keys_and_values(tmp_path: Path) -> None:
    value = {"title": "Duck", "tags": ["bird", "水"], "body": {"mass": 1.1, "eggs": [{"n": 9}]}}
    loaded = load(write(tmp_path, "a.json", json.dumps(value)))
    assert loaded.title == "Duck"
    assert loaded.text == "title: Duck\ntags: bird, 水\nbody:\n  mass: 1.1\n  eggs:\n    - n: 9"


def test_records_stand_apart_and_a_broken_one_is_kept_and_counted(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, "a.jsonl", '{"q": "one"}\n{"q": "two"\n\n{"q": "three"}\n'))
    assert loaded.text == 'q: one\n\n{"q": "two"\n\nq: three'
    assert loaded.meta["not_json_lines"] == 1


@pytest.mark.parametrize(("name", "note"), [("a.json", "not_json"), ("a.ipynb", "not_a_notebook")])
def test_what_only_claims_to_be_json_stays_text(tmp_path: Path, name: str, note: str) -> None:
    loaded = load(write(tmp_path, name, '{"a": 1, // a comment\n}'))
    assert "a comment" in loaded.text
    assert note in loaded.meta


def test_source_code_names_its_language(tmp_path: Path) -> None:
    loaded = load(write(tmp_path, "a.py", "# a comment, no heading\ndef f():\n    return 1\n"))
    assert (loaded.media_type, loaded.meta["language"], loaded.title) == ("text/x-python", "python", "a")


ZH, JA = "检索增强生成把段落放进提示。", "日本語の文書をカタカナと漢字で書く。"
TW, FR = "這是繁體中文的段落，資訊系統。", "Élan, naïve façade, déjà vu à Ærø."


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        (ZH, "gb18030"), (ZH, "gbk"), (JA, "cp932"), (TW, "big5"), (FR, "cp1252"), (FR, "utf-16"), (ZH, "utf-16-le"),
        ("mostly ASCII, " + ZH, "utf-16-be"),
    ],
)  # fmt: skip
def test_encodings_are_told_apart(text: str, encoding: str) -> None:
    raw = text.encode(encoding)
    if encoding.startswith("utf-16-") and text.isascii() is False and text == ZH:
        raw = ("abc, " * 20 + text).encode(encoding)
        text = "abc, " * 20 + text
    assert decode(raw) == text


def test_a_file_of_two_encodings_is_read_line_by_line() -> None:
    lines = [ZH.encode("utf-8"), b"plain", ZH.encode("gb18030"), ZH.encode("utf-8")]
    text, encoding = decode_as(b"\n".join(lines))
    assert text.split("\n") == [ZH, "plain", ZH, ZH]
    assert encoding == "utf-8+gb18030"


def test_nul_bytes_in_text_go(tmp_path: Path) -> None:
    assert load(write(tmp_path, "a.txt", b"some words\x00" + b" and more words" * 20)).text.startswith(
        "some words and more words"
    )
