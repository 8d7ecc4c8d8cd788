"""Commands about the documents that are stored: list and delete."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from data.errors import UnknownDocument
from service.commands.session import Collection, Json, print_json, print_line, print_rows, session

if TYPE_CHECKING:
    from data.store import Store

documents = typer.Typer(help="The documents that are stored.", no_args_is_help=True)


@documents.command("list")
def list_documents(ctx: typer.Context, collection: Collection = "default", as_json: Json = False) -> None:
    """List every document of a collection."""
    from service.answerer import check_collection

    with session(ctx).workspace() as workspace:
        check_collection(workspace.store, collection)
        found = list(workspace.store.documents.by_source(collection).values())
    if as_json:
        print_json([asdict(row) for row in found])
        return
    rows = [(row.source, row.id, row.media_type, row.chunks) for row in found]
    print_rows(("source", "id", "type", "chunks"), rows, "No documents yet: ragtune ingest PATH")


@documents.command("delete")
def delete(
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(metavar="ID_OR_SOURCE", help="The document.")],
    collection: Collection = "default",
    as_json: Json = False,
) -> None:
    """Delete a document everywhere, and say which adapters were trained on it."""
    from service.deletion import delete_document

    with session(ctx).workspace(mutates=True) as workspace:
        done = delete_document(workspace, _id_of(workspace.store, collection, name))
    if as_json:
        print_json(done)
        return
    for row in done["deleted"]:
        print_line(f"Deleted {row['source']}.")
    for row in done["adapters"]:
        why = "is stale" if row["role"] == "gold" else "was shown it in training"
        print_line(f"{row['adapter']} ({row['stage']}) {why}: train it again to take out what it learnt.")


def _id_of(store: Store, collection: str, name: str) -> str:
    known = store.documents.by_source(collection)
    if name in known:
        return known[name].id
    if any(row.id == name for row in known.values()):
        return name
    raise UnknownDocument("No such document", got=name, hint="ragtune documents list shows them.")
