"""Write a bundle and what one platform needs around it, each in the platform's own conventions.

Knows nothing of workspaces, and starts nothing anywhere.
"""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from data.errors import InvalidRequest
from data.state import map_os_error, sha256_file
from finetune.cloud.archive import import_command
from finetune.cloud.bundle import (
    BASE_GGUF,
    HELD_OUT_ROWS,
    RECIPE,
    REQUIREMENTS,
    ROWS,
    START,
    Manifest,
    Served,
)
from finetune.cloud.examples import write_examples
from finetune.cloud.notebook import FROM_BUNDLE, FROM_REPOSITORY, notebook
from finetune.cloud.requirements import requirements
from finetune.cloud.wheel import write_wheel
from finetune.recipe import Recipe
from finetune.rows import Example

Platform = Literal["colab", "kaggle", "sagemaker", "azureml", "skypilot"]
PLATFORMS: tuple[Platform, ...] = get_args(Platform)
MINUTES = 25.0
"""Of training on Colab and Kaggle, so that fetching the model and installing leave it under half an hour."""
NO_OWNER = "INSERT_YOUR_KAGGLE_USERNAME"
NOTEBOOK = "colab_finetune.ipynb"
BUNDLE = "bundle"
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True, slots=True)
class Content:
    """What is trained, on what, for which model; ``start`` is the folder of the adapter to start from."""

    name: str
    base_model: str
    revision: str
    base_sha256: str
    base_gguf: Path | None
    served: Served
    is_served: bool
    recipe: Recipe
    examples: tuple[Example, ...]
    held_out: tuple[Example, ...]
    start: Path | None
    start_label: str | None
    ragtune: str


def check_place(platform: str, out: Path) -> None:
    """Refuse what ``write_bundle`` would refuse, before the work that it takes.

    Raises:
        InvalidRequest: there is something in ``out``, or no such platform.
    """
    if platform not in PLATFORMS:
        raise InvalidRequest("No such platform", got=platform, wanted=", ".join(PLATFORMS))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InvalidRequest("There is something in the bundle's folder already", got=out, wanted="a new folder")


def write_bundle(
    content: Content, platform: Platform, out: Path | str, *, minutes: float = MINUTES, owner: str = ""
) -> Manifest:
    """Write the bundle and the platform's files into ``out``, which is made; return its manifest.

    Args:
        content: what is trained.
        platform: whose conventions.
        out: a folder that does not exist yet, or is empty.
        minutes: limit of the training on Colab and Kaggle.
        owner: the Kaggle account.

    Raises:
        InvalidRequest: there is something in ``out``, or no such platform.
        InsufficientStorage: the disk is full.
    """
    out = Path(out)
    check_place(platform, out)
    bundle = out / BUNDLE
    try:
        bundle.mkdir(parents=True, exist_ok=True)
        wheel = _write_content(content, bundle)
        manifest = _manifest(content, platform, bundle)
        words = _words(content, platform, wheel=wheel.name, minutes=minutes, owner=owner)
        manifest.write(bundle)
        _write_platform(platform, out, words)
        _write(out / "README.md", _filled("README", {**words, "STEPS": _filled(f"README.{platform}", words)}))
        written = {path.relative_to(out).as_posix(): path for path in sorted(out.rglob("*")) if path.is_file()}
        own = {f"{BUNDLE}/{name}" for name in (*manifest.files, "manifest.json")}
        # bundle.zip holds the manifest, so it cannot be named in it.
        hashes = {name: sha256_file(path) for name, path in written.items() if name not in own}
        manifest = replace(manifest, platform_files=hashes)
        manifest.write(bundle)
        if platform == "colab":
            _zip(bundle, out / f"{BUNDLE}.zip")
    except OSError as error:
        raise map_os_error(error, out) from error
    return manifest


def repository_notebook() -> bytes:
    """Return the notebook as it is committed: for whatever bundle is beside it, with the code from the repository."""
    words = {
        "NAME": "adapter",
        "BASE": "the base model that the bundle names",
        "EXAMPLES": "",
        "MINUTES": f"{MINUTES:g}",
        "COMMAND": "ragtune adapters import adapter.zip",
    }
    return _notebook(words, FROM_REPOSITORY)


