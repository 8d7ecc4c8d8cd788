"""Which embedder a collection is indexed and searched with: the one its current generation was built with.

An index answers only to the vectors of its own embedder, so nothing else decides: building a
generation with another embedder, or rolling one back, changes the embedder in the same step. Knows
nothing of where embedders come from.
"""

from __future__ import annotations

from collections.abc import Callable

from data.errors import NotFound
from data.protocols import Embedder
from data.store import Store

Find = Callable[[str], Embedder | None]
"""Returns the embedder of a fingerprint, None if it is not at hand."""


class Embedders:
    """The configured embedder, and those that ``find`` knows (tuned ones)."""

    def __init__(self, store: Store, configured: Embedder, find: Find | None = None) -> None:
        self._store, self._find = store, find
        self.configured = configured

    def named(self, fingerprint: str) -> Embedder | None:
        """Return the embedder of ``fingerprint``, None if it is not at hand."""
        if fingerprint == self.configured.fingerprint:
            return self.configured
        return None if self._find is None else self._find(fingerprint)

    def of(self, collection: str) -> Embedder:
        """Return the embedder of the current generation; the configured one before the first, or if it is gone."""
        try:
            number = self._store.collections.current_generation(collection)
            manifest = {} if number is None else self._store.generations.get(collection, number).manifest
        except NotFound:
            return self.configured
        return self.named(str(manifest.get("embedder"))) or self.configured
