"""Turn generated token bytes into text that is safe to show: whole characters, no stop strings.

Knows nothing of tokens or models.
"""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class TextStream:
    """Collects the bytes of a generation and hands out the text that cannot change any more."""

    def __init__(self, stop: Sequence[str] = ()) -> None:
        self._stop = tuple(text for text in stop if text)
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._held = ""
        self._shown: list[str] = []
        self.stopped = False

    @property
    def text(self) -> str:
        """The text handed out so far."""
        return "".join(self._shown)

    def feed(self, piece: bytes) -> str:
        """Take the bytes of one token and return the text that may now be shown.

        Held back are an incomplete character and a tail that may grow into a stop string. After a
        stop string (which is cut off) ``stopped`` is true and nothing more comes.
        """
        return self._take(self._decoder.decode(piece))

    def finish(self) -> str:
        """Return what was held back; an incomplete character becomes U+FFFD."""
        rest = self._take(self._decoder.decode(b"", final=True))
        if self.stopped:
            return rest
        held, self._held = self._held, ""
        return rest + self._show(held)

    def _take(self, new: str) -> str:
        if self.stopped:
            return ""
        self._held += new
        ends = [at for at in (self._held.find(stop) for stop in self._stop) if at >= 0]
        if ends:
            self.stopped = True
            return self._show(self._held[: min(ends)])
        safe = len(self._held) - self._undecided()
        shown, self._held = self._held[:safe], self._held[safe:]
        return self._show(shown)

    def _undecided(self) -> int:
        """Return the length of the longest tail that begins a stop string."""
        longest = min(len(self._held), max(map(len, self._stop), default=1) - 1)
        return next(
            (n for n in range(longest, 0, -1) if any(stop.startswith(self._held[-n:]) for stop in self._stop)), 0
        )

    def _show(self, text: str) -> str:
        if text:
            self._shown.append(text)
        return text
