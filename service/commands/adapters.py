"""Commands about adapters: train, export, and the registry."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer

from service.adapters import unpacked
from service.arms import adapter_label, find_adapter
from service.commands.foreground import run_here
from service.commands.progress import ProgressView
from service.commands.session import (
    Collection,
    Json,
    cli_actor,
    print_fields,
    print_json,
    print_line,
    print_rows,
    session,
)
from service.evidence import shadow_summary
from service.lineage import stale_because
from service.views import adapter_view

adapters = typer.Typer(help="Trained adapters: candidate, shadow, live, retired.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="NAME (its newest version) or NAME@VERSION.")]


def train(
    ctx: typer.Context,
    *,
    name: Annotated[str, typer.Option("--name", "-n", help="What to call the adapter.")] = "adapter",
    recipe: Annotated[
        str | None, typer.Option(help="A TOML file, or a packaged one: see --recipes; sensible values by default.")
    ] = None,
    recipes: Annotated[bool, typer.Option("--recipes", help="Train nothing: list the packaged recipes.")] = False,
    collection: Collection = "default",
    promote: Annotated[bool, typer.Option("--promote", help="Serve it if it passes the gate.")] = False,
    estimate: Annotated[
        bool, typer.Option("--estimate", help="Train nothing: measure how long it takes and how much memory it needs.")
    ] = False,
    inspect: Annotated[
        int | None, typer.Option(help="Train nothing: print the row of this number, what is trained in «guillemets».")
    ] = None,
    as_json: Json = False,
) -> None:
    """Train an adapter on the accepted pairs, export it to GGUF and compare the two. Resumes."""
    if recipes:
        from service.commands.training import show_recipes

        show_recipes(as_json)
        return
    inputs = {"name": name, "collection": collection, "recipe": recipe_option(recipe), "promote": promote}
    inputs |= {"actor": cli_actor()} if promote else {}
    if estimate or inspect is not None:
        from service.commands.training import show_before

        with session(ctx).workspace() as workspace:
            show_before(workspace, inputs, inspect, as_json)
        return
    with session(ctx).workspace(mutates=True) as workspace:
        outputs = run_here(workspace, "train", inputs)
    if as_json:
        print_json(outputs)
    else:
        print_line(trained_text(outputs))


def recipe_option(recipe: str | None) -> dict[str, Any]:
    """Return what the recipe of ``--recipe`` says.

    Raises:
        BadParameter: it is none.
    """
    from finetune.recipe import presets, recipe_values

    if recipe is not None and recipe not in presets() and not Path(recipe).is_file():
        wanted = f"a TOML file, or one of {', '.join(presets())}"
        raise typer.BadParameter(f"{recipe!r} is no recipe: {wanted}", param_hint="--recipe")
    return recipe_values(recipe) if recipe is not None else {}


def trained_text(outputs: dict[str, Any]) -> str:
    """Return what a training made, in one line."""
    metrics, parity = outputs.get("metrics", {}), outputs.get("parity") or {}
    agreement = parity.get("greedy_agreement")
    losses = [metrics[name] for name in ("loss_first", "loss_last") if name in metrics]
    held_out = [metrics[name] for name in ("eval_loss_first", "eval_loss_last") if name in metrics]
    parts = [
        f"{outputs['name']}@{outputs['version']} is {outputs.get('stage', 'candidate')}",
        f"{outputs['branches']} examples in {outputs['rows']} rows" if "rows" in outputs else "",
        f"loss {' → '.join(f'{loss:.3f}' for loss in losses)}" if losses else "",
        f"held out {' → '.join(f'{loss:.3f}' for loss in held_out)}" if held_out else "",
        f"the GGUF chooses the same token in {100 * agreement:.1f} %" if agreement is not None else "",
        forgetting_text(metrics.get("forgetting")),
        f"not promoted: {outputs['not_promoted']['detail']}" if outputs.get("not_promoted") else "",
    ]
    return ", ".join(filter(None, parts))


def forgetting_text(measured: dict[str, Any] | None) -> str:
    """Return what the forgetting probe found, in a few words; "" where it was not run."""
    if not measured:
        return ""
    before, after = (100 * measured["accuracy"][side] for side in ("before", "after"))
    return f"general questions {before:.0f} % → {after:.0f} %{'' if measured['passed'] else ' (forgets too much)'}"


@adapters.command("list")
def list_adapters(ctx: typer.Context, as_json: Json = False) -> None:
    """List every version of every adapter."""
    with session(ctx).workspace() as workspace:
        workspace.ensure_starter_adapters()
        found = [(adapter, stale_because(workspace.store, adapter)) for adapter in workspace.store.adapters.list()]
    if as_json:
        print_json([adapter_view(adapter, stale=stale) for adapter, stale in found])
        return
    rows = [(a.name, a.version, a.stage, a.base_model, a.attention, ", ".join(stale)) for a, stale in found]
    print_rows(("name", "version", "stage", "base model", "attention", "stale"), rows, "No adapters yet: ragtune train")


@adapters.command("show")
def show_adapter(ctx: typer.Context, name: Name, as_json: Json = False) -> None:
    """Show one adapter: recipe, parity, metrics, lineage."""
    with session(ctx).workspace() as workspace:
        workspace.ensure_starter_adapters()
        adapter = find_adapter(workspace.store, name)
        view = adapter_view(adapter, stale=stale_because(workspace.store, adapter))
        view["shadow"] = shadow_summary(workspace.store, adapter)
    if as_json:
        print_json(view)
    else:
        print_fields(view)


@adapters.command("import")
def import_from(
    ctx: typer.Context,
    path: Annotated[
        Path,
        typer.Argument(
            help="A peft LoRA: a folder with adapter_config.json and adapter_model.safetensors, or the ZIP file of a "
            "training elsewhere (ragtune bundle).",
            exists=True,
        ),
    ],
    name: Annotated[
        str | None, typer.Option("--name", "-n", help="What to call it; the folder's or file's name by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Convert a LoRA trained elsewhere, compare its GGUF with it, and register it as a candidate."""
    found = path.resolve()
    with session(ctx).workspace(mutates=True) as workspace, ExitStack() as opened:
        folder = found if found.is_dir() else opened.enter_context(unpacked(workspace.state, found))
        inputs = {"name": name or (found.name if found.is_dir() else found.stem), "folder": str(folder)}
        outputs = run_here(workspace, "import_adapter", inputs, title="import")
    if as_json:
        print_json(outputs)
    else:
        label = f"{outputs['name']}@{outputs['version']}"
        print_line(f"{trained_text(outputs)}; compare it, then: ragtune adapters promote {label}")


