"""What is taken to another machine: a flat folder of rows, recipe, code and requirements, named by their hashes.

The manifest is written last and names the SHA-256 of every other file; nothing is trained from a folder that says
otherwise. The folder is flat because some platforms drop subfolders. Knows nothing of platforms.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from data.errors import InvalidRequest, RecipeInvalid
from data.records import content_id
from data.state import sha256_file, write_atomic
from finetune.cloud.examples import read_examples
from finetune.recipe import Recipe
from finetune.rows import Example

FORMAT = "ragtune-bundle-1"
MANIFEST = "manifest.json"
RECIPE = "recipe.toml"
ROWS = "train.jsonl"
HELD_OUT_ROWS = "eval.jsonl"
REQUIREMENTS = "requirements.txt"
BASE_GGUF = "base.gguf"
"""The base model itself, where no hub has it."""
START = {
    "init.adapter_model.safetensors": "adapter_model.safetensors",
    "init.adapter_config.json": "adapter_config.json",
}
"""Files of the adapter that the training starts from, if it starts from one, and their names in peft."""


@dataclass(frozen=True, slots=True)
class Served:
    """The model that the adapter comes home to.

    ``rows_sha256`` is that of the rows as its tokenizer makes them: a base model that gives the same rows reads and
    writes the same tokens. Its chat template, and what that may name, are those that are trained under.
    """

    name: str
    sha256: str
    rows_sha256: str
    template: str
    bos_token: str
    eos_token: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle is.

    ``base_model`` is a hub id, or the name of the model whose GGUF is in the bundle; ``revision`` pins a hub's, ""
    where it is not pinned; ``base_sha256`` is the hash of its weights where they were here, else "". ``is_served``
    tells that the adapter comes home to ``served``, so that a base model of other tokens is refused. ``start`` is the
    label of the adapter it starts from. ``files`` and ``platform_files`` map names to SHA-256, the latter relative to
    the folder above.
    """

    name: str
    base_model: str
    revision: str
    base_sha256: str
    served: Served
    is_served: bool
    attention: str
    examples: int
    held_out: int
    platform: str
    ragtune: str
    start: str | None = None
    files: Mapping[str, str] = field(default_factory=dict)
    platform_files: Mapping[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        """Return what tells this bundle from others: a hash over the files that training reads."""
        return content_id(*(f"{name} {digest}" for name, digest in sorted(self.files.items())))

    def write(self, folder: Path) -> None:
        """Write the manifest, the last file of the bundle."""
        values = {"format": FORMAT, "id": self.id, **asdict(self)}
        write_atomic(folder / MANIFEST, json.dumps(values, ensure_ascii=False, indent=2).encode() + b"\n")


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose files are those that its manifest names."""

    folder: Path
    manifest: Manifest
    recipe: Recipe
    examples: tuple[Example, ...]
    held_out: tuple[Example, ...]

    @property
    def start(self) -> Mapping[str, Path]:
        """Return the files of the adapter to start from by their names in peft; none where it starts at zero."""
        return {name: self.folder / file for file, name in START.items() if file in self.manifest.files}


def open_bundle(folder: Path | str, changes: Mapping[str, Any] | None = None) -> Bundle:
    """Read a bundle, once every file is found to be the one its manifest names.

    Args:
        folder: where the bundle lies.
        changes: recipe fields to run with instead.

    Raises:
        InvalidRequest: there is no bundle, a file is missing or was changed, or a row is bad.
        RecipeInvalid: ``changes`` make no recipe.
    """
    folder = Path(folder)
    manifest = _manifest(folder)
    check_files(folder, manifest.files, "bundle")
    recipe = Recipe.load(folder / RECIPE)
    if changes:
        if "init_adapter" in changes or "base_model" in changes:
            raise RecipeInvalid("A bundle keeps its base model and its start", got=", ".join(sorted(changes)))
        recipe = Recipe.from_mapping({**recipe.to_mapping(), **changes})
    held_out = folder / HELD_OUT_ROWS
    sides = (folder / ROWS, held_out) if HELD_OUT_ROWS in manifest.files else (folder / ROWS,)
    examples, *held = (tuple(read_examples(path)) for path in sides)
    return Bundle(folder, manifest, recipe, examples, held[0] if held else ())


def check_files(folder: Path, hashes: Mapping[str, str], what: str) -> None:
    """Compare files with their hashes.

    Raises:
        InvalidRequest: one is missing or another one.
    """
    for name, wanted in hashes.items():
        path = folder / name
        if Path(name).name != name or not path.is_file():
            raise InvalidRequest(
                f"A file of the {what} is missing", got=name, wanted=str(path), hint="Copy the whole folder again."
            )
        if (found := sha256_file(path)) != wanted:
            raise InvalidRequest(
                f"{name} is not the file that the {what}'s manifest names: it was changed or cut short",
                got=f"SHA-256 {found[:16]}…",
                wanted=f"{wanted[:16]}…",
                hint="Copy the whole folder again; to train on other rows or another recipe, make another bundle.",
            )


def _manifest(folder: Path) -> Manifest:
    try:
        values = json.loads((folder / MANIFEST).read_bytes())
        if values.pop("format") != FORMAT:
            raise ValueError("another format")
        values.pop("id")
        return Manifest(**{**values, "served": Served(**values["served"])})
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise InvalidRequest(
            f"This is no bundle: its {MANIFEST} cannot be read ({error})",
            got=folder,
            wanted="the folder bundle/ that ragtune bundle made",
        ) from error
