"""Turn what a user calls a model into a file that can be served and weights that can be trained.

``starter`` (packaged), a ``.gguf`` file, a Hugging Face folder, a hub id, or a name given earlier.
What is derived (converted, quantized) lies under the state directory beside a ``model.json`` that
names the source files it was made from, and is made again when those change. Knows nothing of
serving or training.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Protocol

from data import hub
from data.errors import InvalidModel, InvalidRequest, UnknownModel
from data.model_files import FILE_TYPES, STARTER, file_type, files_sha256, source_files, starter_gguf
from data.protocols import Report
from data.records import Model, content_id
from data.state import StateDirectory, write_atomic
from data.store import Store
from service.engine import tuning
from service.engine.child import run_once
from service.engine.quantize import quantize
from service.engine.tuning import Tuning

SERVED_TYPE = "q8_0"
"""Served fastest of the types that keep the quality (625-token prompt: Q4_1 2.2 s, Q8_0 1.26 s, 2 cores)."""
SMALLER_TYPE = "q4_k_m"
"""Tried against it when a model is added."""

INSPECT_TIMEOUT_S = 120.0
_MANIFEST = "model.json"


class ModelSettings(Protocol):
    """What the registry wants to be told; ``service.settings.Settings`` has it."""

    @property
    def n_threads(self) -> int:
        """Threads to quantize with."""


def inspect(gguf: str | Path) -> dict[str, Any]:
    """Read a GGUF's metadata and check its tensor table, in a child process that it may crash.

    Returns:
        architecture, name, license, file_type, n_vocab, n_ctx_train, has_template, kv_width (numbers in one
        token's keys and values), heads, gguf_bytes.

    Raises:
        InvalidModel: not a GGUF, truncated or damaged.
        UnsupportedArchitecture: llama.cpp does not know it, or it does not generate text.
    """
    path = Path(gguf).resolve()
    answer: dict[str, Any] = run_once({"op": "inspect", "gguf": str(path)}, path=path, timeout_s=INSPECT_TIMEOUT_S)
    return {**answer, "gguf_bytes": sum(file.stat().st_size for file in source_files(path))}


class ModelRegistry:
    """Resolves models over one store and state directory."""

    def __init__(self, store: Store, state: StateDirectory, settings: ModelSettings) -> None:
        self._store = store
        self._state = state
        self._settings = settings

    def resolve(self, source: str, report: Report | None = None) -> Model:
        """Return the model that ``source`` names, prepared for serving; the second time is quick.

        Args:
            source: the name of a model added before, ``starter``, a ``.gguf`` file, a Hugging Face
                folder, or a hub id (``org/name`` or ``org/name-GGUF:q4_k_m``; see ``data.hub``).
            report: told how much of a hub's model has come, size and licence first.

        Raises:
            UnknownModel: none of these.
            StarterMissing: the starter package is not installed.
            InvalidModel: the files are truncated, damaged or incomplete.
            UnsupportedArchitecture: the model cannot be served or converted.
            HubError: the hub refused or cannot be reached; what came is kept and continued.
            InsufficientStorage: the disk is full.
        """
        known = self._known(source)
        if known is not None:
            if Path(known.gguf).exists():
                return known
            return replace(self.resolve(known.source, report), name=known.name)
        if source == STARTER:
            return self._prepare(STARTER, STARTER, starter_gguf(), served_type=SERVED_TYPE)
        path = Path(source).expanduser()
        if path.exists():
            return self._local(path.resolve())
        if hub.is_hub_id(source) and not source.endswith(".gguf"):
            return self._from_hub(source, report)
        raise UnknownModel(
            "No such model",
            got=source,
            wanted="starter, a .gguf file, a Hugging Face folder, a hub id, or the name of an added model",
        )

    def choose_quantization(self, model: Model) -> Model:
        """Return ``model`` served in fewer bits where that is much faster and loses next to nothing, else as it is.

        A file that the user gave is served as it is.

        Raises:
            As ``resolve`` and ``tune``.
        """
        served = Path(model.gguf)
        if model.gguf == model.weights:
            return model
        smaller = served.parent / f"candidate.{SMALLER_TYPE}.gguf"
        try:
            quantize(served, smaller, SMALLER_TYPE, n_threads=self._settings.n_threads)
            trial = tuning.try_smaller(model, smaller, cpus=self._settings.n_threads)
            if not trial.pays:
                self.keep_tuning(model, trial.tuning)
                return model
        finally:
            smaller.unlink(missing_ok=True)
        made = self._make(served.parent, model.name, model.source, Path(model.weights), SMALLER_TYPE)
        served.unlink()
        return made

    def quantized(self, model: Model, kind: str) -> Model:
        """Return ``model`` as it is served in another type, made from its weights at the first call and then kept.

        What the weights were rounded to before stays lost. The model itself where it is served in that type.

        Args:
            model: a resolved one.
            kind: one of ``data.model_files.FILE_TYPES``.

        Raises:
            InvalidRequest: no such type.
            InvalidModel, InsufficientStorage: the file cannot be made.
        """
        if kind not in FILE_TYPES:
            raise InvalidRequest("No such quantization", got=kind, wanted=", ".join(FILE_TYPES))
        if kind == file_type(model.meta):
            return model
        file = self._state.models("quantized") / f"{model.sha256[:32]}.{kind}.gguf"
        if not file.exists():
            self._write(file, Path(model.weights), kind)
        facts = inspect(file)
        return replace(model, gguf=str(file), architecture=facts.pop("architecture"), meta=facts)

    def tuning(self, model: Model) -> Tuning | None:
        """Return how ``model`` is served fastest on this machine, None where that was not measured."""
        return tuning.load(self._tuning_file(model), model)

    def keep_tuning(self, model: Model, found: Tuning) -> None:
        """Keep ``found`` as the way to serve ``model`` on this machine."""
        tuning.save(self._tuning_file(model), found)

    def tune(self, model: Model) -> Tuning:
        """Measure how ``model`` is served fastest, and keep it (seconds to minutes).

        Raises:
            InvalidModel: llama.cpp crashes on it.
            EngineTimeout: it is too slow here to be measured.
        """
        found = tuning.tune(model, cpus=self._settings.n_threads)
        self.keep_tuning(model, found)
        return found

    def _tuning_file(self, model: Model) -> Path:
        return self._state.models("tuning") / f"{model.sha256[:32]}-{model.meta.get('gguf_bytes', 0)}.json"

    def _known(self, name: str) -> Model | None:
        return next((model for model in self._store.models.list() if model.name == name), None)

    def _local(self, path: Path) -> Model:
        if path.is_file() and path.suffix == ".gguf":
            return self._prepare(_slug(path.stem), str(path), path, served_type=None)
        if path.is_dir() and (path / "config.json").exists():
            return self._prepare(_slug(path.name), str(path), path, served_type=SERVED_TYPE)
        raise InvalidModel(
            f"{path.name} is not a model", got=str(path), wanted="a .gguf file, or a folder with config.json"
        )

    def _from_hub(self, hub_id: str, report: Report | None) -> Model:
        name = _slug(hub_id.rpartition("/")[2])
        cached = self._cached(self._folder(name, hub_id))
        if cached is not None:
            return cached
        weights = hub.fetch(hub_id, report)
        return self._prepare(name, hub_id, weights, served_type=SERVED_TYPE if weights.is_dir() else None)

    def _prepare(self, name: str, source: str, weights: Path, *, served_type: str | None) -> Model:
        """Make the served file of ``weights`` (a GGUF or a folder) unless it is there already."""
        folder = self._folder(name, source)
        cached = self._cached(folder)
        if cached is not None and cached.weights == str(weights):
            return cached
        return self._make(folder, name, source, weights, served_type)

    def _make(self, folder: Path, name: str, source: str, weights: Path, served_type: str | None) -> Model:
        files = source_files(weights)
        state = _file_state(files)
        sha256 = files_sha256(files)
        gguf = self._served_file(folder, weights, served_type)
        facts = inspect(gguf)
        architecture = facts.pop("architecture")
        model = Model(name, source, str(gguf), str(weights), sha256, architecture, facts)
        manifest = {"files": state, "model": {**asdict(model), "meta": dict(facts)}}
        write_atomic(folder / _MANIFEST, json.dumps(manifest, indent=1).encode())
        return model

    def _served_file(self, folder: Path, weights: Path, served_type: str | None) -> Path:
        if served_type is None:
            return weights
        return self._write(folder / f"{_slug(weights.stem)}.{served_type}.gguf", weights, served_type)

    def _write(self, served: Path, weights: Path, served_type: str) -> Path:
        """Write ``weights`` (a GGUF or a folder) in another type."""
        n_threads = self._settings.n_threads
        if weights.is_file():
            return quantize(weights, served, served_type, n_threads=n_threads)
        from finetune.convert import hf_to_gguf
        from finetune.vocabulary_check import check_vocabulary

        converted = served.with_name(f"converted.{os.getpid()}.f16.gguf")
        served.parent.mkdir(parents=True, exist_ok=True)
        try:
            hf_to_gguf(weights, converted)
            check_vocabulary(weights, converted)
            return quantize(converted, served, served_type, n_threads=n_threads)
        finally:
            converted.unlink(missing_ok=True)

    def _folder(self, name: str, source: str) -> Path:
        return self._state.models(name if source == STARTER else f"{name[:50]}-{content_id(source)[:12]}")

    def _cached(self, folder: Path) -> Model | None:
        """Return the model made before, None if there is none or its files are others now."""
        try:
            manifest = json.loads((folder / _MANIFEST).read_bytes())
            model = Model(**manifest["model"])
            model.meta["kv_width"], model.meta["gguf_bytes"], model.meta["heads"]
            current = _file_state([Path(path) for path, _, _ in manifest["files"]])
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            return None  # absent, or written by another version: it is made again
        return model if current == manifest["files"] and Path(model.gguf).exists() else None


def _file_state(files: Sequence[Path]) -> list[list[Any]]:
    """Return path, size and modification time of each file: what tells that it is still the same."""
    return [[str(file), file.stat().st_size, file.stat().st_mtime_ns] for file in files]


def _slug(text: str) -> str:
    """Return ``text`` as a name that may be a folder's."""
    return re.sub(r"[^\w.-]+", "-", text).lstrip("._-")[:64] or "model"
