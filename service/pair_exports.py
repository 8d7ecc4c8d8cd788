"""Exported pairs, kept by what they were made from, so that one that is still true is found again.

An export rests on the accepted pairs, the documents and their index, the share and the seed: their
fingerprint names its folder. Knows nothing of HTTP.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from data.errors import Conflict, NoAcceptedPairs, NotExported
from data.formats import FORMATS, Format
from data.protocols import Report
from data.records import QAPair, content_id
from data.state import StateDirectory, check_name, map_os_error, sync_tree, write_atomic

if TYPE_CHECKING:
    from data.store import Store
    from service.workspace import Workspace

DIRECT_PAIRS = 200
"""So many pairs are exported while the caller waits: one search each, about 15 ms on 2 cores."""
KEPT = 3
"""Exports kept for each collection."""
_MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class PairExport:
    """What is exported: the accepted pairs of ``collection``, split by ``eval_share`` (0 to 1) and ``seed``."""

    collection: str
    eval_share: float = 0.1
    seed: int = 0

    def read(self, workspace: Workspace, format: Format, split: str) -> Path | bytes:
        """Return a file of the export made of what is there now, or its content where it is made at once.

        Raises:
            NoAcceptedPairs: there is nothing to export.
            NotExported: there are more than ``DIRECT_PAIRS`` pairs, and no export of them as they are now.
        """
        from retrieval.rowfiles import row_file

        pairs = accepted_pairs(workspace.store, self.collection)
        kept = self._folder(workspace, pairs) / row_file(split, format)
        if kept.exists():
            return kept
        if len(pairs) > DIRECT_PAIRS:
            raise NotExported(
                "The accepted pairs as they are now were not exported yet",
                got=f"{len(pairs)} pairs",
                wanted=f"a finished export, or at most {DIRECT_PAIRS} pairs",
                hint=f"Start one with POST /v1/pairs/export {json.dumps(asdict(self))}, and ask again when it is done.",
            )
        with TemporaryDirectory(dir=workspace.state.tmp) as folder:
            self._write(workspace, Path(folder), (format,), None)
            return (Path(folder) / row_file(split, format)).read_bytes()

    def make(self, workspace: Workspace, report: Report) -> dict[str, Any]:
        """Write both splits in every format, unless that was done; return their numbers and sizes in bytes.

        Raises:
            NoAcceptedPairs: there is nothing to export.
            Conflict: the pairs or the index changed meanwhile.
            InsufficientStorage: the disk is full.
        """
        folder = self._folder(workspace, accepted_pairs(workspace.store, self.collection))
        if not folder.exists():
            with TemporaryDirectory(dir=workspace.state.tmp) as made:
                written = self._write(workspace, Path(made) / "rows", FORMATS, report)
                if self._folder(workspace, accepted_pairs(workspace.store, self.collection)) != folder:
                    raise Conflict("The pairs or the index changed while they were exported", hint="Export them again.")
                sizes = {name: Path(path).stat().st_size for name, path in written["files"].items()}
                manifest = {**asdict(self), "train": written["train"], "eval": written["eval"], "files": sizes}
                write_atomic(Path(made) / "rows" / _MANIFEST, json.dumps(manifest, indent=2).encode() + b"\n")
                _move(Path(made) / "rows", folder)
        _forget_old(folder.parent)
        return dict(json.loads((folder / _MANIFEST).read_bytes()))

    def _write(
        self, workspace: Workspace, folder: Path, formats: tuple[Format, ...], report: Report | None
    ) -> dict[str, Any]:
        from retrieval.rowfiles import export_rows

        return export_rows(
            workspace.store,
            workspace.retriever,
            self.collection,
            folder,
            formats=formats,
            eval_share=self.eval_share,
            seed=self.seed,
            report=report,
        )

    def _folder(self, workspace: Workspace, pairs: list[QAPair]) -> Path:
        """Return where the export of ``pairs``, over the documents and the index of this moment, lies."""
        store = workspace.store
        facts = {
            **asdict(self),
            "pairs": [(pair.id, pair.question, pair.answer, pair.kind, pair.chunk_ids) for pair in pairs],
            "documents": sorted(row.id for row in store.documents.by_source(self.collection).values()),
            "generation": store.collections.current_generation(self.collection),
            "instructions": store.houses.current(self.collection).instructions,
        }
        return _exports(workspace.state, self.collection) / content_id(json.dumps(facts, sort_keys=True))


def accepted_pairs(store: Store, collection: str) -> list[QAPair]:
    """Return the pairs that are exported.

    Raises:
        NoAcceptedPairs: there are none.
    """
    pairs = store.pairs.all(collection, "accepted", stale=False)
    if not pairs:
        raise NoAcceptedPairs(
            "There are no accepted pairs to export",
            got=collection,
            hint="Make some with: ragtune pairs generate, or import them with: ragtune pairs import",
        )
    return pairs


def forget_exports(state: StateDirectory, collection: str) -> None:
    """Remove a collection's exports: a text that they quote is to be gone."""
    shutil.rmtree(_exports(state, collection), ignore_errors=True)


def _exports(state: StateDirectory, collection: str) -> Path:
    return state.exports / check_name(collection, "collection name")


def _move(made: Path, folder: Path) -> None:
    try:
        folder.parent.mkdir(exist_ok=True)
        made.rename(folder)
        sync_tree(folder, folder.parents[1])
    except OSError as error:
        raise map_os_error(error, folder) from error


def _forget_old(folder: Path) -> None:
    newest_first = sorted(folder.iterdir(), key=lambda export: export.stat().st_mtime, reverse=True)
    for old in newest_first[KEPT:]:
        shutil.rmtree(old, ignore_errors=True)
