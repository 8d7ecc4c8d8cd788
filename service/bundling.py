"""Take a training elsewhere: the rows, the recipe and the base model's name, as a bundle for one platform.

Knows nothing of what the platforms are, and nothing of the command line.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data.errors import RecipeInvalid
from data.model_files import STARTER
from data.protocols import Report
from data.records import Model
from data.state import check_name
from service.serving import require_weights
from service.training_set import training_set

if TYPE_CHECKING:
    from finetune.cloud.bundle import Served
    from finetune.cloud.make import Content, Platform
    from finetune.twin import Twin
    from service.training_set import TrainingSet
    from service.workspace import Workspace

GPU_DEFAULTS = {"qlora": True, "gradient_checkpointing": True}
"""Of a bundle whose base model comes from a hub, where the recipe does not say: what fits into a T4's 16 GB."""
_SNAPSHOT = re.compile(r"/snapshots/([0-9a-f]{40})$")


@dataclass(frozen=True, slots=True)
class Base:
    """The base model that is trained elsewhere: a hub id, or the name of the served ``gguf`` that is taken along.

    ``how`` it was chosen, in words; ``is_served``: it is the model that is served here, or what that was made from.
    ``revision`` and ``sha256`` are "" where they are not known.
    """

    model: str
    how: str
    is_served: bool = True
    revision: str = ""
    sha256: str = ""
    gguf: Path | None = None


def choose_base(model: Model, asked: str | None, *, with_model: bool) -> Base:
    """Return what to train: as ``asked``, else what the served ``model`` came from.

    Raises:
        RecipeInvalid: nothing tells where the served model comes from, or ``asked`` is no model that a hub has whole.
    """
    own = _hub_id(model)
    if asked in (model.name, model.source):
        asked = None
    if asked and not _is_whole_id(asked):
        raise RecipeInvalid(
            "A bundle's base model is fetched from a hub",
            got=asked,
            wanted="ORG/NAME or ORG/NAME@REVISION, no GGUF type",
        )
    wanted, _, revision = (asked or own).partition("@")
    if wanted and _bare(wanted) == _bare(own):
        snapshot = _SNAPSHOT.search(Path(model.weights).as_posix()) if wanted == own else None
        pinned = revision or (snapshot[1] if snapshot else "")
        return Base(wanted, "the model that is served", revision=pinned, sha256=model.sha256)
    twin = _twin(model)
    if wanted:
        return Base(wanted, "as asked", is_served=twin is not None and twin[0] == _bare(wanted), revision=revision)
    if with_model or model.source == STARTER:
        gguf = _whole_gguf(Path(model.weights))
        return Base(model.name, "the served file, taken along", sha256=model.sha256, gguf=gguf)
    if twin is not None:
        return Base(*twin)
    raise RecipeInvalid(
        f"Nothing says which model on a hub {model.name} is",
        got=model.source,
        wanted="its hub id, as in --base-model Qwen/Qwen2.5-3B-Instruct",
        hint="Or take the file itself along: --with-model (its weights are dequantized, 4 bits are not possible).",
    )


@dataclass(frozen=True, slots=True)
class TrainingChoice:
    """What training means for a model that is a GGUF alone.

    ``file_type`` names its rounding; ``bytes_dequantized`` is the size of its weights in 16 bits; ``twin`` is the model
    it was made from, None where the file does not tell.
    """

    file_type: str
    bytes_dequantized: int
    twin: Twin | None


def training_choice(model: Model) -> TrainingChoice | None:
    """Return the choice for a GGUF, None for a model whose own weights are here.

    Raises:
        InvalidModel: the file cannot be read.
    """
    from finetune.gguf_tensors import GgufFile
    from finetune.twin import twin_of

    if not Path(model.weights).is_file() or model.source == STARTER:
        return None
    file = GgufFile(model.weights)
    numbers = sum(math.prod(shape) for shape in file.shapes.values())
    return TrainingChoice(file.quantization, 2 * numbers, twin_of(model.weights))


