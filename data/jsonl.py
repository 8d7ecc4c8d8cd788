"""Stream JSON objects from a file: one on each line, or in one array, in the encodings that people save.

Reads forward in bounded memory whatever the file's size; a bad line fails alone. Knows nothing of what an
object says.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from data.errors import InvalidRequest

LARGEST_LINE = 16 * 2**20
"""Bytes (characters, in UTF-16 and arrays) of a line or array element; a longer one is left out."""

_SAMPLE_BYTES = 2**20
_BLOCK = 2**16
_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_COMMON_SHARE = 0.7
"""Share of GB 2312's first level and punctuation among what is not ASCII, from which GB18030 is believed."""
_BETWEEN = re.compile(r"[\s,]*")
_REPLACEMENT = "\ufffd"

OnError = Callable[[InvalidRequest], None]
"""Receives what is wrong with a line; the line is left out."""

Located = tuple[str, dict[str, Any]]
"""Where an object stands ("rows.jsonl, line 3") and the object."""


def read_objects(path: Path, on_error: OnError | None = None) -> Iterator[Located]:
    """Yield (where, object) for each line that is not blank, or each element of the one array.

    UTF-8, UTF-16 and UTF-32 with or without a mark, and GB18030 where the first mebibyte reads as
    Chinese and no line of it as UTF-8.

    Args:
        path: the file.
        on_error: called for each bad line, which is then left out; None to stop at the first.

    Raises:
        InvalidRequest: the file cannot be read; or a line is bad and there is no ``on_error``.
    """
    try:
        with path.open("rb") as file:
            mark, encoding = _encoding(file.read(_SAMPLE_BYTES))
            file.seek(len(mark))
            opens_array = _opens_array(file.read(_BLOCK), encoding)
            file.seek(len(mark))
            yield from (_elements if opens_array else _lines)(file, encoding, path.name, on_error)
    except OSError as error:
        raise InvalidRequest(f"Cannot read the file: {error.strerror}.", got=str(path)) from error


