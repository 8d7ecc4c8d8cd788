"""Files as people save them: encodings, arrays, long lines, a million rows; and each bad line fails alone."""

import gc
import json
import tracemalloc
import warnings

import pytest

from data.errors import InvalidRequest
from data.formats import iterate_questions, read_questions
from data.jsonl import estimate_lines, read_objects

pytestmark = pytest.mark.slow

ROWS = [
    {"question": "弗雷斯诺是在哪一年建立的？这座城市位于加利福尼亚州的中部。", "answers": ["一八七二年"], "id": str(n)}
    for n in range(3)
]
TEXT = "\n".join(json.dumps(row, ensure_ascii=False) for row in ROWS) + "\n"


def found(path, on_error=None):
    return [row for _, row in read_objects(path, on_error)]


@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be", "gb18030"]
)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_encodings(tmp_path, encoding, newline):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(TEXT.replace("\n", newline).encode(encoding))
    assert found(path) == ROWS
    assert [question.answers for question in read_questions(path)] == [("一八七二年",)] * 3


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "gb18030"])
@pytest.mark.parametrize("indent", [None, 2])
def test_an_array_is_read_as_lines_are(tmp_path, encoding, indent):
    path = tmp_path / "rows.json"
    path.write_bytes(("\n " + json.dumps(ROWS, ensure_ascii=False, indent=indent)).encode(encoding))
    located = list(read_objects(path))
    assert [row for _, row in located] == ROWS
    assert [where for where, _ in located] == [f"rows.json, element {n}" for n in (1, 2, 3)]


@pytest.mark.parametrize("content", [TEXT.encode("utf-16"), json.dumps(ROWS).encode()])
def test_a_reader_that_stops_early_leaves_no_file_open(tmp_path, content):
    path = tmp_path / "rows.json"
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert next(read_objects(path))[1] == ROWS[0]
        gc.collect()
    assert caught == []


def test_a_line_in_another_encoding_fails_alone(tmp_path):
    path = tmp_path / "rows.jsonl"
    lines = TEXT.splitlines()
    path.write_bytes("\n".join(lines[:2]).encode() + b"\n" + lines[2].encode("gb18030"))
    errors = []
    assert found(path, errors.append) == ROWS[:2]
    (error,) = errors
    assert error.detail.startswith("rows.jsonl, line 3: not JSON in UTF-8")
    assert "UTF-8" in error.hint


def test_french_is_not_taken_for_chinese(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"question": "Où est née la reine à Besançon été?"}\n'.encode("latin-1"))
    errors = []
    assert found(path, errors.append) == []
    assert "UTF-8" in errors[0].hint


@pytest.mark.parametrize(
    ("text", "rows", "words"),
    [
        ('[{"a": 1}, {"b": 2}, {"c": 3', 2, "element 3: not JSON"),
        ('[{"a": 1}, 5, {"b": 2}]', 2, "element 2: The element is no JSON object"),
        ('[{"a": 1}, oops, {"b": 2}]', 1, "The rest is not read"),
        ("[1, 2]", 0, "line 1: The line is no JSON object"),
        ("[]", 0, "no JSON object"),
    ],
)
def test_broken_arrays(tmp_path, text, rows, words):
    path = tmp_path / "rows.json"
    path.write_text(text)
    errors = []
    assert len(found(path, errors.append)) == rows
    assert len(errors) == 1
    assert words in errors[0].detail
    with pytest.raises(InvalidRequest):
        found(path)


def test_a_line_that_is_too_long_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr("data.jsonl.LARGEST_LINE", 50)
    for encoding in ("utf-8", "utf-16"):
        path = tmp_path / "rows.jsonl"
        path.write_bytes(('{"a": 1}\n' + '{"b": "' + "x" * 200_000 + '"}\n{"c": 3}').encode(encoding))
        errors = []
        assert found(path, errors.append) == [{"a": 1}, {"c": 3}]
        assert [error.detail for error in errors] == ["rows.jsonl, line 2: the line is too long."]


def test_bytes_that_are_no_utf_16_fail_their_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes('{"a": 1}\n'.encode("utf-16-le") + b"\x00\xd8" + '{"b": 2}\n{"c": 3}\n'.encode("utf-16-le"))
    errors = []
    assert found(path, errors.append) == [{"a": 1}, {"c": 3}]
    assert "line 2" in errors[0].detail


def test_many_rows_are_streamed(tmp_path):
    """Ten times the rows take the same memory, but for 8 bytes and their object of each id."""
    peaks = []
    for count in (3000, 30_000):
        path = tmp_path / "rows.jsonl"
        with path.open("w") as file:
            for n in range(count):
                row = {"id": n, "question": f"What is number {n}?", "answers": ["x" * 200]}
                file.write(json.dumps(row) + "\n")
        assert estimate_lines(path) == count
        tracemalloc.start()
        assert sum(1 for _ in iterate_questions(path)) == count
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 150 * 27_000
    assert peaks[1] < 10 * 2**20


def test_ids_that_come_twice_are_named(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_text('{"id": 1, "question": "Q?", "answers": ["A"]}\n' * 2)
    errors = []
    assert len(read_questions(path, on_error=errors.append)) == 1
    assert errors[0].detail == "questions.jsonl, line 2: The id is used twice."


def test_estimates_count_a_last_line_without_a_line_feed(tmp_path):
    path = tmp_path / "rows.jsonl"
    for content, lines in ((b"", 0), (b"a", 1), (b"a\nb", 2), (b"a\nb\n", 2)):
        path.write_bytes(content)
        assert estimate_lines(path) == lines
    with pytest.raises(InvalidRequest, match=r"none\.jsonl"):
        estimate_lines(tmp_path / "none.jsonl")
