"""Adapters from elsewhere, and adapters that go: import and delete, files and registry together.

Knows nothing of HTTP or of the command line.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, get_args

from data.errors import BaseModelMismatch, InvalidModel
from data.protocols import Report
from data.records import Adapter, Model, Progress, StageNote, content_id
from data.state import StateDirectory, check_name, map_os_error, sha256_file, sync_tree
from finetune.cloud.archive import check_hashes, unpack
from finetune.recipe import Attention
from service.adapter_files import ADAPTER_CONFIG, ADAPTER_GGUF, ADAPTER_WEIGHTS, GGUF_SHA256
from service.arms import find_adapter
from service.forgetting import measure_forgetting
from service.parity import measure_parity, probe_examples
from service.promotion import is_dora
from service.serving import require_weights

if TYPE_CHECKING:
    from service.workspace import Workspace

MANIFEST = "manifest.json"
IMPORTABLE = (ADAPTER_WEIGHTS, ADAPTER_CONFIG, MANIFEST)
"""The files of an adapter that can be imported; the manifest is optional."""


def import_adapter(workspace: Workspace, name: str, source: Path, report: Report) -> Adapter:
    """Register a peft LoRA as a candidate, once its GGUF was made and compared with it here.

    The same files under the same name give the version that is there already, so that an import that
    was stopped can be repeated.

    Args:
        workspace: where it is registered; its model is the adapter's base.
        name: of the adapter; a new version if the name is known.
        source: the folder with the files of ``IMPORTABLE``; it is only read.
        report: receives the progress of the comparison.

    Raises:
        InvalidModel: a file is missing or damaged, or the adapter is of a kind GGUF cannot express; or the base model
            is a server's.
        BaseModelMismatch: it was trained for another base model.
        ParityFailed: the GGUF does not answer as the adapter does; AdapterInert: it changes nothing.
        InvalidRequest: the name cannot name a folder.
    """
    from finetune.export import lora_to_gguf

    check_name(name, "adapter name")
    config, manifest = read_importable(source, require_weights(workspace.model))
    present = [file for file in IMPORTABLE if (source / file).is_file()]
    digest = content_id(*(f"{file} {sha256_file(source / file)}" for file in present))
    known = _imported_before(workspace, name, digest)
    if known is not None:
        return known
    version = workspace.store.adapters.next_version(name)
    folder = workspace.state.adapters(name, version)
    shutil.rmtree(folder, ignore_errors=True)  # left by an import that was killed
    try:
        _copy(source, folder, present, workspace.state.root)
        adapter = _adapter(workspace, name, version, config, manifest, digest=digest)
        measured: dict[str, Any] = {}
        if not is_dora(adapter):  # which llama.cpp serves merged only, and which is compared when it is
            report(Progress(stage="convert"))
            gguf = lora_to_gguf(folder, workspace.model.gguf, folder / ADAPTER_GGUF)
            adapter = replace(adapter, lineage={**adapter.lineage, GGUF_SHA256: sha256_file(gguf)})
            measured["parity"] = measure_parity(workspace, folder, probe_examples(), report, adapter.attention)
            measured["forgetting"] = measure_forgetting(workspace, folder, adapter.attention, report)
        workspace.store.adapters.add(replace(adapter, metrics={**adapter.metrics, **measured}))
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return workspace.store.adapters.get(name, version)


def read_importable(folder: Path, model: Model) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the config and the manifest ({} without one) of an adapter that may be imported for ``model``.

    Raises:
        InvalidModel: a file is missing, is not JSON, or is not the one that the manifest names.
        BaseModelMismatch: it was trained for another base model.
    """
    for needed in (ADAPTER_WEIGHTS, ADAPTER_CONFIG):
        if not (folder / needed).is_file():
            found = sorted(file.name for file in folder.iterdir())[:10]
            raise InvalidModel("A file of the adapter is missing", got=", ".join(found), wanted=needed)
    config, manifest = _json(folder / ADAPTER_CONFIG), _json(folder / MANIFEST)
    for name in ("metrics", "recipe", "lineage"):
        if not isinstance(manifest.get(name, {}), dict):
            raise InvalidModel(
                "The manifest cannot be read", got=f"{name}: {manifest[name]!r}"[:200], wanted="an object"
            )
    attention = manifest.get("attention", "full")
    if attention not in get_args(Attention):
        raise InvalidModel(
            "The manifest cannot be read",
            got=f"attention: {attention!r}"[:200],
            wanted=" or ".join(get_args(Attention)),
        )
    if "sha256" in manifest:
        check_hashes(folder)
    _check_base(manifest, model)
    return config, manifest


