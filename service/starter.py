"""Registers the packaged starter adapters (reader, pair-writer) with a store.

They are committed as safetensors under ``data/starter/<name>/`` with a manifest; the state directory
gets a copy, so that a registered adapter never depends on the installed package. Knows nothing of
the engine; the GGUF is made at first use.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import data
from data.records import Adapter, Model
from data.state import StateDirectory, sha256_file
from service.arms import resolve_mode

if TYPE_CHECKING:
    from data.store import Store
    from service.asking import AskRequest
    from service.workspace import Workspace

READER = "reader"
PAIR_WRITER = "pair-writer"
_FILES = ("adapter_model.safetensors", "adapter_config.json", "manifest.json")


def starter_folder() -> Path:
    """Return the folder of the packaged adapters (it may be absent)."""
    return Path(data.__file__).parent / "starter"


def register_starter_adapters(
    store: Store, state: StateDirectory, model: Model, folder: Path | None = None
) -> tuple[str, ...]:
    """Register every packaged adapter that was trained for ``model``; return their names.

    An adapter is registered as a candidate, once for each content: a changed package gives a new
    version. Nothing happens for another base model, or where the package holds none.
    """
    names = []
    for name in (READER, PAIR_WRITER):
        source = (folder or starter_folder()) / name
        if not (source / "manifest.json").is_file():
            continue
        manifest = json.loads((source / "manifest.json").read_text(encoding="utf-8"))
        if manifest["base_sha256"] != model.sha256:
            continue
        _register(store, state, model, source, manifest)
        names.append(name)
    return tuple(names)


def suggested_adapter(workspace: Workspace, collection: str) -> str | None:
    """Return the packaged reader's name where a question that names nothing would be answered by the bare starter.

    That cites nothing. The mode ``auto`` stays what it is, rag while no adapter is live; who asks for a person (the
    command line, the page) names the reader instead. None where an adapter is live, where an evaluation
    recommends to do without, where what ``auto`` is here was calibrated (even if that no longer holds), and where
    the engine is not ours or could not read passages as the reader does.
    """
    model, store = workspace.model, workspace.store
    if not workspace.serves_here or store.adapters.live(model.sha256, collection) is not None:
        return None
    fits = any(each.name == READER and each.base_sha256 == model.sha256 for each in store.adapters.list(READER))
    latest = store.evaluations.latest(collection) or {}
    if not fits or latest.get("recommendation") in {"base", "rag"}:
        return None
    if workspace.engine_options(model).kv_type != "f16":
        return None
    auto = resolve_mode("auto", None, store, model, collection)
    return READER if workspace.answerer.calibrations.load(auto, collection) is None else None


def with_suggestion(workspace: Workspace, ask: AskRequest) -> AskRequest:
    """Return ``ask`` with ``suggested_adapter`` where it leaves everything open: mode ``auto``, no adapter, no rate.

    Where a share of false answers is to be kept, that is of the arm that ``ragtune calibrate`` took when told nothing.
    """
    settled = ask.adapter is not None or ask.adapters or ask.max_false_answer_rate is not None
    if ask.mode != "auto" or settled:
        return ask
    return replace(ask, adapter=suggested_adapter(workspace, ask.collection))


def _register(store: Store, state: StateDirectory, model: Model, source: Path, manifest: dict[str, Any]) -> None:
    weights = source / _FILES[0]
    digest = sha256_file(weights)
    if any(a.name == source.name and a.lineage.get("weights_sha256") == digest for a in store.adapters.list()):
        return
    version = store.adapters.next_version(source.name)
    target = state.adapters(source.name, version)
    target.mkdir(parents=True, exist_ok=True)
    for file in _FILES:
        shutil.copyfile(source / file, target / file)
    store.adapters.add(
        Adapter(
            name=source.name,
            version=version,
            base_model=model.name,
            base_sha256=model.sha256,
            recipe=manifest.get("recipe", {}),
            rows_sha256=manifest.get("rows_sha256", ""),
            attention=manifest.get("attention", "full"),
            files={file: str((target / file).relative_to(state.root)) for file in _FILES},
            metrics=manifest.get("metrics", {}),
            stage="candidate",
            lineage={"weights_sha256": digest, "origin": "starter", **manifest.get("lineage", {})},
        )
    )
