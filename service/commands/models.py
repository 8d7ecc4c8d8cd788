"""Commands about base models: list, pull, add."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated

import typer

from data.errors import InvalidRequest
from data.protocols import Report
from data.records import Model, Progress
from service.commands.progress import ProgressView
from service.commands.session import Json, print_json, print_line, print_rows, session, stderr

if TYPE_CHECKING:
    from service.bundling import TrainingChoice

models = typer.Typer(help="Base models: the starter, your own files, the hub's.", no_args_is_help=True)

_WHOLE = ("F32", "F16", "BF16")

Default = Annotated[bool, typer.Option("--default", help="Serve it from now on.")]


@models.command("list")
def list_models(ctx: typer.Context, as_json: Json = False) -> None:
    """List the models added so far, and the starter."""
    from service.views import model_view

    with session(ctx).workspace() as workspace:
        known = workspace.store.models.list()
        default = workspace.store.models.default()
    chosen = default.name if default else "starter"
    if as_json:
        print_json([{**model_view(model), "default": model.name == chosen} for model in known])
        return
    rows = [(model.name, model.architecture, model.source, "yes" if model.name == chosen else "") for model in known]
    print_rows(
        ("name", "architecture", "source", "default"),
        rows,
        "Only the packaged starter; add one with: ragtune models add",
    )


@models.command("add")
def add_model(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(help="A .gguf file, a Hugging Face folder or a hub id.")],
    name: Annotated[str, typer.Option("--name", "-n", help="What to call it.")],
    default: Default = False,
    as_json: Json = False,
) -> None:
    """Make a model usable under a name; a Hugging Face folder is converted to GGUF."""
    _add(ctx, source, name, default, as_json)


@models.command("pull")
def pull_model(
    ctx: typer.Context,
    source: Annotated[str, typer.Argument(help="A hub id, such as Qwen/Qwen2.5-1.5B-Instruct.")],
    name: Annotated[str | None, typer.Option("--name", "-n", help="What to call it; by default its last part.")] = None,
    default: Default = False,
    as_json: Json = False,
) -> None:
    """Fetch a model from the hub and make it usable."""
    called = name or source.partition(":")[0].rpartition("/")[2]
    _add(ctx, source, called, default, as_json)


@models.command("tune")
def tune_model(
    ctx: typer.Context,
    name: Annotated[str | None, typer.Argument(help="The model; the one that is served by default.")] = None,
    as_json: Json = False,
) -> None:
    """Measure again how a model is served fastest on this machine; close other work first."""
    with session(ctx).workspace(mutates=True) as workspace:
        model = workspace.model if name is None else workspace.models.resolve(name)
        tuning = workspace.tune(model)
    if as_json:
        print_json({"name": model.name, **asdict(tuning)})
    else:
        print_line(f"{model.name}: {tuning}.")


def _add(ctx: typer.Context, source: str, name: str, default: bool, as_json: bool) -> None:
    from data.model_files import STARTER
    from service.bundling import training_choice
    from service.engine.memory import check_memory, demand
    from service.views import model_view

    if name == STARTER:
        raise InvalidRequest(
            "This name is the packaged model's",
            got=name,
            wanted="another name",
            hint="Choose one with: --name NAME",
        )
    with session(ctx).workspace(mutates=True) as workspace:
        with ProgressView("pull") as view:
            resolved = workspace.models.resolve(source, _announced(source, view))
        check_memory(name, demand(resolved, workspace.fitting_options(resolved)))
        if resolved.source not in {known.source for known in workspace.store.models.list()}:
            resolved = workspace.models.choose_quantization(resolved)
        tuning = workspace.tune(resolved, anew=False)
        model: Model = replace(resolved, name=name)
        workspace.store.models.add(model, default)
        choice = training_choice(model)
    if as_json:
        found = None if choice is None else asdict(choice)
        print_json({**model_view(model), "default": default, "tuning": str(tuning), "training": found})
    else:
        print_line(f"{model.name} ({model.architecture}) is ready{', and the default' if default else ''}.")
        print_line(f"Fastest here: {tuning}.")
        if choice is not None:
            print_line(choice_text(choice))


def _announced(source: str, view: Report) -> Report:
    """Return what says once what is going to be fetched, then shows the progress."""
    told = False

    def report(progress: Progress) -> None:
        nonlocal told
        if progress.stage == "download" and not told:
            told = True
            about = progress.metrics
            size = f"{progress.total:,} MB" if progress.total else "less than 1 MB"
            text = f"{source}: {size}, licence {about['licence']}, revision {about['revision']}"
            stderr().print(text, markup=False)
        view(progress)

    return report


def choice_text(choice: TrainingChoice) -> str:
    """Return what training on a GGUF means, and what else there is, in a few lines."""
    gib = 1024**3
    size = f"{choice.bytes_dequantized / gib:.1f} GiB in 16 bits"
    rounded = (
        "" if choice.file_type in _WHOLE else f" What {choice.file_type} rounded away stays lost, in training too."
    )
    lines = [f"To train on it here, its weights are dequantized ({size}); not in 4 bits (qlora).{rounded}"]
    if choice.twin is not None:
        lines.append(f"It was made from {choice.twin}. To train that where a GPU is: ragtune bundle colab --out DIR")
    else:
        lines.append(
            "The file does not say what it was made from: ragtune bundle colab --base-model ORG/NAME --out DIR"
        )
    return "\n".join(lines)
