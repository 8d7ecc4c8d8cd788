"""Index generations on disk: build one as a difference to the one before, verify it, search it.

A generation is a folder ``<collection>/<number>`` with a dense and a lexical leg and a
``manifest.json``, written last, that names every file's SHA-256: a folder without a manifest, or one
the store does not call ready, is garbage and is swept by the next build. The store's chunk keys are
the truth; an index only ever has to be made equal to them. Knows nothing of files and documents.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data.errors import InvalidRequest, RagtuneError, StorageCorrupt
from data.protocols import Embedder, Hit, Index, Report, Vectors
from data.records import METHODS, Method, Progress
from data.state import StateDirectory, map_os_error, sha256_file, sync_folder, write_atomic
from data.store import Store
from retrieval.chunk import embedded_text
from retrieval.fuse import found_by, reciprocal_rank_fusion
from retrieval.index import FaissIndex
from retrieval.lexical import TantivyIndex

KEPT_GENERATIONS = 3
"""How many generations stay on disk, the current one among them."""

_FORMAT = 1
_MANIFEST = "manifest.json"
_BATCH = 256
_REPAIR = "Repair it: ragtune index rebuild."


@dataclass(frozen=True, slots=True)
class Found:
    """A chunk key with its score in the chosen method; ``origin`` names the legs that found it."""

    key: int
    score: float
    origin: str


class Generation:
    """An opened index generation. It never changes, so threads may share it."""

    def __init__(self, number: int, manifest: Mapping[str, Any], dense: Index, lexical: Index) -> None:
        self.number = number
        self.manifest = manifest
        self._legs = {"dense": dense, "lexical": lexical}

    def __len__(self) -> int:
        return int(self.manifest["chunks"])

    def search(self, query: str, vector: Vectors | None, method: Method, k: int) -> list[Found]:
        """Return the best keys, best first: ``k`` of one leg, or all that the ``k`` best of both fuse to.

        ``vector`` has shape (1, dimension); only the lexical method may leave it out.
        """
        return search_legs(self._legs, query, vector, method, k)

    def close(self) -> None:
        """Release both legs."""
        for leg in self._legs.values():
            leg.close()


def search_legs(legs: Mapping[str, Index], query: str, vector: Vectors | None, method: Method, k: int) -> list[Found]:
    """Search one leg, or both and fuse their rankings.

    Raises:
        InvalidRequest: an unknown method.
    """
    if method not in METHODS:
        raise InvalidRequest("Unknown search method.", got=method, wanted=", ".join(METHODS))
    unused = np.zeros((1, 0), dtype=np.float32)
    names = list(legs) if method == "hybrid" else [method]
    hits: dict[str, list[Hit]] = {
        name: legs[name].search(query, unused if vector is None else vector, k) for name in names
    }
    if method != "hybrid":
        return [Found(hit.key, hit.score, method) for hit in hits[method]]
    rankings = {name: [hit.key for hit in found] for name, found in hits.items()}
    fused = reciprocal_rank_fusion(list(rankings.values()))
    return [Found(key, score, found_by(rankings, key)) for key, score in fused]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return a generation's manifest after comparing every file with its hash there.

    Raises:
        StorageCorrupt: it is missing or unreadable, or a file is missing or was changed.
    """
    try:
        manifest: dict[str, Any] = json.loads((folder / _MANIFEST).read_bytes())
        files = dict(manifest["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageCorrupt("The index has no readable manifest.", got=str(folder), hint=_REPAIR) from error
    for name, wanted in files.items():
        try:
            got = sha256_file(folder / name)
        except OSError as error:
            raise StorageCorrupt("An index file is missing.", got=str(folder / name), hint=_REPAIR) from error
        if got != wanted:
            raise StorageCorrupt("An index file is damaged.", got=str(folder / name), hint=_REPAIR)
    return manifest


def open_generation(folder: Path) -> Generation:
    """Verify and open the generation in ``folder``.

    Raises:
        StorageCorrupt: it is damaged.
    """
    manifest = read_manifest(folder)
    dense = FaissIndex(folder / "dense", int(manifest["dimension"]))
    return Generation(int(manifest["number"]), manifest, dense, TantivyIndex(folder / "lexical"))


def embed_cached(store: Store, embedder: Embedder, texts: Sequence[str]) -> Vectors:
    """Return the vectors of ``texts``, shape (len(texts), dimension), embedding only unseen ones."""
    hashes = [hashlib.sha256(text.encode()).hexdigest() for text in texts]
    cached = store.embeddings.get_many(embedder.fingerprint, set(hashes))
    missing = {key: text for key, text in zip(hashes, texts, strict=True) if key not in cached}
    if missing:
        fresh = embedder.embed_documents(list(missing.values()))
        new = {key: vector.astype("<f4").tobytes() for key, vector in zip(missing, fresh, strict=True)}
        store.embeddings.put_many(embedder.fingerprint, new)
        cached.update(new)
    rows = [np.frombuffer(cached[key], dtype="<f4") for key in hashes]
    return np.stack(rows).astype(np.float32) if rows else np.zeros((0, embedder.dimension), dtype=np.float32)


class GenerationBuilder:
    """Builds, prunes and rolls back the generations of collections."""

    def __init__(self, store: Store, state: StateDirectory, embedder: Embedder, settings: Mapping[str, Any]) -> None:
        """Keep what a build needs; ``settings`` are noted in each manifest."""
        self._store = store
        self._state = state
        self._embedder = embedder
        self._settings = dict(settings)

    def build(self, collection: str, report: Report, *, fresh: bool = False) -> int | None:
        """Make the index equal to the store's chunks; return the current generation's number.

        Nothing is built if it is equal already and undamaged; None if there is nothing to index and
        never was. ``fresh`` starts from nothing instead of from the current generation.

        Raises:
            JobCancelled: ``report`` said so; the current generation stays.
            InsufficientStorage: the disk is full; the current generation stays.
        """
        self._store.collections.ensure(collection)
        with self._locked(collection) as root:
            self._sweep(collection, root)
            keys = self._store.chunks.keys(collection)
            current = self._store.collections.current_generation(collection)
            base = None if fresh or current is None else self._usable(root / str(current))
            if current is None and not keys:
                return None
            if base is not None and self.is_current(base, keys):
                return current
            number = self._build(collection, root, keys, None if base is None else root / str(current), report)
            self._prune(collection, root)
            return number

    def is_current(self, manifest: Mapping[str, Any], keys: set[int]) -> bool:
        """Say whether a generation was built by this embedder from exactly these chunk keys."""
        if not manifest:
            return not keys
        same_embedder = bool(manifest["embedder"] == self._embedder.fingerprint)
        return same_embedder and bool(manifest["keys_sha256"] == _keys_sha256(keys))

    def rollback(self, collection: str) -> int:
        """Make the newest undamaged generation before the current one current; return its number.

        Raises:
            InvalidRequest: there is none.
            UnknownCollection: no such collection.
        """
        current = self._store.collections.current_generation(collection)
        with self._locked(collection) as root:
            for row in reversed(self._store.generations.list(collection)):
                if current is None or row.number >= current or row.status != "ready":
                    continue
                if self._usable(root / str(row.number)) is not None:
                    self._store.generations.set_current(collection, row.number)
                    return row.number
        raise InvalidRequest(
            "There is no generation to go back to.", got=f"generation {current} of {collection}", wanted="an older one"
        )

    @contextlib.contextmanager
    def _locked(self, collection: str) -> Iterator[Path]:
        """Let one process or thread at a time change the generations of a collection."""
        root = self._state.index(collection)
        try:
            root.mkdir(parents=True, exist_ok=True)
            lock = (root / ".lock").open("wb")
        except OSError as error:
            raise map_os_error(error, root) from error
        with lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield root

    def _usable(self, folder: Path) -> dict[str, Any] | None:
        """Return the manifest of a generation that this embedder can go on with, else None."""
        try:
            manifest = read_manifest(folder)
        except StorageCorrupt:
            return None  # The store is the truth: what is damaged is built anew.
        fits = manifest.get("format") == _FORMAT and manifest["embedder"] == self._embedder.fingerprint
        return manifest if fits else None

    def _build(self, collection: str, root: Path, keys: set[int], base: Path | None, report: Report) -> int:
        number = self._store.generations.begin(collection, {"embedder": self._embedder.fingerprint, **self._settings})
        folder = root / str(number)
        try:
            if base is not None:
                _copy(base, folder)
            # Closed before anything else happens: tantivy's threads would write into a folder being removed.
            with contextlib.ExitStack() as opened:
                dense = FaissIndex(folder / "dense", self._embedder.dimension)
                opened.callback(dense.close)
                lexical = TantivyIndex(folder / "lexical")
                opened.callback(lexical.close)
                self._fill(collection, [dense, lexical], keys, report)
                dense.save()
                lexical.save()
                held = dense.keys()
            manifest = self._manifest(collection, number, folder, held)
            write_atomic(folder / _MANIFEST, json.dumps(manifest, indent=1).encode())
            sync_folder(root)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            detail = error.detail if isinstance(error, RagtuneError) else repr(error)
            self._store.generations.fail(collection, number, detail)
            raise
        # Outside the try: what interrupts us from here on must not take away files that are in use.
        self._store.generations.commit(collection, number, manifest)
        return number

    def _fill(self, collection: str, legs: Sequence[Index], keys: set[int], report: Report) -> None:
        """Remove what the store no longer has, then add what it has more, leg by leg."""
        missing: set[int] = set()
        for leg in legs:
            held = leg.keys()
            leg.remove(sorted(held - keys))
            missing |= keys - held
        started, done = time.monotonic(), 0
        for batch in _batches(self._store.chunks.iterate(collection, keys=missing), _BATCH):
            texts = [embedded_text(chunk) for _, chunk, _ in batch]
            vectors = embed_cached(self._store, self._embedder, texts)
            for leg in legs:
                leg.add([key for key, _, _ in batch], texts, vectors)
            done += len(batch)
            eta_s = (time.monotonic() - started) / done * (len(missing) - done)
            report(Progress(done, len(missing), "chunks", eta_s, "index"))

    def _manifest(self, collection: str, number: int, folder: Path, held: set[int]) -> dict[str, Any]:
        for path in (folder / "dense", folder / "lexical", folder):
            sync_folder(path)
        files = sorted(path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
        return {
            "format": _FORMAT,
            "collection": collection,
            "number": number,
            "embedder": self._embedder.fingerprint,
            "dimension": self._embedder.dimension,
            "settings": self._settings,
            "chunks": len(held),
            "keys_sha256": _keys_sha256(held),
            "created_at": time.time(),
            "files": {path.relative_to(folder).as_posix(): sha256_file(path) for path in files},
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


def _copy(base: Path, folder: Path) -> None:
    """Copy a generation by hard links: its large files are only ever replaced, never written in place."""
    try:
        for path in sorted(base.rglob("*")):
            target = folder / path.relative_to(base)
            if path.is_dir():
                target.mkdir(parents=True, exist_ok=True)
            elif path.suffix == ".json" and path.name != _MANIFEST:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, target)
            elif path.suffix != ".lock" and path.name != _MANIFEST:
                target.parent.mkdir(parents=True, exist_ok=True)
                _link(path, target)
    except OSError as error:
        raise map_os_error(error, folder) from error


def _link(path: Path, target: Path) -> None:
    try:
        os.link(path, target)
    except OSError:  # A file system without hard links.
        shutil.copy2(path, target)


def _keys_sha256(keys: Iterable[int]) -> str:
    return hashlib.sha256(",".join(map(str, sorted(keys))).encode()).hexdigest()


def _batches(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    batch: list[Any] = []
    for row in rows:
        batch.append(row)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
