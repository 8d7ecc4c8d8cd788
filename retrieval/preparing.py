"""What one file becomes: parsed and chunked, as a function of its bytes and of nothing else.

So it can be done in any process that has the same embedder. Knows nothing of the store, of indexes or of
which files there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from data.errors import IndexMismatch, RagtuneError, UnreadableDocument
from data.protocols import Embedder
from data.records import Document, content_id
from data.store import NewDocument
from retrieval.chunk import CHUNKER, chunk, embedded_text
from retrieval.facts import date_of
from retrieval.load import Content, Limits, parse

_TASK_BYTES = 256 * 2**10


@dataclass(frozen=True, slots=True)
class Unread:
    """A file to prepare. ``identity`` is the id that its document has to keep, "" to make one of its text."""

    content: Content
    collection: str
    sha256: str
    identity: str = ""
    tags: Sequence[str] | None = None

    @property
    def weight(self) -> float:
        """Return how much work it is; 1 is worth sending away."""
        return len(self.content.data) / _TASK_BYTES


@dataclass(frozen=True, slots=True)
class Outcome:
    """What reading one file gave: a document to store, an error, or neither where it is stored already."""

    source: str
    new: NewDocument | None = None
    error: RagtuneError | None = None
    modified_at: float = 0.0

    @property
    def texts(self) -> list[str]:
        """Return what is embedded of it."""
        return [embedded_text(chunk) for chunk in self.new.chunks] if self.new else []


def settings_fingerprint(embedder: Embedder, chunk_size: int, chunk_overlap: int) -> str:
    """Name what else than a file's bytes decides its chunks."""
    return content_id(CHUNKER, embedder.fingerprint, f"chunk_size={chunk_size}", f"chunk_overlap={chunk_overlap}")


def require_same(here: str, wanted: str) -> None:
    """Refuse to work with another model or other code than what the results are for.

    Raises:
        IndexMismatch: fingerprints differ.
    """
    if here != wanted:
        raise IndexMismatch(
            "The embedding model or the version of ragtune is another one here.",
            got=here,
            wanted=wanted,
            hint="Install the same ragtune and the same model on every node.",
        )


@dataclass(frozen=True, slots=True)
class Preparing:
    """The function: an ``Unread`` becomes an ``Outcome``. ``fingerprint`` is ``settings_fingerprint``'s."""

    embedder: Embedder
    fingerprint: str
    chunk_size: int
    chunk_overlap: int
    limits: Limits

    def __call__(self, unread: Unread) -> Outcome:
        """Parse and chunk one file; what is wrong with the file is in the outcome.

        Raises:
            IndexMismatch: this process has another embedder or chunker.
            StateError: the parser could not be started, or the disk is full.
        """
        require_same(settings_fingerprint(self.embedder, self.chunk_size, self.chunk_overlap), self.fingerprint)
        content = unread.content
        try:
            loaded = parse(content, limits=self.limits)
        except UnreadableDocument as error:
            return Outcome(content.source, error=error)
        identity = unread.identity or content_id(unread.collection, content.source, loaded.text)
        document = Document(identity, content.source, loaded.title, loaded.text, loaded.media_type, loaded.meta)
        modified_at = date_of(loaded.meta) or content.modified_at
        new = self.cut(document, unread.sha256, len(content.data), modified_at, unread.tags)
        return Outcome(content.source, new, modified_at=content.modified_at)

    def cut(
        self, document: Document, sha256: str, size: int, modified_at: float, tags: Sequence[str] | None = None
    ) -> NewDocument:
        """Chunk a document."""
        chunks = chunk(document, self.embedder.count_tokens, self.chunk_size, self.chunk_overlap)
        return NewDocument(document, sha256, chunks, size, self.fingerprint, tags, modified_at)

    def renamed(self, new: NewDocument, identity: str) -> NewDocument:
        """Return a document under another id, which its chunks' ids follow from."""
        document = replace(new.document, id=identity)
        return self.cut(document, new.sha256, new.size, new.modified_at, new.tags)