def make_bundle(
    workspace: Workspace, platform: Platform, out: Path, inputs: dict[str, Any], report: Report
) -> dict[str, Any]:
    """Write the bundle into ``out``; return what it is, with its size.

    Args:
        workspace: whose accepted pairs are trained on.
        platform: of ``finetune.cloud.make.PLATFORMS``.
        out: a new folder.
        inputs: as of the ``train`` job (``name``, ``collection``, ``recipe``), and ``base_model``, ``with_model``,
            ``minutes``, ``owner``.
        report: receives the progress.

    Raises:
        RecipeInvalid: an impossible recipe, or no base model that a hub has.
        NoAcceptedPairs: there is nothing to train on.
        InvalidRequest: ``out`` is not empty.
    """
    from finetune.cloud.make import MINUTES, check_place, write_bundle

    check_place(platform, out)
    name = check_name(inputs["name"], "adapter name")
    values = dict(inputs.get("recipe") or {})
    asked = inputs.get("base_model") or values.pop("base_model", None)
    values.pop("base_model", None)
    base = choose_base(require_weights(workspace.model), asked, with_model=inputs.get("with_model", False))
    values = {**(GPU_DEFAULTS if base.gguf is None else {}), **values}
    if not base.is_served and "init_adapter" not in values:
        values["init_adapter"] = ""  # the packaged reader is for the starter alone
    prepared = training_set(workspace, {**inputs, "recipe": values}, report)
    content = _content(name, base, workspace.model, prepared)
    minutes = MINUTES if inputs.get("minutes") is None else inputs["minutes"]
    manifest = write_bundle(content, platform, out, minutes=minutes, owner=inputs.get("owner") or "")
    return {
        "out": str(out),
        "platform": platform,
        "id": manifest.id,
        "base_model": base.model,
        "revision": base.revision,
        "chosen": base.how,
        "is_served": base.is_served,
        "qlora": prepared.recipe.qlora,
        "examples": len(prepared.examples),
        "held_out": len(prepared.held_out_examples),
        "refused": dict(prepared.refused),
        "bytes": sum(path.stat().st_size for path in (out / "bundle").iterdir()),
    }


def _content(name: str, base: Base, model: Model, prepared: TrainingSet) -> Content:
    """Return what the bundle holds.

    Raises:
        RecipeInvalid: 4 bits were asked for of a GGUF.
    """
    from finetune.cloud.make import Content

    recipe = prepared.recipe
    if recipe.qlora and base.gguf is not None:
        raise RecipeInvalid("4 bits need the model's Hugging Face folder", got="qlora and a GGUF", wanted="one of them")
    return Content(
        name=name,
        base_model=base.model,
        revision=base.revision,
        base_sha256=base.sha256,
        base_gguf=base.gguf,
        served=_served(model, prepared),
        is_served=base.is_served,
        recipe=recipe,
        examples=prepared.examples,
        held_out=prepared.held_out_examples,
        start=Path(recipe.init_adapter) if recipe.init_adapter else None,
        start_label=prepared.started_from,
        ragtune=version("ragtune"),
    )


def _hub_id(model: Model) -> str:
    """Return the hub id of a model that was fetched as a folder, "" for any other."""
    whole = Path(model.weights).is_dir() and _is_whole_id(model.source)
    return model.source.partition("@")[0] if whole else ""


def _is_whole_id(text: str) -> bool:
    """Tell whether ``text`` is a hub id of a model's folder, and not of one GGUF in it."""
    from data.hub import is_hub_id

    return is_hub_id(text) and ":" not in _bare(text)


def _bare(hub_id: str) -> str:
    """Return a hub id without the name of its hub: publishers have the same names on both."""
    return hub_id.removeprefix("modelscope:")


def _twin(model: Model) -> tuple[str, str] | None:
    """Return the hub id of the model that a served GGUF was made from, and how it was found."""
    from finetune.twin import twin_of

    found = twin_of(model.weights) if Path(model.weights).is_file() and model.source != STARTER else None
    return None if found is None else (found.repo, f"the twin of {Path(model.weights).name}: {found}")


def _whole_gguf(weights: Path) -> Path:
    if not weights.is_file() or "-of-" in weights.name:
        raise RecipeInvalid("Only one GGUF file can be taken along", got=weights.name, wanted="--base-model HUB_ID")
    return weights


def _served(model: Model, prepared: TrainingSet) -> Served:
    from finetune.cloud.bundle import Served
    from finetune.weights import load_tokenizer

    tokenizer = load_tokenizer(model.weights)
    return Served(
        name=model.name,
        sha256=model.sha256,
        rows_sha256=prepared.rows.sha256,
        template=tokenizer.template,
        bos_token=tokenizer.bos_token,
        eos_token=tokenizer.eos_token,
    )
