"""Adapters from elsewhere, and adapters that go: import and delete, files and registry together.

Knows nothing of HTTP or of the command line.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from data.errors import BaseModelMismatch, InvalidModel
from data.records import Adapter
from data.state import check_name, sha256_file, write_atomic
from service.arms import find_adapter
from service.workspace import ADAPTER_CONFIG, ADAPTER_GGUF, ADAPTER_WEIGHTS

if TYPE_CHECKING:
    from service.workspace import Workspace

MANIFEST = "manifest.json"
IMPORTABLE = (ADAPTER_WEIGHTS, ADAPTER_CONFIG, MANIFEST)
"""The files of an adapter that can be imported; the manifest is optional."""


def import_adapter(workspace: Workspace, name: str, files: Mapping[str, bytes]) -> Adapter:
    """Register a peft LoRA as a candidate; it is converted to GGUF at once, so that it fits or fails now.

    Args:
        workspace: where it is registered; its model is the adapter's base.
        name: of the adapter; a new version if the name is known.
        files: content of the files of ``IMPORTABLE``, by name.

    Raises:
        InvalidModel: a file is missing or damaged, or the adapter is of a kind GGUF cannot express.
        BaseModelMismatch: it was trained for another base model.
        InvalidRequest: the name cannot name a folder.
    """
    check_name(name, "adapter name")
    for needed in (ADAPTER_WEIGHTS, ADAPTER_CONFIG):
        if needed not in files:
            raise InvalidModel("A file of the adapter is missing", got=", ".join(sorted(files)), wanted=needed)
    config, manifest = _json(files, ADAPTER_CONFIG), _json(files, MANIFEST)
    model = workspace.model
    if manifest.get("base_sha256", model.sha256) != model.sha256:
        raise BaseModelMismatch(
            "The adapter was trained for another base model",
            got=manifest.get("base_model", manifest["base_sha256"]),
            wanted=model.name,
            hint="Choose its base model with RAGTUNE_MODEL.",
        )
    version = workspace.store.adapters.next_version(name)
    folder = workspace.state.adapters(name, version)
    try:
        for file in IMPORTABLE:
            if file in files:
                write_atomic(folder / file, files[file])
        adapter = _adapter(workspace, name, version, config, manifest)
        workspace.adapter_gguf(adapter)
        workspace.store.adapters.add(adapter)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return workspace.store.adapters.get(name, version)


def delete_adapter(workspace: Workspace, name: str, version: int | None = None) -> tuple[Adapter, ...]:
    """Delete one version of an adapter, or all of them, with their files; return what is gone.

    Raises:
        UnknownAdapter: there is none.
    """
    find_adapter(workspace.store, name if version is None else f"{name}@{version}")
    gone = tuple(a for a in workspace.store.adapters.list(name) if version in (None, a.version))
    for adapter in gone:
        workspace.forget_adapter(adapter)
    workspace.store.adapters.delete(name, version)
    for adapter in gone:
        shutil.rmtree(workspace.state.adapters(name, adapter.version), ignore_errors=True)
    return gone


def _json(files: Mapping[str, bytes], name: str) -> dict[str, Any]:
    if name not in files:
        return {}
    try:
        found = json.loads(files[name])
    except ValueError as error:
        raise InvalidModel(f"{name} is not JSON: {error}", got=name) from error
    if not isinstance(found, dict):
        raise InvalidModel(f"{name} is no JSON object", got=type(found).__name__)
    return found


def _adapter(
    workspace: Workspace, name: str, version: int, config: dict[str, Any], manifest: dict[str, Any]
) -> Adapter:
    folder = workspace.state.adapters(name, version)
    present = [file for file in (*IMPORTABLE, ADAPTER_GGUF) if (folder / file).exists() or file == ADAPTER_GGUF]
    recipe = manifest.get("recipe") or {key: config.get(key) for key in ("r", "lora_alpha", "target_modules")}
    return Adapter(
        name=name,
        version=version,
        base_model=workspace.model.name,
        base_sha256=workspace.model.sha256,
        recipe=recipe,
        rows_sha256=str(manifest.get("rows_sha256", "")),
        attention=manifest.get("attention", "full"),
        files={file: str((folder / file).relative_to(workspace.state.root)) for file in present},
        # A parity measured elsewhere says nothing about the GGUF that is made here.
        metrics={name: value for name, value in manifest.get("metrics", {}).items() if name != "parity"},
        stage="candidate",
        lineage={"origin": "import", "weights_sha256": sha256_file(folder / ADAPTER_WEIGHTS)},
    )
