"""The web page's files, read once: what is served under which path, with media type and ETag.

All of them stand under a folder named after their content, so a browser may keep them for ever and never mixes
the modules of two releases; only the page itself, which names that folder, is asked for again. Knows nothing of
requests.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PAGE = "/"
_FOLDER = Path(__file__).parent / "web"
_INDEX = "index.html"
_MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
"""The files of the page; others in the folder (templates) are not served."""


@dataclass(frozen=True, slots=True)
class Asset:
    """One file as it is served; ``etag`` is over its bytes."""

    content: bytes
    media_type: str
    etag: str


@cache
def page_assets(folder: Path = _FOLDER) -> Mapping[str, Asset]:
    """Return the files of the page by URL path: the page as ``/``, the others as ``/web/<version>/<name>``."""
    found = {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.suffix in _MEDIA_TYPES
    }
    digest = hashlib.sha256()
    for name, content in found.items():
        digest.update(f"{name} {len(content)}\n".encode() + content)
    root = f"/web/{digest.hexdigest()[:16]}"
    page = found.pop(_INDEX).replace(b"{root}", root.encode())
    return {PAGE: _asset(_INDEX, page), **{f"{root}/{name}": _asset(name, content) for name, content in found.items()}}


def _asset(name: str, content: bytes) -> Asset:
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    return Asset(content, _MEDIA_TYPES[Path(name).suffix], etag)
