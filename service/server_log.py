"""Where a server's log goes: a file that is kept small, and its warnings to standard error too.

Each line names the request it is about (``request_ids``). Knows nothing of what is logged.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path

from service.request_ids import FORMAT, mark

LARGEST_BYTES, KEPT_FILES = 10_000_000, 5
"""Of one file, and how many older ones are kept beside it."""
_TELL_URLS = ("httpx", "httpx2", "httpcore", "httpcore2")
"""Libraries that log the whole URL of each request they make: a webhook's path and query are its secret."""


class _PrivateFile(RotatingFileHandler):
    """A log file that its owner alone can read; that it cannot be written (a full disk) is said once."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's own name
        error = sys.exc_info()[1]
        if not isinstance(error, OSError):
            super().handleError(record)
        elif not self._told:
            self._told = True
            sys.stderr.write(f"The log {self.baseFilename} cannot be written: {error.strerror}. Lines are lost.\n")

    def _open(self) -> TextIOWrapper:
        def private(path: str, flags: int) -> int:
            return os.open(path, flags, 0o600)

        return open(self.baseFilename, "a", encoding=self.encoding, opener=private)


def keep_urls_out() -> None:
    """Let no library log what this process asks of others at which address."""
    for name in _TELL_URLS:
        logging.getLogger(name).setLevel(logging.WARNING)


@contextmanager
def server_log(path: Path, level: str) -> Iterator[None]:
    """Log to the file at ``path`` until the block ends; warnings to standard error, unless all goes there already.

    Args:
        path: the file; older ones lie beside it as ``.1`` to ``.5``.
        level: of the least important records kept, as ``logging`` names it.
    """
    root = logging.getLogger()
    before = root.level
    keep_urls_out()
    file = _PrivateFile(path, maxBytes=LARGEST_BYTES, backupCount=KEPT_FILES, encoding="utf-8", delay=True)
    file.setLevel(level)
    handlers: list[logging.Handler] = [file]
    if not any(type(handler) is logging.StreamHandler for handler in root.handlers):
        handlers.append(logging.StreamHandler(sys.stderr))
        handlers[-1].setLevel(logging.WARNING)
    for handler in handlers:
        handler.addFilter(mark)
        handler.setFormatter(logging.Formatter(FORMAT))
        root.addHandler(handler)
    root.setLevel(level)
    try:
        yield
    finally:
        root.setLevel(before)
        for handler in handlers:
            root.removeHandler(handler)
            with suppress(OSError):  # what is left to write is lost; stopping goes on
                handler.close()
