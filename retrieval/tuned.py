"""Tuned embedders: a ``model`` folder each, and a ``manifest.json``, written last, that says how it came about.

A folder ``<name>/<version>`` without a manifest is not there. Which one is live is not kept here: it is
the one that a collection's current index generation was built with. Knows nothing of training.
"""

from __future__ import annotations

import json
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from data.access import current
from data.errors import Conflict, StorageCorrupt, UnknownRetriever
from data.protocols import Embedder
from data.records import AdapterStage
from data.state import StateDirectory, map_os_error, sha256_file, sync_tree, write_atomic
from data.store import Store

_MANIFEST = "manifest.json"
MODEL = "model"
TRAINING = "training"
"""Folder beside the versions in which the next one is made."""


@dataclass(frozen=True, slots=True)
class TunedEmbedder:
    """A tuned embedder and everything it was made from.

    ``base`` is the fingerprint of what it was tuned from, ``compared_with`` of what ``metrics`` compare
    it with, on questions about ``collection``. ``data`` names the examples; ``promoted`` holds
    ``{"collection", "generation", "at"}`` of each promotion.
    """

    name: str
    version: int
    fingerprint: str
    base: str
    compared_with: str
    collection: str
    recipe: Mapping[str, Any]
    data: Mapping[str, Any]
    metrics: Mapping[str, Any]
    sha256: Mapping[str, str]
    created_at: float
    promoted: tuple[Mapping[str, Any], ...] = field(default=())

    @property
    def label(self) -> str:
        """Return ``name@version``."""
        return f"{self.name}@{self.version}"


class TunedEmbedders:
    """The tuned embedders of a state directory; threads may share it."""

    def __init__(self, state: StateDirectory, store: Store, load: Callable[[Path], Embedder]) -> None:
        """Keep where they are; ``load`` makes an embedder of a folder."""
        self._state, self._store, self._load_model = state, store, load
        self._loaded: dict[str, Embedder] = {}
        self._lock = threading.Lock()

    def load(self, folder: Path) -> Embedder:
        """Return the embedder whose model a version's folder holds."""
        return self._load_model(folder / MODEL)

    def all(self) -> list[TunedEmbedder]:
        """Return every version of every tuned embedder that whoever asks may know of, by name and version."""
        return [one for one in self._every() if current().sees(one.collection)]

    def _every(self) -> list[TunedEmbedder]:
        paths = self._state.embedders().glob(f"*/*/{_MANIFEST}")
        return sorted((_read(path) for path in paths), key=lambda one: (one.name, one.version))

    def get(self, name: str) -> TunedEmbedder:
        """Return ``name`` (its newest version) or ``name@version``.

        Raises:
            UnknownRetriever: there is none; the hint names the closest.
        """
        bare, _, version = name.partition("@")
        known = self.all()
        found = [one for one in known if one.name == bare and version in ("", str(one.version))]
        if found:
            return found[-1]
        labels = [one.label for one in known]
        close = get_close_matches(name, [*labels, *(one.name for one in known)], n=1)
        hint = f"Did you mean {close[0]}?" if close else "Tune one: ragtune retriever tune"
        raise UnknownRetriever("No such retriever", got=name, wanted=", ".join(labels) or "none exist yet", hint=hint)

    def find(self, fingerprint: str) -> Embedder | None:
        """Return the tuned embedder of a fingerprint, None if there is none.

        Raises:
            StorageCorrupt: its files were changed.
        """
        with self._lock:
            if fingerprint not in self._loaded:
                found = next((one for one in self._every() if one.fingerprint == fingerprint), None)
                if found is None:
                    return None
                folder = self._state.embedders(found.name, found.version)
                embedder = self.load(folder)
                if embedder.fingerprint != fingerprint:
                    hint = "Go back to another one: ragtune index rollback, or ragtune retriever promote base."
                    raise StorageCorrupt("The tuned embedder is damaged.", got=str(folder), hint=hint)
                self._loaded[fingerprint] = embedder
            return self._loaded[fingerprint]

    def add(self, name: str, folder: Path, **facts: Any) -> TunedEmbedder:
        """Make the model in ``folder`` the next version of ``name``; ``facts`` are the record's other fields.

        Raises:
            InsufficientStorage: the disk is full.
        """
        version = max((one.version for one in self._every() if one.name == name), default=0) + 1
        target = self._state.embedders(name, version)
        files = sorted(path for path in (folder / MODEL).rglob("*") if path.is_file())
        hashes = {path.relative_to(folder).as_posix(): sha256_file(path) for path in files}
        made = TunedEmbedder(name, version, sha256=hashes, created_at=time.time(), **facts)
        try:
            shutil.rmtree(target, ignore_errors=True)  # left by a stop between the move and the manifest
            target.mkdir(parents=True)
            (folder / MODEL).rename(target / MODEL)
            sync_tree(target, self._state.root)
        except OSError as error:
            raise map_os_error(error, target) from error
        self._write(made)
        shutil.rmtree(folder, ignore_errors=True)
        return made

    def stage(self, one: TunedEmbedder) -> AdapterStage:
        """Return live if some collection is searched with it, retired if one was, else candidate."""
        if self.collections(one):
            return "live"
        return "retired" if one.promoted else "candidate"

    def collections(self, one: TunedEmbedder) -> list[str]:
        """Return the collections whose current index generation was built with it."""
        found = []
        for name in self._store.collections.names():
            number = self._store.collections.current_generation(name)
            row = None if number is None else self._store.generations.get(name, number)
            if row is not None and row.manifest.get("embedder") == one.fingerprint:
                found.append(name)
        return found

    def note_promotion(self, one: TunedEmbedder, collection: str, generation: int) -> None:
        """Write down that a collection is searched with it from now on."""
        promotion = {"collection": collection, "generation": generation, "at": time.time()}
        self._write(TunedEmbedder(**{**_fields(one), "promoted": (*one.promoted, promotion)}))

    def delete(self, name: str) -> list[TunedEmbedder]:
        """Delete ``name@version``, or every version of ``name``, with its files; return what is gone.

        Raises:
            UnknownRetriever: there is none.
            Conflict: one is live.
        """
        self.get(name)
        bare, _, version = name.partition("@")
        gone = [one for one in self.all() if one.name == bare and version in ("", str(one.version))]
        for one in gone:
            used = self.collections(one)
            if used:
                hint = "Go back first: ragtune index rollback, or ragtune retriever promote base."
                raise Conflict("The retriever is live.", got=f"{one.label} in {', '.join(used)}", hint=hint)
        for one in gone:
            folder = self._state.embedders(one.name, one.version)
            (folder / _MANIFEST).unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            with self._lock:
                self._loaded.pop(one.fingerprint, None)
        return gone

    def _write(self, one: TunedEmbedder) -> None:
        path = self._state.embedders(one.name, one.version) / _MANIFEST
        write_atomic(path, json.dumps(asdict(one), ensure_ascii=False, indent=2).encode() + b"\n")


def _fields(one: TunedEmbedder) -> dict[str, Any]:
    return {name: getattr(one, name) for name in TunedEmbedder.__dataclass_fields__}


def _read(path: Path) -> TunedEmbedder:
    try:
        facts = json.loads(path.read_bytes())
        return TunedEmbedder(**{**facts, "promoted": tuple(facts["promoted"])})
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StorageCorrupt("The manifest of a tuned embedder is damaged.", got=str(path)) from error
