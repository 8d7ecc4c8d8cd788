"""Commands about tuned embedders: tune, list, show, promote, delete."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from service.commands.foreground import run_here
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
from service.retrievers import retriever_view

retriever = typer.Typer(help="The embedder, tuned on the accepted pairs.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(help="NAME (its newest version) or NAME@VERSION.")]


@retriever.command("tune")
def tune_command(
    ctx: typer.Context,
    *,
    name: Annotated[str, typer.Option("--name", "-n", help="What to call it.")] = "retriever",
    collection: Collection = "default",
    epochs: Annotated[int | None, typer.Option(min=1, max=100, help="Passes over the questions; 3.")] = None,
    seed: Annotated[int, typer.Option(help="Decides the split and every draw.")] = 0,
    second_corpus: Annotated[
        Path | None,
        typer.Option(
            help="Where forgetting is measured: corpus.jsonl, queries.jsonl, qrels.tsv; the samples by default.",
            exists=True,
            file_okay=False,
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Tune the embedder on the accepted pairs; measure it on other documents and another corpus. Resumes."""
    inputs: dict[str, Any] = {"name": name, "collection": collection, "epochs": epochs, "seed": seed}
    if second_corpus is not None:
        inputs["second_corpus"] = str(second_corpus.resolve())
    with session(ctx).workspace(mutates=True) as workspace:
        outputs = run_here(workspace, "tune_retriever", inputs, title="tune")
    if as_json:
        print_json(outputs)
        return
    _print_figures(outputs)
    label = f"{outputs['name']}@{outputs['version']}"
    print_line(f"{label} is a {outputs['stage']}. To search with it: ragtune retriever promote {label}")


def _print_figures(view: dict[str, Any]) -> None:
    second = view["metrics"]["second_corpus"]
    corpora = {"held-out": view["metrics"]["held_out"], **({second["corpus"]: second} if second else {})}
    rows = []
    for corpus, held in corpora.items():
        for method in ("dense", "hybrid"):
            for figure, gain in held[method]["gain"].items():
                low, high = gain["ci"]
                sides = (f"{held[method][side][figure]:.3f}" for side in ("before", "after"))
                rows.append((corpus, method, figure, *sides, f"{gain['difference']:+.3f} ({low:+.3f} to {high:+.3f})"))
    print_rows(("questions", "method", "figure", "before", "after", "gain (95 % interval)"), rows, "Nothing measured")


@retriever.command("list")
def list_command(ctx: typer.Context, as_json: Json = False) -> None:
    """List every version of every tuned embedder."""
    with session(ctx).workspace() as workspace:
        views = [retriever_view(workspace.tuned, one) for one in workspace.tuned.all()]
    if as_json:
        print_json(views)
        return
    rows = []
    for view in views:
        gains = [view["metrics"]["held_out"][method]["gain"]["ndcg@10"] for method in ("dense", "hybrid")]
        shown = (f"{gain['difference']:+.3f}" for gain in gains)
        rows.append((view["name"], view["version"], view["stage"], view["collection"], *shown))
    columns = ("name", "version", "stage", "collection", "dense gain", "hybrid gain")
    print_rows(columns, rows, "No retrievers yet: ragtune retriever tune")


@retriever.command("show")
def show_command(ctx: typer.Context, name: Name, as_json: Json = False) -> None:
    """Show one tuned embedder: figures, recipe, data."""
    with session(ctx).workspace() as workspace:
        view = retriever_view(workspace.tuned, workspace.tuned.get(name))
    if as_json:
        print_json(view)
        return
    print_fields({key: value for key, value in view.items() if key not in ("metrics", "sha256")})
    _print_figures(view)


@retriever.command("promote")
def promote_command(
    ctx: typer.Context,
    *,
    name: Annotated[str, typer.Argument(help="NAME, NAME@VERSION, or base: the configured embedder.")],
    collection: Annotated[str | None, typer.Option("--collection", "-C", help="That it was tuned on.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Even if no gain was measured.")] = False,
    reason: Annotated[str, typer.Option("--reason", help="Why, for the log.")] = "",
    as_json: Json = False,
) -> None:
    """Index anew with it, then search with it; the old index serves meanwhile. Back: ragtune index rollback."""
    inputs = {"name": name, "collection": collection, "force": force, "actor": cli_actor(), "reason": reason}
    with session(ctx).workspace(mutates=True) as workspace:
        outputs = run_here(workspace, "promote_retriever", inputs, title="promote")
    if as_json:
        print_json(outputs)
    else:
        where = f"{outputs['collection']}, generation {outputs['index_generation']},"
        print_line(f"{where} is searched with {outputs['retriever']}.")


@retriever.command("delete")
def delete_command(ctx: typer.Context, name: Name, as_json: Json = False) -> None:
    """Delete a tuned embedder: the version named, or all of them; a live one stays."""
    with session(ctx).workspace(mutates=True) as workspace:
        labels = [one.label for one in workspace.tuned.delete(name)]
    if as_json:
        print_json({"deleted": labels})
    else:
        print_line(f"Deleted {', '.join(labels)}.")