@adapters.command("delete")
def delete(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="NAME (all its versions) or NAME@VERSION.")],
    as_json: Json = False,
) -> None:
    """Delete an adapter and its files: the version named, or all of them."""
    from service.adapters import delete_adapter

    with session(ctx).workspace(mutates=True) as workspace:
        gone = delete_adapter(workspace, name, actor=cli_actor())
    labels = [adapter_label(adapter) for adapter in gone]
    if as_json:
        print_json({"deleted": labels})
    else:
        print_line(f"Deleted {', '.join(labels)}.")


def export(
    ctx: typer.Context,
    *,
    name: Name,
    out: Annotated[Path | None, typer.Option(help="Where to put the GGUF; beside the adapter by default.")] = None,
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge the adapter into its base: one GGUF that needs no adapter.")
    ] = False,
    quantize: Annotated[
        str | None, typer.Option(help="With --merge: q8_0, q6_k, q5_k_m, q4_k_m, …; f16 by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Write an adapter as a GGUF file that llama.cpp serves."""
    from service.export import export_adapter

    with session(ctx).workspace(mutates=True) as workspace:
        workspace.ensure_starter_adapters()
        adapter = find_adapter(workspace.store, name)
        with ProgressView("parity") as report:
            done = export_adapter(workspace, adapter, out, merge=merge, quantize=quantize, report=report)
    if as_json:
        print_json(done)
    else:
        print_line(
            f"{done['adapter']}: {done['file']} ({done['bytes'] / 1024**2:.1f} MiB, sha256 {done['sha256'][:16]}…)"
        )
        if measured := done.get("parity"):
            agreement = 100 * measured["greedy_agreement"]
            print_line(f"It chooses the same token in {agreement:.1f} %, KL {measured['kl']:.4f} nats per token.")
