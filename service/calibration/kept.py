"""Where calibrations are kept, and which one fits a question that is about to be asked.

One JSON file for each collection and arm, written whole. Knows nothing of how one is fitted.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from data.access import current
from data.errors import CalibrationMissing, CalibrationStale
from data.prompt import prompt_version
from data.records import Adapter, Model, content_id
from data.state import StateDirectory, check_name, write_atomic
from service.arms import Arm, find_adapter
from service.calibration.calibration import Calibration, FittedFor
from service.calibration.signals import VERSION
from service.settings import Settings

if TYPE_CHECKING:
    from data.store import Store
    from retrieval.embedders import Embedders


class Parts(Protocol):
    """What the choice of a calibration depends on; a ``Workspace`` has it all."""

    @property
    def state(self) -> StateDirectory:
        """Where calibrations are kept."""

    @property
    def store(self) -> Store:
        """Where adapters are looked up."""

    @property
    def settings(self) -> Settings:
        """What reranks, unless a question says otherwise."""

    @property
    def model(self) -> Model:
        """The base model."""

    @property
    def embedders(self) -> Embedders:
        """Which embedder each collection is searched with."""


class Calibrations:
    """The calibrations of a state directory; thread-safe."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._read: dict[Path, tuple[tuple[int, int], Calibration | None]] = {}
        self._lock = threading.Lock()

    def fitting(
        self, arm: Arm, collection: str, top_k: int, method: str = "hybrid", rerank: str | None = None
    ) -> FittedFor:
        """Return what a calibration would have to be fitted for, to hold for these answers.

        Raises:
            UnknownAdapter, UnknownCollection: what is named does not exist.
        """
        model = self._parts.model
        return FittedFor(
            mode=arm.mode,
            collection=collection,
            adapters={
                f"{label} {_identity(find_adapter(self._parts.store, label))}": scale
                for label, scale in arm.adapters.items()
            },
            model=model.name,
            model_sha256=model.sha256,
            embedder=self._parts.embedders.indexed_with(collection) if arm.passages else "",
            prompt=prompt_version(self._parts.store.houses.current(collection).instructions),
            signals=VERSION,
            top_k=top_k if arm.passages else 0,
            method=method if arm.passages else "",
            rerank=(rerank or self._parts.settings.rerank) if arm.passages else "off",
        )

    def find(self, arm: Arm, collection: str, wanted: Callable[[], FittedFor]) -> Calibration | None:
        """Return the calibration that fits, None where there is none or it was fitted for something else.

        ``wanted`` is only asked where there is one.
        """
        held = self.load(arm, collection) if can_calibrate(arm) else None
        return held if held is not None and not held.fitted_for.differences(wanted()) else None

    def require(self, arm: Arm, wanted: FittedFor) -> Calibration:
        """Return the calibration that fits.

        Raises:
            CalibrationMissing: there is none for this arm and collection.
            CalibrationStale: it was fitted for something else.
        """
        held = self.load(arm, wanted.collection)
        command = f"ragtune calibrate --questions FILE --mode {wanted.mode}"
        command += f" --adapter {arm.adapter}" if arm.adapter else ""
        command += f" --collection {wanted.collection}" if wanted.collection != "default" else ""
        command += f" --top-k {wanted.top_k}" if wanted.top_k else ""
        if held is None:
            raise CalibrationMissing(
                "Abstention has not been calibrated for this way to answer",
                got=arm_file(arm),
                wanted=", ".join(sorted(self._names(wanted.collection))) or "none is calibrated yet",
                hint=f"Calibrate it with: {command}",
            )
        if differences := held.fitted_for.differences(wanted):
            raise CalibrationStale(
                "Abstention was calibrated for something else",
                got="; ".join(differences),
                wanted="what is served now",
                hint=f"Calibrate again with: {command}",
            )
        return held

    def load(self, arm: Arm, collection: str) -> Calibration | None:
        """Return what is kept for an arm, whether or not it still holds; None if nothing is or it cannot be read."""
        path = self._path(arm, collection)
        try:
            status = path.stat()
        except FileNotFoundError:
            return None
        stamp = (status.st_mtime_ns, status.st_ino)
        with self._lock:
            found = self._read.get(path)
        if found is None or found[0] != stamp:
            found = (stamp, _read(path))
            with self._lock:
                self._read[path] = found
        return found[1]

    def save(self, arm: Arm, calibration: Calibration) -> Path:
        """Keep a calibration in place of the one before; return its path.

        Raises:
            InsufficientStorage, StateNotWritable: it cannot be written.
        """
        path = self._path(arm, calibration.fitted_for.collection)
        write_atomic(path, json.dumps(calibration.to_json(), ensure_ascii=False, indent=1).encode() + b"\n")
        return path

    def all(self) -> list[Calibration]:
        """Return every calibration that can be read, by collection and arm; of collections that the asker sees."""
        found = sorted(self._parts.state.calibrations.glob("*/*.json"))
        paths = [path for path in found if current().sees(path.parent.name)]
        return [found for found in map(_read, paths) if found is not None]

    def _names(self, collection: str) -> list[str]:
        return [
            path.stem
            for path in (self._parts.state.calibrations / check_name(collection, "collection name")).glob("*.json")
        ]

    def _path(self, arm: Arm, collection: str) -> Path:
        return self._parts.state.calibrations / check_name(collection, "collection name") / f"{arm_file(arm)}.json"


def arm_file(arm: Arm) -> str:
    """Return what an arm's calibration is called: its mode, and the adapter where it has one."""
    return f"{arm.mode}-{arm.adapter}" if arm.adapter else arm.mode


def can_calibrate(arm: Arm) -> bool:
    """Tell whether an arm's answers can be calibrated: one adapter at most, at its own strength, as it is served."""
    return not arm.added and arm.scale == 1.0 and not arm.quantization


def _identity(adapter: Adapter) -> str:
    """Return what tells two adapters of one name and version apart: the rows, the recipe, and where the loss ended."""
    end = [adapter.metrics.get(name) for name in ("steps", "loss_last", "seconds")]
    return content_id(adapter.rows_sha256, repr(sorted(adapter.recipe.items())), repr(end))


def _read(path: Path) -> Calibration | None:
    try:
        return Calibration.from_json(json.loads(path.read_bytes()))
    except (OSError, ValueError, KeyError, TypeError):
        return None  # damaged or of another version: as good as none, and the next command writes it anew
