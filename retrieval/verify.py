"""Check every invariant between store, index and uploaded bytes, and repair what can be from the store.

A document's text is the truth: chunks are cut from it again, and the index is built from chunks. What
cannot be repaired (a damaged database, damaged uploads) is named. Knows nothing of how a repair is
done: the ``Ingestor`` is asked to.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from data.errors import RagtuneError, StorageCorrupt
from data.protocols import Index, Keys, Report
from data.records import Progress
from data.state import StateDirectory, sha256_file
from data.store import DocumentRow, GenerationRow, Store
from retrieval.generation import read_manifest
from retrieval.legs import DenseLegs
from retrieval.lexical import TantivyIndex

_SHOWN = 5
_REPORT_EVERY = 100
_COUNTED = ("documents", "chunks", "generations", "files", "blobs")


@dataclass(frozen=True, slots=True)
class Problem:
    """A broken invariant: its ``kind``, ``what`` it is about, in words, and whether it was repaired.

    Kinds: database, chunk-text, chunk-count, cached-vector, generation-missing, generation-damaged,
    orphaned-folder, orphaned-file, index-mismatch, index-missing, legs-differ, blob-damaged.
    """

    kind: str
    what: str
    detail: str
    repaired: bool = False


@dataclass(slots=True)
class _Findings:
    problems: list[Problem] = field(default_factory=list)
    checked: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTED, 0))
    notes: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, what: str, detail: str) -> None:
        self.problems.append(Problem(kind, what, detail))

    def of(self, *kinds: str) -> list[Problem]:
        return [problem for problem in self.problems if problem.kind in kinds]


class Repairs(Protocol):
    """What repairs need; the ``Ingestor`` has it."""

    def embedder_of(self, collection: str) -> str:
        """Return the fingerprint of the embedder that a collection's index has to be built with."""

    def rechunk(self, collection: str, rows: Sequence[DocumentRow], report: Report) -> None:
        """Chunk stored documents anew."""

    def build(self, collection: str, report: Report, *, fresh: bool = False) -> int | None:
        """Make the index equal to the store, ``fresh`` from nothing; return the current generation."""

    def index_locked(self, collection: str) -> AbstractContextManager[Path]:
        """Keep others from changing the index meanwhile; yields the folder of its generations."""