def _write_content(content: Content, bundle: Path) -> Path:
    write_examples(bundle / ROWS, content.examples)
    if content.held_out:
        write_examples(bundle / HELD_OUT_ROWS, content.held_out)
    recipe = replace(content.recipe, base_model=content.base_model, init_adapter=None)
    recipe.save(bundle / RECIPE)
    _write(bundle / REQUIREMENTS, requirements(qlora=recipe.qlora))
    if content.start is not None:
        for name, original in START.items():
            shutil.copyfile(content.start / original, bundle / name)
    if content.base_gguf is not None:
        shutil.copyfile(content.base_gguf, bundle / BASE_GGUF)
    return write_wheel(bundle, content.ragtune)


def _manifest(content: Content, platform: Platform, bundle: Path) -> Manifest:
    return Manifest(
        name=content.name,
        base_model=content.base_model,
        revision=content.revision,
        base_sha256=content.base_sha256,
        served=content.served,
        is_served=content.is_served,
        attention=content.recipe.attention,
        examples=len(content.examples),
        held_out=len(content.held_out),
        platform=platform,
        ragtune=content.ragtune,
        start=content.start_label,
        files={path.name: sha256_file(path) for path in sorted(bundle.iterdir())},
    )


def _words(content: Content, platform: Platform, *, wheel: str, minutes: float, owner: str) -> dict[str, str]:
    slug = re.sub(r"[^a-z0-9]+", "-", content.name.lower()).strip("-") or "adapter"
    return {
        "NAME": content.name,
        "SLUG": slug[:30],
        "BASE": content.base_model,
        "PLATFORM": platform,
        "EXAMPLES": str(len(content.examples)),
        "HELD_OUT": str(len(content.held_out)),
        "MINUTES": f"{minutes:g}",
        "OWNER": owner or NO_OWNER,
        "WHEEL": wheel,
        "COMMAND": import_command(content.name, content.base_model, is_served=content.is_served),
    }


def _write_platform(platform: Platform, out: Path, words: Mapping[str, str]) -> None:
    if platform == "colab":
        (out / NOTEBOOK).write_bytes(_notebook(words, FROM_BUNDLE))
    elif platform == "kaggle":
        _write_kaggle(out, words)
    elif platform == "sagemaker":
        source = out / "source"
        source.mkdir()
        shutil.copyfile(out / BUNDLE / words["WHEEL"], source / words["WHEEL"])
        lines = (out / BUNDLE / REQUIREMENTS).read_text(encoding="utf-8")
        _write(source / REQUIREMENTS, f"{lines}./{words['WHEEL']}\n")
        _write(source / "train.py", _filled("sagemaker_train", words))
    elif platform == "azureml":
        _write(out / "job.yml", _filled("azureml_job", words))
    else:
        _write(out / "task.yaml", _filled("skypilot_task", words))


def _write_kaggle(out: Path, words: Mapping[str, str]) -> None:
    title = f"ragtune-{words['SLUG']}"
    rows = f"{words['OWNER']}/{title}-bundle"
    dataset = {"title": f"{title}-bundle", "id": rows, "licenses": [{"name": "other"}]}
    kernel = {
        "id": f"{words['OWNER']}/{title}",
        "title": title,
        "code_file": "train.py",
        "language": "python",
        "kernel_type": "script",
        "is_private": True,
        "enable_gpu": True,
        "enable_tpu": False,
        "enable_internet": True,
        "machine_shape": "NvidiaTeslaT4",
        "dataset_sources": [rows],
        "competition_sources": [],
        "kernel_sources": [],
        "model_sources": [],
    }
    (out / "kernel").mkdir()
    _write(out / BUNDLE / "dataset-metadata.json", json.dumps(dataset, indent=2) + "\n")
    _write(out / "kernel" / "kernel-metadata.json", json.dumps(kernel, indent=2) + "\n")
    _write(out / "kernel" / "train.py", _filled("kaggle_train", words))


def _notebook(words: Mapping[str, str], code: tuple[str, str]) -> bytes:
    installed, install = code
    text = _template("notebook").replace("@INSTALLED@", f"{installed} the training code, the same as at home.")
    return notebook(_fill(text.replace("@INSTALL@", install), words))


def _filled(template: str, words: Mapping[str, str]) -> str:
    return _fill(_template(template), words)


def _template(name: str) -> str:
    return (_TEMPLATES / f"{name}.txt").read_text(encoding="utf-8")


def _fill(text: str, words: Mapping[str, str]) -> str:
    return re.sub(r"@([A-Z_]+)@", lambda found: words[found[1]], text)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _zip(folder: Path, path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as out:
        for file in sorted(folder.iterdir()):
            out.write(file, file.name)
