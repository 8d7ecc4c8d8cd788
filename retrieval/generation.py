"""Index generations on disk: build one as a difference to the one before, verify it, search it.

A generation is a folder ``<collection>/<number>`` with a dense and a lexical leg and a
``manifest.json``, written last: a folder without a manifest, or one the store does not call ready, is
garbage and is swept by the next build. Files never change once written, so a generation shares most
of them with the one before by hard links. The store's chunk keys are the truth; an index only ever has
to be made equal to them. Knows nothing of files and documents.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import IndexMismatch, InvalidRequest, RagtuneError, StorageCorrupt
from data.protocols import Embedder, Index, Keys, Report, Vectors
from data.records import Method, Progress, StageNote
from data.state import StateDirectory, make_folder, map_os_error, sync_folder
from data.store import Store
from retrieval.canary import check_recall, sample
from retrieval.chunk import embedded_text
from retrieval.embedders import Embedders, Find
from retrieval.hybrid import Found, HoldsVectors, search_legs
from retrieval.index import FaissIndex
from retrieval.legs import DenseLegs, FaissLegs
from retrieval.lexical import ANALYZER, TantivyIndex
from retrieval.manifest import MANIFEST, read_manifest, write_manifest
from retrieval.segments import Policy
from retrieval.vectors import embed_cached

__all__ = [
    "Found",
    "Generation",
    "GenerationBuilder",
    "open_generation",
    "read_manifest",
    "search_legs",
]

KEPT_GENERATIONS = 3
"""How many generations stay on disk, the current one among them."""

_FORMAT = 2
_BATCH = 1024


class Generation:
    """An opened index generation. It never changes, so threads may share it."""

    def __init__(self, number: int, manifest: Mapping[str, Any], dense: Index, lexical: Index) -> None:
        self.number = number
        self.manifest = manifest
        self.legs = {"dense": dense, "lexical": lexical}

    def __len__(self) -> int:
        return int(self.manifest["chunks"])

    def search(
        self,
        query: str,
        vector: Vectors | None,
        method: Method,
        k: int,
        allowed: Keys | None = None,
        *,
        understood: bool = True,
    ) -> list[Found]:
        """Return the best keys, best first: ``k`` of one leg, or all that both found. As ``search_legs``."""
        dense = self.legs["dense"]
        vectors_of = dense.vectors if isinstance(dense, HoldsVectors) else None
        return search_legs(
            self.legs, query, vector, method, k, allowed=allowed, vectors_of=vectors_of, understood=understood
        )

    def close(self) -> None:
        """Release both legs."""
        for leg in self.legs.values():
            leg.close()


def open_generation(folder: Path, legs: DenseLegs | None = None) -> Generation:
    """Verify and open the generation in ``folder``, whose dense leg ``legs`` keeps.

    Raises:
        StorageCorrupt: it is damaged.
        IndexMismatch: it is of another format, or its words were analysed otherwise.
    """
    manifest = read_manifest(folder)
    for name, wanted in (("format", _FORMAT), ("analyzer", ANALYZER)):
        if manifest.get(name) != wanted:
            raise IndexMismatch(
                f"The index was built with another {name}.",
                got=f"{name} {manifest.get(name)}",
                wanted=f"{name} {wanted}",
                hint="Build it anew: ragtune index rebuild.",
            )
    dense = (legs or FaissLegs()).open(folder, int(manifest["dimension"]))
    return Generation(int(manifest["number"]), manifest, dense, TantivyIndex(folder / "lexical"))


class GenerationBuilder:
    """Builds, prunes and rolls back the generations of collections."""

    def __init__(
        self,
        store: Store,
        state: StateDirectory,
        embedder: Embedder,
        settings: Mapping[str, Any],
        policy: Policy | None = None,
        *,
        find: Find | None = None,
        legs: DenseLegs | None = None,
    ) -> None:
        """Keep what a build needs.

        Args:
            store: holds the chunks.
            state: holds the generations' folders.
            embedder: of collections without an index.
            settings: noted in each manifest.
            policy: chooses dense segments.
            find: knows the embedders of other generations.
            legs: keeps the dense legs; files by default.
        """
        self._store = store
        self._state = state
        self._embedder = embedder
        self._embedders = Embedders(store, embedder, find)
        self._settings = dict(settings)
        self._policy = policy
        self.legs = legs or FaissLegs()

    def build(
        self,
        collection: str,
        report: Report,
        *,
        fresh: bool = False,
        compact: bool = False,
        embedder: Embedder | None = None,
    ) -> int | None:
        """Make the index equal to the store's chunks; return the current generation's number.

        Nothing is built if it is equal already and undamaged; None if there is nothing to index and
        never was. ``fresh`` starts from nothing instead of from the current generation; ``compact``
        builds in any case, and joins all segments into one. ``embedder`` takes the place of the one that
        the current generation was built with.

        Raises:
            JobCancelled: ``report`` said so; the current generation stays.
            InsufficientStorage: the disk is full; the current generation stays.
            IndexRefused: what was built does not find its own chunks again; the current generation stays.
        """
        self._store.collections.ensure(collection)
        with self.locked(collection) as root:
            # Chosen under the lock: what another process has just made current decides.
            chosen = embedder or self._embedders.of(collection)
            one = GenerationBuilder(self._store, self._state, chosen, self._settings, self._policy, legs=self.legs)
            return one._make(collection, root, report, fresh=fresh, compact=compact)

    def _make(self, collection: str, root: Path, report: Report, *, fresh: bool, compact: bool) -> int | None:
        self._sweep(collection, root)
        keys = self._store.chunks.key_array(collection)
        current = self._store.collections.current_generation(collection)
        base = None if fresh or current is None else self._usable(root / str(current))
        if current is None and not len(keys):
            return None
        if base is not None and not compact and self.is_current(base, keys):
            return current
        whole = None if base is None else root / str(current)
        number = self._build(collection, root, keys, whole, report, compact=compact)
        self._prune(collection, root)
        return number

    def is_current(self, manifest: Mapping[str, Any], keys: Iterable[int]) -> bool:
        """Say whether a generation was built from exactly these chunk keys, by an embedder that is at hand."""
        if not manifest:
            return not len(_array(keys))
        return self._fits(manifest) and bool(manifest["keys_sha256"] == _keys_sha256(_array(keys)))

    def _fits(self, manifest: Mapping[str, Any]) -> bool:
        """Say whether a generation was built as this builder would build it."""
        wanted = {"format": _FORMAT, "analyzer": ANALYZER}
        known = self._embedders.named(str(manifest.get("embedder"))) is not None
        return known and all(manifest.get(name) == value for name, value in wanted.items())

    def rollback(self, collection: str, note: StageNote | None = None) -> int:
        """Make the newest undamaged generation before the current one current; return its number.

        ``note`` tells the log who did it and why.

        Raises:
            InvalidRequest: there is none.
            UnknownCollection: no such collection.
        """
        with self.locked(collection) as root:
            current = self._store.collections.current_generation(collection)
            for row in reversed(self._store.generations.list(collection)):
                if current is None or row.number >= current or row.status != "ready":
                    continue
                if self._usable(root / str(row.number)) is not None:
                    self._store.generations.set_current(collection, row.number, note or StageNote())
                    self.legs.publish(root / str(row.number))
                    return row.number
        raise InvalidRequest(
            "There is no generation to go back to.", got=f"generation {current} of {collection}", wanted="an older one"
        )

    @contextlib.contextmanager
    def locked(self, collection: str) -> Iterator[Path]:
        """Let one process or thread at a time change the generations of a collection."""
        root = self._state.index(collection)
        try:
            make_folder(root)
            lock = (root / ".lock").open("wb")
        except OSError as error:
            raise map_os_error(error, root) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield root

    def _usable(self, folder: Path) -> dict[str, Any] | None:
        """Return the manifest of a generation that this builder can go on with, else None."""
        try:
            manifest = read_manifest(folder)
        except StorageCorrupt:
            return None  # The store is the truth: what is damaged is built anew.
        return manifest if self._fits(manifest) else None

    def _build(
        self, collection: str, root: Path, keys: Keys, base: Path | None, report: Report, *, compact: bool
    ) -> int:
        number = self._store.generations.begin(collection, {"embedder": self._embedder.fingerprint, **self._settings})
        folder = root / str(number)
        try:
            if base is not None:
                _copy(base, folder)
                self.legs.prepare(folder, base)
            held, canaries = self._write(collection, number, folder, keys, report, compact=compact)
            manifest = write_manifest(folder, self._facts(collection, number, held))
            sync_folder(root)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            detail = error.detail if isinstance(error, RagtuneError) else repr(error)
            self._store.generations.fail(collection, number, detail)
            raise
        # Outside the try: what interrupts us from here on must not take away files that are in use.
        facts = {name: manifest[name] for name in ("embedder", "chunks")}
        note = StageNote(reason="it finds its own chunks again", decision={"canaries": canaries, **facts})
        self._store.generations.commit(collection, number, manifest, note)
        self.legs.publish(folder)
        return number

    def _write(
        self, collection: str, number: int, folder: Path, keys: Keys, report: Report, *, compact: bool
    ) -> tuple[Keys, dict[str, list[int]]]:
        """Bring both legs in ``folder`` to ``keys``; return what is held, and how much of a sample is found again."""
        # Closed before anything else happens: tantivy's threads would write into a folder being removed.
        with contextlib.ExitStack() as opened:
            dense = self.legs.open(folder, self._embedder.dimension, self._policy)
            opened.callback(dense.close)
            lexical = TantivyIndex(folder / "lexical")
            opened.callback(lexical.close)
            self._fill(collection, dense, lexical, keys, report)
            if compact and isinstance(dense, FaissIndex):
                dense.compact()
            dense.save()
            lexical.save()
            held = dense.keys()
            return held, self._check(held, number, dense, lexical)

    def _check(self, held: Keys, number: int, dense: Index, lexical: Index) -> dict[str, list[int]]:
        rows = self._store.chunks.by_keys(sample(held, number).tolist())
        texts = {key: embedded_text(chunk) for key, (chunk, _, _) in sorted(rows.items())}
        return check_recall(dense, lexical, texts, embed_cached(self._store, self._embedder, list(texts.values())))

    def _fill(self, collection: str, dense: Index, lexical: Index, keys: Keys, report: Report) -> None:
        """Remove what the store no longer has, then add what it has more, in batches."""
        held = dense.keys()
        # Both were built from the same keys; listing a million of tantivy's takes seconds and is for the worst case.
        others = held if len(lexical) == len(held) else lexical.keys()
        missing = np.zeros(0, dtype=np.int64)
        for leg, own in ((dense, held), (lexical, others)):
            leg.remove(np.setdiff1d(own, keys, assume_unique=True))
            missing = np.union1d(missing, np.setdiff1d(keys, own, assume_unique=True))
        started, done = time.monotonic(), 0
        wanted = None if len(missing) == len(keys) else missing.tolist()
        for batch in _batches(self._store.chunks.iterate(collection, keys=wanted), _BATCH):
            texts = [embedded_text(chunk) for _, chunk, _ in batch]
            vectors = embed_cached(self._store, self._embedder, texts)
            for leg in (dense, lexical):
                leg.add(np.array([key for key, _, _ in batch], dtype=np.int64), texts, vectors)
            done += len(batch)
            eta_s = (time.monotonic() - started) / done * max(len(missing) - done, 0)
            report(Progress(done, max(len(missing), done), "chunks", eta_s, "index"))

    def _facts(self, collection: str, number: int, held: Keys) -> dict[str, Any]:
        return {
            "format": _FORMAT,
            "collection": collection,
            "number": number,
            "embedder": self._embedder.fingerprint,
            "analyzer": ANALYZER,
            "dimension": self._embedder.dimension,
            "settings": self._settings,
            "chunks": len(held),
            "keys_sha256": _keys_sha256(held),
        }

    def _sweep(self, collection: str, root: Path) -> None:
        """Remove the folders of builds that never became ready, and say so in the store."""
        rows = self._store.generations.list(collection)
        ready = {str(row.number) for row in rows if row.status == "ready"}
        for row in rows:
            if row.status == "building":
                self._store.generations.fail(collection, row.number, "The build was interrupted.")
        for folder in root.iterdir():
            if folder.is_dir() and folder.name not in ready:
                shutil.rmtree(folder, ignore_errors=True)

    def _prune(self, collection: str, root: Path) -> None:
        """Forget all but the newest ready generations; the row goes first, so that no row lacks its files."""
        rows = [row for row in self._store.generations.list(collection) if row.status == "ready"]
        for row in rows[:-KEPT_GENERATIONS]:
            if not row.current:
                self._store.generations.delete(collection, row.number)
                shutil.rmtree(root / str(row.number), ignore_errors=True)
        kept = [row.number for row in self._store.generations.list(collection) if row.status == "ready"]
        self.legs.collect(root, kept)


def _copy(base: Path, folder: Path) -> None:
    """Copy a generation by hard links: its large files are only ever replaced, never written in place."""
    try:
        for path in sorted(base.rglob("*")):
            target = folder / path.relative_to(base)
            if path.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            elif path.suffix == ".json" and path.name != MANIFEST:
                target.parent.mkdir(parents=True, exist_ok=True)
                _copy_file(path, target)
            elif path.suffix != ".lock" and path.name != MANIFEST:
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(path, target)
    except OSError as error:
        raise map_os_error(error, folder) from error


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:  # A file system without hard links.
        _copy_file(path, target)


def _copy_file(path: Path, target: Path) -> None:
    """Copy a file; it is on the disk then, since what nothing changes later nobody else syncs."""
    shutil.copy2(path, target)
    sync_folder(target)


def _array(keys: Iterable[int]) -> Keys:
    return np.sort(keys if isinstance(keys, np.ndarray) else np.fromiter(keys, dtype=np.int64))


def _keys_sha256(keys: Keys) -> str:
    return hashlib.sha256(keys.astype("<i8").tobytes()).hexdigest()


def _batches(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
