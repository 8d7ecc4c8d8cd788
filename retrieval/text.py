"""Turn bytes that are text into a string: which encoding, one newline, no NUL.

Knows nothing of files or formats. UTF-8 and UTF-16 prove themselves; among the older encodings the one
whose reading looks most like ordinary writing wins.
"""

from __future__ import annotations

import re

_ASCII = bytes(range(0x80))
_SAMPLE_BYTES = 64 * 1024
_PLAUSIBLE = 0.7  # share of common characters under which a reading as Chinese or Japanese is not believed
_MIXED_SHARE = 0.2  # share of UTF-8 lines among those with non-ASCII bytes from which a file counts as mixed
_NUL_SHARE = 0.3  # NULs at one parity in UTF-16 without a byte order mark, which holds some ASCII
_BOMS = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
# Lead bytes, and the least second byte, of each standard's common characters and punctuation: GB 2312 level 1,
# JIS X 0208 kana and level 1, Big5 level 1.
_COMMON = {
    "gb18030": (((0xA1, 0xA9), (0xB0, 0xD7)), 0xA1),
    "cp932": (((0x81, 0x83), (0x88, 0x97)), 0x40),
    "big5": (((0xA1, 0xA3), (0xA4, 0xC6)), 0x40),
}
_UNSEEN = re.compile("[\u200b\u2060-\u2064\ufeff\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]")
"""Characters without a shape of their own: zero-width spaces and operators, overrides of the writing direction, tags.

They carry text past a reader's eye to a model, and hide a word from the search. The joiners U+200C and U+200D stay:
Persian, Indian scripts and emoji need them."""
_CONTROL = re.compile("[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def decode(raw: bytes) -> str:
    r"""Decode text of any usual encoding; newlines become \n and NULs go."""
    return normalize(decode_as(raw)[0])


def normalize(text: str) -> str:
    r"""Return ``text`` with every newline as \n, and without NUL, lone surrogates and characters that nobody sees."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    text = without_unseen(text.replace("\x00", ""))
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode(errors="replace").decode()
    return text


def without_unseen(text: str) -> str:
    """Return ``text`` without the characters that nobody sees."""
    return text if text.isascii() else _UNSEEN.sub("", text)


def decode_as(raw: bytes) -> tuple[str, str]:
    """Return (text, encoding): UTF-8, UTF-16, GB18030, Shift-JIS, Big5, Windows-1252, or several by line."""
    for mark, encoding in _BOMS:
        if raw.startswith(mark):
            return raw.decode(encoding, errors="replace"), encoding
    wide = utf_16_without_mark(raw)
    if wide:
        return raw.decode(wide, errors="replace"), wide
    try:
        return raw.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        pass
    if _is_mixed(raw):
        return _decode_lines(raw)
    encoding = guess_legacy(raw)
    return raw.decode(encoding, errors="replace"), encoding


def utf_16_without_mark(raw: bytes) -> str:
    """Return the UTF-16 encoding that the places of NUL bytes betray, else an empty string."""
    sample = raw[:4096]
    half = len(sample) // 2
    if half < 4 or b"\x00" not in sample:
        return ""
    even, odd = sample[0::2].count(0) / half, sample[1::2].count(0) / half
    if odd >= _NUL_SHARE and even < 0.05:
        return "utf-16-le"
    return "utf-16-be" if even >= _NUL_SHARE and odd < 0.05 else ""


def guess_legacy(raw: bytes) -> str:
    """Return the likeliest encoding of text that is not UTF-8: gb18030, cp932, big5, cp1252 or latin-1."""
    sample = raw[:_SAMPLE_BYTES]
    scores = {encoding: _plausibility(sample, encoding) for encoding in _COMMON}
    best = max(scores, key=lambda encoding: scores[encoding])
    if scores[best] >= _PLAUSIBLE:
        return best
    try:
        raw.decode("cp1252")
    except UnicodeDecodeError:
        return "latin-1"
    return "cp1252"


def _plausibility(sample: bytes, encoding: str) -> float:
    """Return the share of common characters among the non-ASCII ones, 0 where the bytes do not fit."""
    try:
        text = sample.decode(encoding)
    except UnicodeDecodeError as error:
        if error.start < len(sample) - 4 or not error.start:  # a cut character at the sample's end is no objection
            return 0.0
        text = sample[: error.start].decode(encoding)
    ranges, second = _COMMON[encoding]
    high = common = 0
    for char in text:
        if char > "\x7f":
            high += 1
            code = char.encode(encoding)
            fits = len(code) == 2 and code[1] >= second
            common += fits and any(first <= code[0] <= last for first, last in ranges)
    return common / high if high else 0.0


def _is_utf_8(line: bytes) -> bool:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _is_mixed(raw: bytes) -> bool:
    lines = [line for line in raw.split(b"\n") if line.translate(None, _ASCII)]
    return sum(map(_is_utf_8, lines)) >= _MIXED_SHARE * len(lines)


def _decode_lines(raw: bytes) -> tuple[str, str]:
    lines = raw.split(b"\n")
    legacy = guess_legacy(b"\n".join(line for line in lines if not _is_utf_8(line)))
    decoded = [line.decode("utf-8") if _is_utf_8(line) else line.decode(legacy, errors="replace") for line in lines]
    return "\n".join(decoded), f"utf-8+{legacy}"


def is_text(raw: bytes, *, legacy: bool) -> bool:
    """Say whether ``raw`` reads as text; ``legacy`` admits what is neither UTF-8 nor UTF-16, and stray NULs."""
    sample = raw[: 2**20]
    if legacy or raw.startswith((_BOMS[1][0], _BOMS[2][0])) or utf_16_without_mark(raw):
        text = decode_as(sample)[0]
    elif b"\x00" in raw or not _is_utf_8(raw):
        return False
    else:
        text = sample.decode("utf-8", errors="ignore")
    return len(_CONTROL.findall(text)) <= 0.01 * len(text)
