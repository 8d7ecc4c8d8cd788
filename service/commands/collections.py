"""Commands about collections: list them, show and set their instructions and sampling defaults."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from data.errors import InvalidRequest
from service.commands.jobs import moment
from service.commands.session import Json, cli_actor, print_fields, print_json, print_line, print_rows, session

if TYPE_CHECKING:
    from service.workspace import Workspace

collections = typer.Typer(
    help="Collections: their own instructions, sampling defaults, adapters.", no_args_is_help=True
)

Named = Annotated[str, typer.Argument(metavar="NAME", help="The collection.")]


@collections.command("list")
def list_collections(ctx: typer.Context, as_json: Json = False) -> None:
    """List every collection."""
    from service.houses import collection_view

    with session(ctx).workspace() as workspace:
        found = [collection_view(workspace, name) for name in workspace.store.collections.names()]
    if as_json:
        print_json(found)
        return
    rows = [(c["name"], c["documents"], c["live_adapter"] or "", c["version"], _cut(c["instructions"])) for c in found]
    empty = "No collections yet: ragtune ingest PATH --collection NAME"
    print_rows(("name", "documents", "live adapter", "version", "instructions"), rows, empty)


@collections.command("show")
def show_collection(ctx: typer.Context, name: Named, as_json: Json = False) -> None:
    """Show a collection's instructions and sampling defaults, and every version of them."""
    from service.houses import collection_view, house_view

    with session(ctx).workspace() as workspace:
        view = collection_view(workspace, name)
        versions = [house_view(each) for each in workspace.store.houses.history(name)]
    if as_json:
        print_json({**view, "versions": versions})
        return
    print_fields(view)
    for each in versions:
        about = _cut(each["instructions"]) or "no instructions"
        print_line(f"{each['version']}  {moment(each['created_at'])}  {each['actor']}  {about}  {each['sampling']}")


@collections.command("set")
def set_collection(  # noqa: PLR0917  (typer's options)
    ctx: typer.Context,
    name: Named,
    instructions: Annotated[
        str | None, typer.Option(help='Stands behind the prompt\'s own instruction in every question; "" for none.')
    ] = None,
    instructions_file: Annotated[Path | None, typer.Option(exists=True, dir_okay=False)] = None,
    temperature: Annotated[float | None, typer.Option(min=0, max=2)] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, max=8192)] = None,
    top_k: Annotated[int | None, typer.Option(min=1, max=50, help="Passages.")] = None,
    version: Annotated[
        int | None, typer.Option(min=0, help="Go back to this version; 0 is as it was at first.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Set what a question to a collection takes that does not say; what is not named stays as it is."""
    from service.houses import house_view

    text = instructions_file.read_text(encoding="utf-8") if instructions_file else instructions
    changed = {"temperature": temperature, "max_tokens": max_tokens, "top_k": top_k}
    given: dict[str, Any] = {each: value for each, value in changed.items() if value is not None}
    if version is not None and (given or text is not None):
        raise InvalidRequest("A version brings its own settings", got=f"--version {version} and others", wanted="one")
    # Without the lock, so that it can be set while the server runs.
    with session(ctx).workspace() as workspace:
        houses = workspace.store.houses
        before = houses.current(name) if version is None else houses.get(name, version)
        workspace.store.collections.ensure(name)
        text = before.instructions if text is None else text
        house = houses.put(name, text, {**before.sampling, **given}, cli_actor())
        stale = _stale_by_prompt(workspace, name)
    if as_json:
        print_json(house_view(house))
        return
    print_line(f"{name} is at version {house.version}.")
    for label in stale:
        print_line(f"{label} was trained under other instructions: ragtune train --name {label.partition('@')[0]}")


def _stale_by_prompt(workspace: Workspace, name: str) -> list[str]:
    """Return the adapters of a collection that its prompt made stale."""
    from data.store import scope_of
    from service.arms import adapter_label
    from service.lineage import stale_because

    found = [each for each in workspace.store.adapters.list() if scope_of(each) == name]
    return [adapter_label(each) for each in found if "prompt" in stale_because(workspace.store, each)]


def _cut(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= 60 else f"{flat[:60]}…"