def _check_base(manifest: dict[str, Any], model: Model) -> None:
    """Compare the weights it was trained on with the model's, or the model that its bundle was made for.

    The latter where a GGUF is served and what it was made from was trained on: the weights differ then,
    and that the tokens are the same was checked before training.
    """
    served = manifest.get("served")
    made_for = served.get("sha256") if isinstance(served, dict) else None
    if model.sha256 in (manifest.get("base_sha256", model.sha256), made_for):
        return
    raise BaseModelMismatch(
        "The adapter was trained for another base model",
        got=manifest.get("base_model", manifest["base_sha256"]),
        wanted=f"{model.name}, SHA-256 {model.sha256[:16]}…",
        hint="Choose its base model with RAGTUNE_MODEL; one of a hub comes with: ragtune models pull.",
    )


@contextmanager
def unpacked(state: StateDirectory, archive: Path | BinaryIO) -> Iterator[Path]:
    """Give the folder with the files of an adapter's archive, for as long as the context lasts.

    Raises:
        InvalidModel: it is no archive of one adapter, or was changed.
        InsufficientStorage: the disk is full.
    """
    with tempfile.TemporaryDirectory(prefix="import-", dir=state.tmp) as made:
        yield unpack(archive, Path(made) / "adapter")


def _imported_before(workspace: Workspace, name: str, digest: str) -> Adapter | None:
    """Return the version made of the same files for the same base, if it was compared then."""
    for adapter in reversed(workspace.store.adapters.list(name)):
        same = adapter.lineage.get("files_sha256") == digest and adapter.base_sha256 == workspace.model.sha256
        if same and (adapter.metrics.get("parity") or is_dora(adapter)):
            return adapter
    return None


def _copy(source: Path, folder: Path, files: list[str], root: Path) -> None:
    try:
        folder.mkdir(parents=True)
        for file in files:
            shutil.copyfile(source / file, folder / file)
        sync_tree(folder, root)
    except OSError as error:
        raise map_os_error(error, folder) from error


def delete_adapter(
    workspace: Workspace, name: str, version: int | None = None, *, actor: str = ""
) -> tuple[Adapter, ...]:
    """Delete one version of an adapter (``name@version``, or ``version``), or all, with their files; return them.

    Raises:
        UnknownAdapter: there is none.
    """
    found = find_adapter(workspace.store, name if version is None or "@" in name else f"{name}@{version}")
    name, version = found.name, found.version if "@" in name else version
    gone = tuple(a for a in workspace.store.adapters.list(name) if version in (None, a.version))
    for adapter in gone:
        workspace.forget_adapter(adapter)
    workspace.store.adapters.delete(name, version, StageNote(actor))
    for adapter in gone:
        shutil.rmtree(workspace.state.adapters(name, adapter.version), ignore_errors=True)
    return gone


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = json.loads(path.read_bytes())
        # It goes into the database and out again: no number that JSON has no word for, no half of a character.
        json.dumps(found, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise InvalidModel(f"{path.name} is not JSON: {error}", got=path.name) from error
    if not isinstance(found, dict):
        raise InvalidModel(f"{path.name} is no JSON object", got=type(found).__name__)
    return found


def _adapter(
    workspace: Workspace, name: str, version: int, config: dict[str, Any], manifest: dict[str, Any], *, digest: str
) -> Adapter:
    folder = workspace.state.adapters(name, version)
    made = () if config.get("use_dora") else (ADAPTER_GGUF,)
    present = [file for file in (*IMPORTABLE, *made) if (folder / file).exists() or file in made]
    recipe = manifest.get("recipe") or {key: config.get(key) for key in ("r", "lora_alpha", "target_modules")}
    recipe = {**recipe, "use_dora": bool(config.get("use_dora"))}
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
        lineage={
            "origin": "import",
            "weights_sha256": sha256_file(folder / ADAPTER_WEIGHTS),
            "files_sha256": digest,
            "elsewhere": manifest.get("lineage"),
        },
    )
