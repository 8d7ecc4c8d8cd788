"""Which embedder a collection is indexed and searched with: the one its current generation was built with.

An index answers only to the vectors of its own embedder, so nothing else decides: building a
generation with another embedder, or rolling one back, changes the embedder in the same step. Knows
nothing of where embedders come from.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from data.errors import NotFound, StorageCorrupt
from data.protocols import Embedder
from data.store import Store

log = logging.getLogger(__name__)

Find = Callable[[str], Embedder | None]
"""Returns the embedder of a fingerprint, None if it is not at hand."""


class Embedders:
    """The configured embedder, and those that ``find`` knows (tuned ones)."""

    def __init__(self, store: Store, configured: Embedder, find: Find | None = None) -> None:
        self._store, self._find = store, find
        self.configured = configured

    def named(self, fingerprint: str) -> Embedder | None:
        """Return the embedder of ``fingerprint``, None if it is not at hand (gone, or damaged)."""
        if fingerprint == self.configured.fingerprint:
            return self.configured
        try:
            return None if self._find is None else self._find(fingerprint)
        except StorageCorrupt:
            # Searches say IndexMismatch; the next build goes on with the configured embedder.
            log.exception("the embedder of an index cannot be used")
            return None

    def of(self, collection: str) -> Embedder:
        """Return the embedder of the current generation; the configured one before the first, or if it is gone."""
        return self.named(self.indexed_with(collection)) or self.configured

    def indexed_with(self, collection: str) -> str:
        """Return the fingerprint that the current generation names, at hand or not; "" before the first."""
        try:
            number = self._store.collections.current_generation(collection)
            manifest = {} if number is None else self._store.generations.get(collection, number).manifest
        except NotFound:
            return ""
        return str(manifest.get("embedder", ""))
