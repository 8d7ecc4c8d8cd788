"""The GGUF of a registered adapter: the one that was registered, or none.

It lies beside the database, where a disk, a restored backup or a careless hand may change it; a changed weight is no
broken file, and the model would answer otherwise without a word. So its hash is kept with the adapter. It is derived:
where it is damaged or missing it is made again of the weights. Knows nothing of who serves it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from data.errors import InvalidModel
from data.records import Adapter
from data.state import sha256_file
from service.arms import adapter_label
from service.serving import require_weights

if TYPE_CHECKING:
    from service.workspace import Workspace

ADAPTER_GGUF = "adapter.gguf"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
GGUF_SHA256 = "gguf_sha256"
"""In an adapter's lineage: the hash of the GGUF that it is served by."""


def adapter_gguf(workspace: Workspace, adapter: Adapter) -> Path:
    """Return the GGUF of ``adapter``, made of its weights where it is missing or no longer what it was.

    Raises:
        InvalidModel: the weights or their configuration are no longer what they were, so it cannot be made again; or
            it is missing, and so is the base model, which a server has.
        InsufficientStorage: the disk is full.
    """
    named = ADAPTER_GGUF if ADAPTER_GGUF in adapter.files else ADAPTER_WEIGHTS
    path = workspace.adapter_file(adapter, named).with_name(ADAPTER_GGUF)
    found = _as_registered(workspace, adapter, path)
    if found is None:
        # A server and a job may both be the first to need it.
        with workspace.state.turn("adapter-files"):
            found = _as_registered(workspace, adapter, path) or _make(workspace, adapter, path)
    return found


def _as_registered(workspace: Workspace, adapter: Adapter, path: Path) -> Path | None:
    """Return ``path`` if it is there and what it was, None if it has to be made."""
    wanted = adapter.lineage.get(GGUF_SHA256)
    if path.exists():
        found = sha256_file(path)
        if found == wanted:
            return path
        if wanted is None:  # converted by a version that kept no hash
            return _keep(workspace, adapter, path, found)
    return None


def _make(workspace: Workspace, adapter: Adapter, path: Path) -> Path:
    wanted = adapter.lineage.get(GGUF_SHA256)
    _check(adapter, path.with_name(ADAPTER_WEIGHTS), adapter.lineage.get("weights_sha256"))
    from finetune.export import lora_to_gguf

    base, made = require_weights(workspace.model).gguf, path.with_name(f"made.{ADAPTER_GGUF}")
    try:
        lora_to_gguf(path.parent, base, made)
        if wanted is not None and sha256_file(made) != wanted:  # registered before ranks were padded
            lora_to_gguf(path.parent, base, made, pad_rank=False)
        _check(adapter, made, wanted)
        made.replace(path)
    finally:
        made.unlink(missing_ok=True)
    return path if wanted is not None else _keep(workspace, adapter, path, sha256_file(path))


def _check(adapter: Adapter, path: Path, wanted: object) -> None:
    """Compare a file with the hash that is kept of it, if one is."""
    if wanted is None or (path.is_file() and sha256_file(path) == wanted):
        return
    raise InvalidModel(
        f"The files of the adapter {adapter_label(adapter)} are not those that were registered",
        got=path.parent,
        wanted=f"a file of SHA-256 {str(wanted)[:16]}…",
        hint="Bring the folder back from a backup, or train or import the adapter again.",
    )


def _keep(workspace: Workspace, adapter: Adapter, path: Path, sha256: str) -> Path:
    lineage = {**workspace.store.adapters.get(adapter.name, adapter.version).lineage, GGUF_SHA256: sha256}
    workspace.store.adapters.update(adapter.name, adapter.version, lineage=lineage)
    return path
