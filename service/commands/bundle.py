"""``ragtune bundle``: everything a training needs elsewhere, in one folder."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from service.commands.adapters import recipe_option
from service.commands.progress import ProgressView
from service.commands.session import Collection, Json, print_json, print_line, session


class PlatformName(StrEnum):
    """Where to train; skypilot is any cloud."""

    colab = "colab"
    kaggle = "kaggle"
    sagemaker = "sagemaker"
    azureml = "azureml"
    skypilot = "skypilot"


def bundle(
    ctx: typer.Context,
    *,
    platform: Annotated[PlatformName, typer.Argument(help="Where the GPU is.")],
    out: Annotated[Path, typer.Option("--out", help="A new folder to write.")],
    name: Annotated[str, typer.Option("--name", "-n", help="What to call the adapter.")] = "adapter",
    recipe: Annotated[str | None, typer.Option(help="A TOML file, or style for a house style.")] = None,
    base_model: Annotated[
        str | None,
        typer.Option(help="Hub id to train, ORG/NAME or ORG/NAME@REVISION; by default what is served here."),
    ] = None,
    with_model: Annotated[
        bool, typer.Option("--with-model", help="Take the served GGUF along instead of fetching a model from a hub.")
    ] = False,
    minutes: Annotated[float | None, typer.Option(min=1, help="Most minutes of training on Colab and Kaggle.")] = None,
    owner: Annotated[str | None, typer.Option(help="Your Kaggle user name.")] = None,
    collection: Collection = "default",
    as_json: Json = False,
) -> None:
    """Write what a training needs to run on another machine: rows, recipe, code, and the platform's own files."""
    from service.bundling import make_bundle

    inputs = {
        "name": name,
        "collection": collection,
        "recipe": recipe_option(recipe),
        "base_model": base_model,
        "with_model": with_model,
        "minutes": minutes,
        "owner": owner,
    }
    with session(ctx).workspace(mutates=True) as workspace, ProgressView("bundle") as report:
        made = make_bundle(workspace, platform.value, out, inputs, report)
    if as_json:
        print_json(made)
        return
    for line in bundle_lines(out, made):
        print_line(line)


def bundle_lines(out: Path, made: Mapping[str, Any]) -> list[str]:
    """Return what a person is told of a bundle in ``out``; ``made`` is what ``make_bundle`` returned."""
    lines = [f"{out}: {made['examples']} examples ({made['held_out']} held out), {made['bytes'] / 1e6:.1f} MB."]
    if made["refused"]:
        reasons = ", ".join(f"{reason}: {count}" for reason, count in made["refused"].items())
        lines.append(f"Left out: {reasons}.")
    lines.append(f"Base model: {made['base_model']} ({made['chosen']}){', in 4 bits' if made['qlora'] else ''}.")
    if not made["is_served"]:
        lines.append(
            f"It is not the model that is served here; to import the adapter: models pull {made['base_model']}"
        )
    return [*lines, f"The rows are in plain text. Next: {out / 'README.md'}"]
