"""Show the chunks that a file would become under given settings; nothing is stored.

Knows nothing of HTTP or the command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.records import Document, content_id

if TYPE_CHECKING:
    from service.workspace import Workspace

LARGEST = 10 * 2**20
"""Bytes of a file that is previewed, at most: it is chunked while somebody waits."""


def preview_chunks(
    workspace: Workspace, path: Path, source: str, chunk_size: int | None = None, chunk_overlap: int | None = None
) -> dict[str, Any]:
    """Return the document's facts and its chunks; the settings that are None are the configured ones.

    Each chunk has ``n`` (from 1), ``heading``, ``page``, ``tokens`` (of its text, as the embedder
    counts), ``start``, ``end`` and ``text``, which stands at start:end of the document's text.

    Raises:
        UnreadableDocument: the file cannot be loaded.
        InvalidRequest: chunk_overlap is not smaller than chunk_size.
    """
    from retrieval.chunk import chunk
    from retrieval.load import Limits, load

    settings, count_tokens = workspace.settings, workspace.embedder.count_tokens
    size = settings.chunk_size if chunk_size is None else chunk_size
    overlap = settings.chunk_overlap if chunk_overlap is None else chunk_overlap
    loaded = load(path, limits=Limits(max_bytes=min(LARGEST, settings.max_document_bytes)), source=source)
    identity = content_id(source, loaded.text)
    document = Document(identity, source, loaded.title, loaded.text, loaded.media_type, loaded.meta)
    chunks = chunk(document, count_tokens, size, overlap)
    return {
        "source": source,
        "title": document.title,
        "media_type": document.media_type,
        "characters": len(document.text),
        "chunk_size": size,
        "chunk_overlap": overlap,
        "chunks": [
            {
                "n": number,
                "heading": piece.heading,
                "page": piece.page,
                "tokens": count_tokens(piece.text),
                "start": piece.start,
                "end": piece.end,
                "text": piece.text,
            }
            for number, piece in enumerate(chunks, 1)
        ],
    }
