"""What ingesting asks of file names, tags and clocks before it reads anything.

Knows nothing of what is in the files.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from data.errors import InvalidRequest, RagtuneError
from data.protocols import Report
from data.records import Progress
from data.state import sha256_file

_LONGEST_TAG = 100


@dataclass(frozen=True, slots=True)
class Facts:
    """Size in bytes and time of change (Unix seconds) of a file."""

    size: int
    modified_at: float


class Countdown:
    """Reports one stage of known length, document by document."""

    def __init__(self, total: int, stage: str, report: Report) -> None:
        self._done, self._total, self._stage, self._report = 0, total, stage, report
        self._started = time.monotonic()

    def step(self) -> None:
        """Report one more document."""
        self._done += 1
        self._total = max(self._total, self._done)  # An archive is one file and many documents.
        self.alive()

    def alive(self) -> None:
        """Report how far it is: that the work goes on, and in case it shall not."""
        eta_s = (time.monotonic() - self._started) / self._done * (self._total - self._done) if self._done else None
        self._report(Progress(self._done, self._total, "documents", eta_s, self._stage))


def check_tags(tags: Sequence[str]) -> tuple[str, ...]:
    """Return the tags without blanks around them, each once.

    Raises:
        InvalidRequest: an empty or very long one.
    """
    stripped = tuple(dict.fromkeys(tag.strip() for tag in tags))
    for tag in stripped:
        if not tag or len(tag) > _LONGEST_TAG:
            raise InvalidRequest("Invalid tag.", got=tag[:_LONGEST_TAG], wanted=f"1 to {_LONGEST_TAG} characters")
    return stripped


def among(files: Sequence[tuple[Path, str]], changed: Collection[Path]) -> list[tuple[Path, str]]:
    """Return the (file, source) pairs whose file is one of ``changed`` or lies in one of them."""
    wanted = {path.absolute() for path in changed}
    return [
        (path, source) for path, source in files if not wanted.isdisjoint((path.absolute(), *path.absolute().parents))
    ]


def is_present(source: str, present: Collection[str]) -> bool:
    """Say whether a source is one of those ``present``, or the member of an archive that is."""
    return source in present or any(str(parent) in present for parent in PurePosixPath(source).parents)


def left_archives(known: Iterable[str], archives: Mapping[str, Collection[str]]) -> set[str]:
    """Return the known sources that are no longer among the members of the archives they were in."""
    found = set()
    for source in known if archives else ():
        inside = next((str(p) for p in PurePosixPath(source).parents if str(p) in archives), None)
        if inside is not None and source not in archives[inside]:
            found.add(source)
    return found


def facts_of(path: Path) -> Facts | None:
    """Return the facts of a file; None if it is out of reach, which reading it will explain better."""
    try:
        found = path.stat()
    except OSError:
        return None
    return Facts(found.st_size, found.st_mtime)


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes; empty if it is out of reach, which reading it will explain better."""
    try:
        return sha256_file(path)
    except OSError:
        return ""


def date_of(meta: Mapping[str, Any]) -> float:
    """Return the date that a document gives itself in Unix seconds, 0 if it gives none."""
    try:
        return datetime.fromisoformat(str(meta.get("date", ""))).timestamp()
    except (ValueError, OverflowError, OSError):
        return 0.0


def failure(source: str, error: RagtuneError) -> dict[str, Any]:
    """Return what a report says about a file that failed; ``got`` is None where it is the source."""
    got = None if error.got == source else error.got
    return {
        "source": source,
        "type": error.type,
        "detail": error.detail,
        "got": got,
        "wanted": error.wanted,
        "hint": error.hint,
    }