class Verifier:
    """Checks one collection, and what all collections share."""

    def __init__(self, store: Store, state: StateDirectory, repairs: Repairs, legs: DenseLegs) -> None:
        self._store, self._state, self._repairs, self._legs = store, state, repairs, legs

    def verify(self, collection: str, report: Report, *, repair: bool = False) -> dict[str, Any]:
        """Check everything; ``repair`` what can be, then check again.

        Returns ``{"collection", "ok", "generation", "checked": {name: n}, "problems": [{"kind", "what",
        "detail", "repaired"}], "notes": {name: n}}``; ``ok`` if nothing was wrong or all was repaired.
        Notes are no problems: ``stale_entries`` of the index are of documents deleted since it was
        built, ``outdated_documents`` were chunked under other settings.

        Raises:
            UnknownCollection: no such collection.
            JobCancelled: ``report`` said so.
        """
        self._store.collections.current_generation(collection)
        found = self._check(collection, report)
        problems = found.problems
        if repair and (problems or found.notes.get("stale_entries")):
            self._repair(collection, found, report)
            after = self._check(collection, report)
            left = {(problem.kind, problem.what) for problem in after.problems}
            problems = [replace(each, repaired=(each.kind, each.what) not in left) for each in problems]
            known = {(problem.kind, problem.what) for problem in problems}
            problems += [each for each in after.problems if (each.kind, each.what) not in known]
            found = after
        return {
            "collection": collection,
            "ok": all(problem.repaired for problem in problems),
            "generation": self._store.collections.current_generation(collection),
            "checked": found.checked,
            "problems": [asdict(problem) for problem in problems],
            "notes": found.notes,
        }

    def _check(self, collection: str, report: Report) -> _Findings:
        found = _Findings()
        try:
            self._store.check()
        except StorageCorrupt as error:
            found.add("database", "ragtune.db", str(error))
        self._check_documents(collection, found, report)
        with self._repairs.index_locked(collection) as root:
            self._check_generations(collection, root, found, report)
        self._check_strangers(found)
        self._check_blobs(found, report)
        return found

    def _check_documents(self, collection: str, found: _Findings, report: Report) -> None:
        total = self._store.documents.count(collection)
        for number, (row, document, chunks) in enumerate(self._store.documents.iterate(collection), 1):
            found.checked["documents"] = number
            found.checked["chunks"] += len(chunks)
            wrong = [chunk for chunk in chunks if document.text[chunk.start : chunk.end] != chunk.text]
            if wrong:
                places = ", ".join(f"{chunk.start}:{chunk.end}" for chunk in wrong[:_SHOWN])
                found.add("chunk-text", row.source, f"{len(wrong)} chunks do not stand in the text at {places}.")
            if row.chunks != len(chunks):
                found.add("chunk-count", row.source, f"It has {len(chunks)} chunks; {row.chunks} are noted.")
            if number % _REPORT_EVERY == 0 or number == total:
                report(Progress(number, total, "documents", None, "verify"))

    def _check_generations(self, collection: str, root: Path, found: _Findings, report: Report) -> None:
        rows = [row for row in self._store.generations.list(collection) if row.status == "ready"]
        for number, row in enumerate(rows, 1):
            found.checked["generations"] = number
            self._check_generation(root / str(row.number), row, found)
            report(Progress(number, len(rows), "generations", None, "verify"))
        for folder in sorted(root.iterdir()):
            if folder.is_dir() and folder.name not in {str(row.number) for row in rows}:
                found.add("orphaned-folder", f"index/{collection}/{folder.name}", "The store knows no such generation.")
        current = next((row for row in rows if row.current), None)
        keys = self._store.chunks.key_array(collection)
        if current is None and len(keys) and rows:
            found.add("index-missing", f"index/{collection}", "No generation is current.")
        damaged = {problem.what for problem in found.of("generation-missing", "generation-damaged")}
        if current is not None and _name(collection, current) not in damaged:
            self._check_legs(root / str(current.number), current, keys, found)

    def _check_generation(self, folder: Path, row: GenerationRow, found: _Findings) -> None:
        what = f"index/{folder.parent.name}/{folder.name}"
        if not folder.is_dir():
            found.add("generation-missing", what, "Its folder is gone.")
            return
        try:
            manifest = read_manifest(folder, full=True)
        except RagtuneError as error:
            found.add("generation-damaged", what, str(error))
            return
        found.checked["files"] += len(manifest["files"])
        extra = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        extra -= {"manifest.json", *manifest["files"]}
        for name in sorted(name for name in extra if not name.endswith(".lock")):
            found.add("orphaned-file", f"{what}/{name}", "The manifest names no such file.")
        if row.manifest and dict(row.manifest).get("keys_sha256") != manifest.get("keys_sha256"):
            found.add("generation-damaged", what, "The store notes another manifest.")

    def _check_legs(self, folder: Path, row: GenerationRow, keys: Keys, found: _Findings) -> None:
        what, manifest = _name(folder.parent.name, row), dict(row.manifest)
        if manifest["embedder"] != self._repairs.embedder_of(folder.parent.name):
            found.add("index-mismatch", what, f"Built with {manifest['embedder']}, not with the embedder that is set.")
        for text_hash in self._store.embeddings.misshapen(manifest["embedder"], 4 * int(manifest["dimension"])):
            found.add("cached-vector", text_hash, "It has another length than the index.")
        try:
            held = dict(_leg_keys(folder, int(manifest["dimension"]), self._legs))
        except RagtuneError as error:
            found.add("generation-damaged", what, str(error))
            return
        if not np.array_equal(held["dense"], held["lexical"]):
            found.add("legs-differ", what, f"{len(held['dense'])} dense, {len(held['lexical'])} lexical entries.")
        for leg, own in held.items():
            missing = np.setdiff1d(keys, own, assume_unique=True)
            if len(missing):
                found.add("index-missing", f"{what}/{leg}", f"{len(missing)} of {len(keys)} chunks are not in it.")
        found.notes["stale_entries"] = len(np.setdiff1d(held["dense"], keys, assume_unique=True))

    def _check_strangers(self, found: _Findings) -> None:
        """Look for folders of collections that the store does not know."""
        folders = sorted((self._state.root / "index").iterdir())
        # Asked after the folders were listed: a collection that is being made has its name first.
        known = set(self._store.collections.names())
        for folder in folders:
            if folder.is_dir() and folder.name not in known:
                found.add("orphaned-folder", f"index/{folder.name}", "The store knows no such collection.")

    def _check_blobs(self, found: _Findings, report: Report) -> None:
        for path in sorted(self._state.blobs.glob("*/*")):
            found.checked["blobs"] += 1
            if sha256_file(path) != path.parent.name:
                what = path.relative_to(self._state.root).as_posix()
                found.add("blob-damaged", what, "Its bytes are not those that were uploaded. Upload it again.")
            report(Progress(found.checked["blobs"], 0, "blobs", None, "verify"))

    def _repair(self, collection: str, found: _Findings, report: Report) -> None:
        wrong = {problem.what for problem in found.of("chunk-text")}
        rows = self._store.documents.by_source(collection)
        self._repairs.rechunk(collection, [rows[source] for source in sorted(wrong) if source in rows], report)
        for row in (rows[problem.what] for problem in found.of("chunk-count") if problem.what in rows):
            self._store.documents.recount(row.id)
        vectors = [(self._repairs.embedder_of(collection), problem.what) for problem in found.of("cached-vector")]
        self._store.embeddings.delete_many(vectors)
        for problem in found.of("orphaned-folder", "orphaned-file"):
            _remove(self._state.root / problem.what)
        current = self._store.collections.current_generation(collection)
        broken = found.of("generation-missing", "generation-damaged")
        numbers = {int(Path(problem.what).name) for problem in broken}
        damaged = current in numbers or bool(found.of("legs-differ", "index-mismatch"))
        self._repairs.build(collection, report, fresh=damaged)
        current = self._store.collections.current_generation(collection)
        present = {row.number for row in self._store.generations.list(collection)}
        for number in sorted((numbers & present) - {current}):
            self._store.generations.delete(collection, number)
            _remove(self._state.index(collection, number))


def _name(collection: str, row: GenerationRow) -> str:
    return f"index/{collection}/{row.number}"


def _leg_keys(folder: Path, dimension: int, legs: DenseLegs) -> Iterator[tuple[str, Keys]]:
    opened: tuple[tuple[str, Callable[[], Index]], ...] = (
        ("dense", lambda: legs.open(folder, dimension)),
        ("lexical", lambda: TantivyIndex(folder / "lexical")),
    )
    for name, open_leg in opened:
        leg = open_leg()
        try:
            yield name, leg.keys()
        finally:
            leg.close()


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
