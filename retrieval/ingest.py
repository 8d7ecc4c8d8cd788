"""Make a collection equal to a set of files: load, chunk, store, then build an index generation.

The store is written first and is the truth; the index follows by difference. Files that did not
change cost one hash. Knows nothing of HTTP, jobs or settings files.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from data.errors import RagtuneError, UnreadableDocument
from data.protocols import Embedder, Report
from data.records import Chunk, Document, Progress, content_id
from data.state import StateDirectory, check_name, sha256_file
from data.store import DocumentRow, Store
from retrieval.chunk import CHUNKER, chunk, embedded_text
from retrieval.generation import GenerationBuilder, embed_cached, read_manifest
from retrieval.load import Limits, find_files, load

_EMBED_BATCH = 64


class IngestSettings(Protocol):
    """What ingesting wants to be told; ``service.settings.Settings`` has these, and so may a test."""

    @property
    def chunk_size(self) -> int:
        """Tokens of the embedder in a chunk, at most."""

    @property
    def chunk_overlap(self) -> int:
        """Tokens that a chunk repeats of the one before, at most."""

    @property
    def max_document_bytes(self) -> int:
        """Size of a file, at most."""


@dataclass(frozen=True, slots=True)
class IngestReport:
    """What became of each file: every file is in exactly one of indexed, unchanged and failed.

    ``indexed`` rows are ``{"id", "source", "chunks"}``, ``failed`` rows ``{"source", "type",
    "detail", "got", "wanted", "hint"}`` (``got`` None where it is the source); ``deleted`` names
    sources. ``generation`` is the index's current one.
    """

    indexed: list[dict[str, Any]] = field(default_factory=list)
    unchanged: list[dict[str, Any]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    generation: int | None = None


@dataclass(frozen=True, slots=True)
class _Prepared:
    """A document that is chunked and embedded, but not stored yet."""

    document: Document
    chunks: list[Chunk]
    sha256: str
    size: int


def ignore_progress(_: Progress) -> None:
    """Report to nobody."""


class Ingestor:
    """Ingests files into collections, and keeps their indexes."""

    def __init__(self, store: Store, state: StateDirectory, embedder: Embedder, settings: IngestSettings) -> None:
        self._store = store
        self._state = state
        self._embedder = embedder
        self._limits = Limits(max_bytes=settings.max_document_bytes)
        self._chunking = {"chunk_size": settings.chunk_size, "chunk_overlap": settings.chunk_overlap}
        self._builder = GenerationBuilder(store, state, embedder, {"chunker": CHUNKER, **self._chunking})

    @property
    def settings_fingerprint(self) -> str:
        """Name what else than a file's bytes decides its chunks."""
        return content_id(CHUNKER, self._embedder.fingerprint, *(f"{k}={v}" for k, v in self._chunking.items()))

    def ingest(
        self, collection: str, paths: Sequence[Path | str], *, sync: bool = False, report: Report = ignore_progress
    ) -> IngestReport:
        """Ingest files and folders, then build the index; one bad file fails alone.

        New documents are stored as they come; those that replace others are stored at the end, just
        before the index follows, so that what is searched stays whole meanwhile. ``sync`` also
        deletes the collection's documents whose source was not among the files.

        Raises:
            InvalidRequest: a path that does not exist, no file at all, or a bad collection name.
            JobCancelled: ``report`` said so; what was stored stays, and the next call goes on from there.
        """
        check_name(collection, "collection name")
        files = find_files(paths)
        self._store.collections.ensure(collection)
        known = self._store.documents.by_source(collection)
        done = IngestReport()
        replacements = self._store_new(collection, files, known, done, report)
        for prepared in replacements:
            self._put(collection, prepared, done)
        if sync:
            # What is in a folder that could not be listed is not gone.
            unseen = tuple(f"{row['source']}/" for row in done.failed)
            for source in sorted(known.keys() - {source for _, source in files}):
                if source.startswith(unseen):
                    continue
                self._store.documents.delete(known[source].id)
                done.deleted.append(source)
        generation = self._builder.build(collection, report)
        return IngestReport(done.indexed, done.unchanged, done.deleted, done.failed, generation)

    def delete(self, document_id: str) -> None:
        """Delete a document; it is found no more at once, and the next build takes it out of the index.

        Raises:
            UnknownDocument: there is none.
        """
        self._store.documents.delete(document_id)

    def rebuild(self, collection: str, report: Report = ignore_progress) -> int | None:
        """Chunk again what was chunked under other settings, then build a generation from nothing.

        Vectors of texts that were embedded before are taken from the cache. Returns the number of
        the new generation, None if there is nothing to index and never was.

        Raises:
            UnknownCollection: no such collection.
        """
        self._store.collections.current_generation(collection)
        fingerprint = self.settings_fingerprint
        rows = self._store.documents.by_source(collection).values()
        outdated = [row for row in rows if row.settings_fingerprint != fingerprint]
        progress = _Countdown(len(outdated), "chunk", report)
        prepared = []
        for row in outdated:
            document = self._store.documents.get(row.id)
            prepared.append(_Prepared(document, self._chunks(document), row.sha256, row.size))
            progress.step()
        for item in prepared:
            self._put(collection, item, IngestReport())
        return self._builder.build(collection, report, fresh=True)

    def rollback(self, collection: str) -> int:
        """Make the index generation before the current one current; return its number.

        Documents added since are found again after the next build.

        Raises:
            InvalidRequest: there is none to go back to.
            UnknownCollection: no such collection.
        """
        return self._builder.rollback(collection)

    def status(self, collection: str) -> dict[str, Any]:
        """Return what a collection's index holds and whether it is up to date.

        Raises:
            UnknownCollection: no such collection.
            StorageCorrupt: the current generation is damaged.
        """
        current = self._store.collections.current_generation(collection)
        manifest: Mapping[str, Any] = {}
        if current is not None:
            manifest = read_manifest(self._state.index(collection, current))
        rows = self._store.documents.by_source(collection).values()
        keys = self._store.chunks.keys(collection)
        return {
            "collection": collection,
            "generation": current,
            "documents": len(rows),
            "chunks": len(keys),
            "indexed_chunks": manifest.get("chunks", 0),
            "up_to_date": self._builder.is_current(manifest, keys)
            and all(row.settings_fingerprint == self.settings_fingerprint for row in rows),
            "embedder": manifest.get("embedder"),
            "settings": manifest.get("settings", {}),
            "generations": [
                {"number": row.number, "status": row.status, "current": row.current, "created_at": row.created_at}
                for row in self._store.generations.list(collection)
            ],
        }

    def _store_new(
        self,
        collection: str,
        files: Sequence[tuple[Path, str]],
        known: Mapping[str, DocumentRow],
        done: IngestReport,
        report: Report,
    ) -> list[_Prepared]:
        """Load every changed file and store those with a new source; return the ones that replace."""
        replacements = []
        progress = _Countdown(len(files), "load", report)
        for path, source in files:
            try:
                prepared = self._prepare(collection, path, source, known.get(source))
            except UnreadableDocument as error:
                done.failed.append(_failure(source, error))
            else:
                if prepared is None:
                    row = known[source]
                    done.unchanged.append({"id": row.id, "source": source, "chunks": row.chunks})
                elif source in known:
                    replacements.append(prepared)
                else:
                    self._put(collection, prepared, done)
            progress.step()
        return replacements

    def _prepare(self, collection: str, path: Path, source: str, known: DocumentRow | None) -> _Prepared | None:
        """Return the loaded, chunked and embedded document, None if it is stored just so already."""
        sha256 = _sha256(path, source)
        fingerprint = self.settings_fingerprint
        if known is not None and known.sha256 == sha256 and known.settings_fingerprint == fingerprint:
            return None
        loaded = load(path, limits=self._limits, source=source)
        document = Document(
            id=content_id(collection, source, loaded.text),
            source=source,
            title=loaded.title,
            text=loaded.text,
            media_type=loaded.media_type,
            meta=loaded.meta,
        )
        return _Prepared(document, self._chunks(document), sha256, path.stat().st_size)

    def _chunks(self, document: Document) -> list[Chunk]:
        """Chunk a document and put the vectors of its chunks into the cache."""
        chunks = chunk(document, self._embedder.count_tokens, **self._chunking)
        texts = [embedded_text(piece) for piece in chunks]
        for start in range(0, len(texts), _EMBED_BATCH):
            embed_cached(self._store, self._embedder, texts[start : start + _EMBED_BATCH])
        return chunks

    def _put(self, collection: str, prepared: _Prepared, done: IngestReport) -> None:
        row = self._store.documents.put(
            collection,
            prepared.document,
            prepared.sha256,
            prepared.chunks,
            size=prepared.size,
            settings_fingerprint=self.settings_fingerprint,
        )
        done.indexed.append({"id": row.id, "source": row.source, "chunks": row.chunks})


class _Countdown:
    """Reports one stage of known length, document by document."""

    def __init__(self, total: int, stage: str, report: Report) -> None:
        self._done, self._total, self._stage, self._report = 0, total, stage, report
        self._started = time.monotonic()

    def step(self) -> None:
        """Report one more document."""
        self._done += 1
        eta_s = (time.monotonic() - self._started) / self._done * (self._total - self._done)
        self._report(Progress(self._done, self._total, "documents", eta_s, self._stage))


def _sha256(path: Path, source: str) -> str:
    try:
        return sha256_file(path)
    except OSError as error:
        raise UnreadableDocument(
            f"The file cannot be read: {error.strerror}.", got=source, hint="Check its permissions."
        ) from error


def _failure(source: str, error: RagtuneError) -> dict[str, Any]:
    got = None if error.got == source else error.got
    return {
        "source": source,
        "type": error.type,
        "detail": error.detail,
        "got": got,
        "wanted": error.wanted,
        "hint": error.hint,
    }
