"""Make a collection equal to a set of files: load, chunk, embed, store, then build an index generation.

One thread reads and chunks ahead while this one embeds and stores window by window, so that no more
than some windows of text are in memory, however many files there are. The store is written first and
is the truth; the index follows by difference. Files that did not change cost one hash. Knows nothing
of HTTP, jobs or settings files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from data.errors import UnreadableDocument
from data.protocols import Embedder, Report
from data.records import Progress, StageNote, content_id
from data.state import StateDirectory, check_name
from data.store import DocumentRow, Store
from retrieval.ahead import ahead
from retrieval.chunk import CHUNKER
from retrieval.compact import collect_garbage
from retrieval.embedders import Embedders, Find
from retrieval.facts import (
    Countdown,
    among,
    check_tags,
    facts_of,
    failure,
    is_present,
    left_archives,
    sha256_of,
)
from retrieval.generation import GenerationBuilder, read_manifest
from retrieval.legs import DenseLegs
from retrieval.load import Content, Limits, expand, find_files, is_archive, read
from retrieval.preparing import Outcome, Preparing, Unread, settings_fingerprint
from retrieval.vectors import embed_chunks, embedded_ahead
from retrieval.verify import Verifier
from retrieval.workers import Done, LocalWorkers, Workers
from retrieval.writer import Window, Writer

_AHEAD_CHARACTERS = 16 * 2**20


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
    """What became of each file: every file is in exactly one of indexed, unchanged, moved and failed.

    ``indexed`` rows are ``{"id", "source", "chunks"}``, ``moved`` rows ``{"from", "to", "id"}``,
    ``failed`` rows ``{"source", "type", "detail", "got", "wanted", "hint"}`` (``got`` None where it is
    the source); ``deleted`` names sources. ``generation`` is the index's current one.
    """

    indexed: list[dict[str, Any]] = field(default_factory=list)
    unchanged: list[dict[str, Any]] = field(default_factory=list)
    moved: list[dict[str, Any]] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    generation: int | None = None


@dataclass(slots=True)
class _Run:
    """One call of ``ingest``: what was known before, what is done, and what to tell whom."""

    collection: str
    known: dict[str, DocumentRow]
    tags: tuple[str, ...] | None
    progress: Countdown
    done: IngestReport = field(default_factory=IngestReport)
    notes: list[tuple[str, Sequence[str], float]] = field(default_factory=list)
    archives: dict[str, set[str]] = field(default_factory=dict)


def ignore_progress(_: Progress) -> None:
    """Report to nobody."""


class Ingestor:
    """Ingests files into collections, and keeps their indexes."""

    def __init__(
        self,
        store: Store,
        state: StateDirectory,
        embedder: Embedder,
        settings: IngestSettings,
        window: Window | None = None,
        *,
        find: Find | None = None,
        legs: DenseLegs | None = None,
        workers: Workers | None = None,
    ) -> None:
        """Keep what ingesting needs; an index whose own embedder ``find`` knows goes on with that one.

        ``workers`` parse, chunk and embed; without them this process does.
        """
        self._store, self._state = store, state
        self._embedder, self._embedders = embedder, Embedders(store, embedder, find)
        self._window, self._limits = window or Window(), Limits(max_bytes=settings.max_document_bytes)
        chunking = {"chunk_size": settings.chunk_size, "chunk_overlap": settings.chunk_overlap}
        noted = {"chunker": CHUNKER, **chunking}
        self._chunking, self._workers = chunking, workers
        self._builder = GenerationBuilder(store, state, embedder, noted, find=find, legs=legs)

    @property
    def settings_fingerprint(self) -> str:
        """Name what else than a file's bytes decides its chunks."""
        return settings_fingerprint(self._embedder, **self._chunking)

    @property
    def _preparing(self) -> Preparing:
        return Preparing(self._embedder, self.settings_fingerprint, **self._chunking, limits=self._limits)

    def ingest(
        self,
        collection: str,
        paths: Sequence[Path | str],
        *,
        sync: bool = False,
        tags: Sequence[str] | None = None,
        changed: Collection[Path] | None = None,
        report: Report = ignore_progress,
    ) -> IngestReport:
        """Ingest files and folders, then build the index; one bad file fails alone.

        Documents are stored window by window; each is in place when its progress is reported. What
        they replace is searched until the index follows, so searches see each document all the time.

        Args:
            collection: created if it does not exist.
            paths: files and folders.
            sync: mirror: a document whose file is gone is deleted, or moved if its bytes came up elsewhere.
            tags: put on every document among the files; None leaves tags as they are.
            changed: look only at these files (and those in these folders), and at what is gone.
            report: receives the progress in documents, then in chunks.

        Raises:
            InvalidRequest: a path that does not exist, no file at all, a bad collection name or tag.
            JobCancelled: ``report`` said so; what was stored stays, and the next call goes on from there.
        """
        check_name(collection, "collection name")
        tags = None if tags is None else check_tags(tags)
        files = find_files(paths)
        present = {source for _, source in files}
        if changed is not None:
            files = among(files, changed)
        self._store.collections.ensure(collection)
        known = self._store.documents.by_source(collection)
        run = _Run(collection, known, tags, Countdown(len(files), "load", report))
        gone = {source: row for source, row in known.items() if sync and not is_present(source, present)}
        files = self._move(run, files, gone)
        self._store_all(run, self._read(run, files))
        if sync:
            gone |= {source: known[source] for source in left_archives(known, run.archives)}
            # What is in a folder that could not be listed is not gone.
            unseen = tuple(f"{row['source']}/" for row in run.done.failed)
            gone = {source: row for source, row in gone.items() if not source.startswith(unseen)}
        if run.notes:
            self._store.documents.annotate(run.notes)
        done = run.done
        self._store.documents.delete_many(row.id for row in gone.values())
        done.deleted.extend(sorted(gone))
        generation = self._builder.build(collection, report)
        return IngestReport(done.indexed, done.unchanged, done.moved, done.deleted, done.failed, generation)

    def delete(self, document_id: str) -> None:
        """Delete a document; it is found no more at once, and the next build takes it out of the index.

        Raises:
            UnknownDocument: there is none.
        """
        self._store.documents.delete(document_id)

    def rebuild(
        self, collection: str, report: Report = ignore_progress, *, embedder: Embedder | None = None
    ) -> int | None:
        """Chunk again what was chunked under other settings, then build a generation from nothing.

        The old generation and its chunks are searched until the new one takes over. Vectors of texts
        that were embedded before are taken from the cache. ``embedder`` takes the place of the index's
        own. Returns the number of the new generation, None if there is nothing to index and never was.

        Raises:
            UnknownCollection: no such collection.
        """
        self._store.collections.current_generation(collection)
        rows = self._store.documents.by_source(collection).values()
        outdated = [row for row in rows if row.settings_fingerprint != self.settings_fingerprint]
        self.rechunk(collection, outdated, report, embedder=embedder)
        if self._workers is not None:
            chosen, alive = embedder or self._embedders.of(collection), Countdown(len(rows), "embed", report).alive
            embed_chunks(self._store, chosen, self._workers, collection, alive)
        return self._builder.build(collection, report, fresh=True, embedder=embedder)

    def rechunk(
        self, collection: str, rows: Sequence[DocumentRow], report: Report, *, embedder: Embedder | None = None
    ) -> None:
        """Chunk stored documents anew, from their text, and embed them; the index follows at the next build."""
        run = _Run(collection, {}, None, Countdown(len(rows), "chunk", report))
        self._store_all(run, (self._again(row) for row in rows), embedder)

    def build(self, collection: str, report: Report, *, fresh: bool = False) -> int | None:
        """Make the index equal to the store, ``fresh`` from nothing; return the current generation."""
        return self._builder.build(collection, report, fresh=fresh)

    def verify(self, collection: str, report: Report = ignore_progress, *, repair: bool = False) -> dict[str, Any]:
        """Check every invariant of a collection and its index; see ``retrieval.verify``."""
        return Verifier(self._store, self._state, self, self._builder.legs).verify(collection, report, repair=repair)

    def compact(self, collection: str, report: Report = ignore_progress) -> dict[str, Any]:
        """Join the segments of a collection's index, then drop what nothing needs any more.

        Returns ``{"collection", "generation", "dropped": {"vectors", "replaced_documents", "uploads",
        "bytes"}}``.

        Raises:
            UnknownCollection: no such collection.
        """
        self._store.collections.current_generation(collection)
        generation = self._builder.build(collection, report, compact=True)
        dropped = collect_garbage(self._store, self._state, self._embedder.fingerprint, report)
        return {"collection": collection, "generation": generation, "dropped": dropped}

    def embedder_of(self, collection: str) -> str:
        """Return the fingerprint of the embedder that a collection's documents are indexed with."""
        return self._embedders.of(collection).fingerprint

    def index_locked(self, collection: str) -> AbstractContextManager[Path]:
        """Keep others from changing a collection's index meanwhile."""
        return self._builder.locked(collection)

    def _again(self, row: DocumentRow) -> Outcome:
        """Chunk a stored document anew."""
        document = self._store.documents.get(row.id)
        return Outcome(row.source, self._preparing.cut(document, row.sha256, row.size, row.modified_at))

    def rollback(self, collection: str, note: StageNote | None = None) -> int:
        """Make the index generation before the current one current; return its number.

        Documents added since are found again after the next build. ``note`` tells the log who did it and why.

        Raises:
            InvalidRequest: there is none to go back to.
            UnknownCollection: no such collection.
        """
        return self._builder.rollback(collection, note)

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
        keys = self._store.chunks.key_array(collection)
        cut_so = self._store.documents.count_by_settings(collection)
        return {
            "collection": collection,
            "generation": current,
            "documents": sum(cut_so.values()),
            "chunks": len(keys),
            "indexed_chunks": manifest.get("chunks", 0),
            "up_to_date": self._builder.is_current(manifest, keys) and cut_so.keys() <= {self.settings_fingerprint},
            "embedder": manifest.get("embedder"),
            "settings": manifest.get("settings", {}),
            "generations": [
                {"number": row.number, "status": row.status, "current": row.current, "created_at": row.created_at}
                for row in self._store.generations.list(collection)
            ],
        }

    def _move(
        self, run: _Run, files: Sequence[tuple[Path, str]], gone: dict[str, DocumentRow]
    ) -> list[tuple[Path, str]]:
        """Move documents whose file is gone to a new file of the same bytes; return the other files."""
        lost: dict[tuple[str, str], list[str]] = {}
        for source, row in gone.items():
            if row.settings_fingerprint == self.settings_fingerprint:
                lost.setdefault((row.sha256, Path(source).suffix.lower()), []).append(source)
        sizes = {gone[source].size for sources in lost.values() for source in sources}
        left = []
        for path, source in files:
            facts = None if source in run.known or not sizes else facts_of(path)
            found = facts and facts.size in sizes and lost.get((sha256_of(path), path.suffix.lower()))
            if not facts or not found:
                left.append((path, source))
                continue
            row = gone.pop(found.pop(0))
            moved = self._store.documents.move(row.id, source)
            run.known[source] = moved
            self._annotate(run, moved, facts.modified_at)
            run.done.moved.append({"from": row.source, "to": source, "id": row.id})
            run.progress.step()
        return left

    def _read(self, run: _Run, files: Sequence[tuple[Path, str]]) -> Iterator[Outcome]:
        """Give one outcome for each file or member of an archive."""
        taken = {row.id: row.source for row in run.known.values()}
        preparing, workers = self._preparing, self._workers or LocalWorkers()
        for outcome in workers.map(preparing, self._unread(run, files), lambda unread: unread.weight):
            new, source = outcome.new, outcome.source
            if new is not None and taken.get(new.document.id, source) != source:
                # A document that was moved away from here keeps its id.
                other = content_id(run.collection, source, new.document.text, taken[new.document.id])
                yield replace(outcome, new=preparing.renamed(new, other))
            else:
                yield outcome

    def _unread(self, run: _Run, files: Sequence[tuple[Path, str]]) -> Iterator[Unread | Done[Outcome]]:
        """Read file after file, archives opened; what is stored already is done."""
        for path, source in files:
            try:
                content = read(path, max_bytes=self._limits.max_bytes, source=source)
                if is_archive(content):
                    seen: set[str] = set()
                    for member in expand(content, limits=self._limits):
                        todo = self._sorted(run, member)
                        seen.add(todo.result.source if isinstance(todo, Done) else todo.content.source)
                        yield todo
                    run.archives[source] = seen
                else:
                    run.archives[source] = set()  # what may have been an archive before has no members
                    yield self._sorted(run, content)
            except UnreadableDocument as error:
                yield Done(Outcome(source, error=error))

    def _sorted(self, run: _Run, content: Content | UnreadableDocument) -> Unread | Done[Outcome]:
        """Say what is to be done with a file: nothing where it is stored just so already."""
        if isinstance(content, UnreadableDocument):
            return Done(Outcome(str(content.got), error=content))
        source, sha256 = content.source, content.sha256
        known = run.known.get(source)
        same = known if known is not None and known.sha256 == sha256 else None
        if same is not None and same.settings_fingerprint == self.settings_fingerprint:
            return Done(Outcome(source, modified_at=content.modified_at))
        return Unread(content, run.collection, sha256, same.id if same else "", run.tags)

    def _store_all(self, run: _Run, outcomes: Iterator[Outcome], embedder: Embedder | None = None) -> None:
        """Store what is read, window by window, and say what became of each file."""
        embedder = embedder or self._embedders.of(run.collection)
        writer = Writer(self._store, embedder, run.collection, self._window, run.progress.alive)
        if self._workers is not None:
            outcomes = embedded_ahead(self._store, embedder, self._workers, ((one, one.texts) for one in outcomes))
        with ahead(outcomes, _weight, _AHEAD_CHARACTERS, run.progress.alive) as ready:
            for outcome in ready:
                if outcome.new is not None:
                    self._stored(run, writer.add(outcome.new))
                    continue
                if outcome.error is not None:
                    run.done.failed.append(failure(outcome.source, outcome.error))
                else:
                    row = run.known[outcome.source]
                    run.done.unchanged.append({"id": row.id, "source": outcome.source, "chunks": row.chunks})
                    self._annotate(run, row, outcome.modified_at)
                run.progress.step()
            self._stored(run, writer.flush())

    @staticmethod
    def _stored(run: _Run, rows: Sequence[DocumentRow]) -> None:
        for row in rows:
            run.done.indexed.append({"id": row.id, "source": row.source, "chunks": row.chunks})
            run.progress.step()

    @staticmethod
    def _annotate(run: _Run, row: DocumentRow, modified_at: float) -> None:
        """Note other tags of a document that is not stored anew, and a date where it has none."""
        tags = row.tags if run.tags is None else run.tags
        if tags != row.tags or not row.modified_at:
            run.notes.append((row.id, tags, row.modified_at or modified_at))


def _weight(outcome: Outcome) -> int:
    return 1000 + (2 * len(outcome.new.document.text) if outcome.new else 0)