def estimate_lines(path: Path) -> int:
    """Count the line feeds of a file, and one more for a last line without.

    Raises:
        InvalidRequest: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            count, last = 0, b"\n"
            while block := file.read(_BLOCK):
                count += block.count(b"\n")
                last = block[-1:]
    except OSError as error:
        raise InvalidRequest(f"Cannot read the file: {error.strerror}.", got=str(path)) from error
    return count + (last not in b"\n\x00")


def report(error: InvalidRequest, on_error: OnError | None) -> None:
    """Hand an error over, or raise it where nobody takes it."""
    if on_error is None:
        raise error
    on_error(error)


def located(error: InvalidRequest, where: str) -> InvalidRequest:
    """Return the error with its place in front."""
    return InvalidRequest(f"{where}: {error.detail}", got=error.got, wanted=error.wanted, hint=error.hint)


def _encoding(sample: bytes) -> tuple[bytes, str]:
    """Return the mark a file begins with (b"" for none) and its encoding."""
    for mark, encoding in _MARKS:
        if sample.startswith(mark):
            return mark, encoding
    # A JSON text begins with ASCII: the places of NULs tell the encoding (RFC 4627, section 3).
    nuls = tuple(byte == 0 for byte in sample[:4])
    wide = {
        (True, True, True, False): "utf-32-be",
        (False, True, True, True): "utf-32-le",
        (True, False): "utf-16-be",
        (False, True): "utf-16-le",
    }
    found = wide.get(nuls) or wide.get(nuls[:2])
    return b"", found or ("gb18030" if _reads_as_chinese(sample) else "utf-8")


def _reads_as_chinese(sample: bytes) -> bool:
    lines = [line for line in sample.split(b"\n")[: -1 if len(sample) == _SAMPLE_BYTES else None] if not line.isascii()]
    common = other = 0
    for line in lines:
        try:
            line.decode()
        except UnicodeDecodeError:
            pass
        else:
            return False
        try:
            text = line.decode("gb18030")
        except UnicodeDecodeError:
            continue
        for code in (character.encode("gb18030") for character in text if character > "\x7f"):
            fits = len(code) == 2 and code[1] >= 0xA1 and (0xA1 <= code[0] <= 0xA9 or 0xB0 <= code[0] <= 0xD7)
            common, other = common + fits, other + (not fits)
    return common > 0 and common >= _COMMON_SHARE * (common + other)


def _opens_array(block: bytes, encoding: str) -> bool:
    """Tell whether the first text is a bracket that is not a whole line of its own kind ("[1]" is a bad line)."""
    text = block.decode(encoding, errors="ignore").lstrip()
    return text.startswith("[") and text[1:].lstrip().startswith("{")


def _lines(file: io.BufferedReader, encoding: str, name: str, on_error: OnError | None) -> Iterator[Located]:
    wide = encoding.startswith(("utf-16", "utf-32"))
    read = _read_wide(file, encoding) if wide else _read_bytes(file)
    for number, line in enumerate(read, 1):
        where = f"{name}, line {number}"
        if line is None:
            error = InvalidRequest(
                f"{where}: the line is too long.", wanted=f"at most {LARGEST_LINE} bytes", hint="Split it."
            )
            report(error, on_error)
        elif line.strip():
            found = _object(line, encoding, where, on_error)
            if found is not None:
                yield where, found


def _object(line: bytes | str, encoding: str, where: str, on_error: OnError | None) -> dict[str, Any] | None:
    shown = encoding.upper()
    try:
        text = line if isinstance(line, str) else line.decode(encoding)
        if isinstance(line, str) and _REPLACEMENT in line:
            raise ValueError(f"bytes that are no {shown}")
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        hint = "Save the file as UTF-8." if isinstance(error, UnicodeDecodeError) else ""
        report(
            InvalidRequest(f"{where}: not JSON in {shown}: {error}.", wanted="one object a line", hint=hint), on_error
        )
        return None
    if not isinstance(found, dict):
        got = repr(found)
        error_ = InvalidRequest(f"{where}: The line is no JSON object.", got=got[:200], wanted="an object")
        report(error_, on_error)
        return None
    return found


def _read_bytes(file: io.BufferedReader) -> Iterator[bytes | None]:
    """Yield lines; None for one that is too long, which is passed over."""
    while line := file.readline(LARGEST_LINE + 1):
        if len(line) <= LARGEST_LINE:
            yield line
            continue
        while not line.endswith(b"\n") and (line := file.readline(_BLOCK)):
            pass
        yield None


def _read_wide(file: io.BufferedReader, encoding: str) -> Iterator[str | None]:
    with _decoded(file, encoding) as text:
        while line := text.readline(LARGEST_LINE + 1):
            if len(line) <= LARGEST_LINE:
                yield line
                continue
            while not line.endswith("\n") and (line := text.readline(_BLOCK)):
                pass
            yield None


@contextmanager
def _decoded(file: io.BufferedReader, encoding: str) -> Iterator[io.TextIOWrapper]:
    """Read a file as text and leave it open, also where the reader stops early."""
    text = io.TextIOWrapper(file, encoding, errors="replace", newline="\n")
    try:
        yield text
    finally:
        text.detach()


def _elements(file: io.BufferedReader, encoding: str, name: str, on_error: OnError | None) -> Iterator[Located]:
    """Yield the objects of an array; past one that cannot be read nothing is known, so reading ends there."""
    decoder, number = json.JSONDecoder(), 1
    with _decoded(file, encoding) as text:
        buffer = text.read(_BLOCK).lstrip()[1:]
        while True:
            buffer = buffer[_after(buffer) :]
            where = f"{name}, element {number}"
            try:
                found, end = decoder.raw_decode(buffer)
            except (ValueError, RecursionError) as error:
                more = text.read(max(_BLOCK, len(buffer))) if len(buffer) <= LARGEST_LINE else ""
                if more:
                    buffer += more
                    continue
                if not buffer.startswith("]"):
                    wanted = "an array of objects, closed by a bracket"
                    report(
                        InvalidRequest(f"{where}: not JSON: {error}. The rest is not read.", wanted=wanted), on_error
                    )
                break
            if isinstance(found, dict):
                yield where, found
            else:
                report(InvalidRequest(f"{where}: The element is no JSON object.", got=repr(found)[:200]), on_error)
            buffer, number = buffer[end:], number + 1


def _after(buffer: str) -> int:
    """Return where the next element begins."""
    found = _BETWEEN.match(buffer)
    return found.end() if found else 0
