"""A program that atheris drives: bytes that its coverage chooses, given to one loader and cut into chunks.

``python -m tests.torture.loader_fuzz FORMAT CORPUS -runs=N -seed=S``: libFuzzer's own options follow. What may come
out of a file: a document whose chunks are exact stretches of its text, or one of ragtune's own errors. Anything else
ends the program with status 77 and leaves the bytes under ``-artifact_prefix``. Knows nothing of what is recorded.
"""

from __future__ import annotations

import logging
import re
import sys
import time
from importlib import import_module

import atheris

with atheris.instrument_imports(include=["retrieval"]):
    from data.errors import RagtuneError
    from data.records import Document
    from retrieval import sniff
    from retrieval.chunk import chunk
    from retrieval.parsers.parsed import Budget, Parsed
    from retrieval.parsers.registry import parse
    from retrieval.text import normalize

    for _name in ("mail", "rst", "sheets", "structured", "web"):
        import_module(f"retrieval.parsers.{_name}")  # the registry does when their format comes: too late to be watched

FORMATS = {
    "csv": sniff.CSV,
    "email": sniff.EMAIL,
    "html": sniff.HTML,
    "json": sniff.JSON,
    "jsonl": sniff.JSONL,
    "markdown": sniff.MARKDOWN,
    "notebook": sniff.NOTEBOOK,
    "rst": sniff.RST,
}
"""The loaders that are ours; PDF, Office, EPUB and spreadsheets are read by libraries."""
_TEXT, _UNPACKED, _MEMBERS, _RATIO, _DEPTH, _SECONDS = 1_000_000, 10_000_000, 100, 200.0, 3, 20.0


def count_words(text: str) -> int:
    """Count as a tokenizer might, without one."""
    return len(re.findall(r"[一-鿿]|\w+|[^\w\s]", text))


def check(media_type: str, raw: bytes) -> None:
    """Load ``raw`` and cut it.

    Raises:
        AssertionError: the document or its chunks are not sound.
    """
    budget = Budget(_TEXT, _UNPACKED, _MEMBERS, _RATIO, _DEPTH, time.monotonic() + _SECONDS)
    try:
        sniff.sniff(raw, "file")
        parsed = parse(raw, media_type, budget)
    except (RagtuneError, MemoryError, RecursionError):
        return  # the child names the last two as what they are
    _check_sound(media_type, parsed)


def _check_sound(media_type: str, parsed: Parsed) -> None:
    text = parsed.text if parsed.meta.get("page_starts") else normalize(parsed.text)
    text.encode()
    meta = {"markup": "markdown"} if parsed.markdown else {}
    document = Document("d", "d", normalize(parsed.title) or "d", text, media_type, meta)
    for piece in chunk(document, count_words, 40):
        assert text[piece.start : piece.end] == piece.text
        assert piece.text.strip()


def main() -> None:
    """Fuzz the loader that is named first; all else goes to libFuzzer."""
    media_type = FORMATS[sys.argv[1]]
    logging.disable(logging.CRITICAL)
    atheris.Setup([sys.argv[0], *sys.argv[2:]], lambda raw: check(media_type, raw))
    atheris.Fuzz()


if __name__ == "__main__":
    main()
