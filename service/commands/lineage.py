"""The command that shows what something was made from, and what was made from it."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from service.commands.session import Json, print_json, print_line, session
from service.lineage import resolve, trace


def lineage(
    ctx: typer.Context,
    *,
    name: Annotated[str, typer.Argument(metavar="ID_OR_NAME", help="An adapter, a document's source, or any id.")],
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most things shown of each kind.")] = 10,
    as_json: Json = False,
) -> None:
    """Follow document, chunk, pair, row, adapter and answer both ways, each by its hash."""
    with session(ctx).workspace() as workspace:
        workspace.ensure_starter_adapters()
        kind, identity = resolve(workspace.store, name)
        found = trace(workspace.store, kind, identity, limit)
    if as_json:
        print_json(found)
        return
    print_line(f"{kind} {_line(found)}")
    if found.get("versions"):
        print_line(f"  other versions: {', '.join(found['versions'])}")
    for heading, side in (("made from", "made_from"), ("used by", "used_by")):
        for other, things in found[side].items():
            total = found["totals"][other]
            more = f", the first {len(things)}" if len(things) < total else ""
            print_line(f"{heading}: {total} {other}{'' if total == 1 else 's'}{more}")
            for thing in things:
                print_line(f"  {_line(thing)}")


_TOLD = ("source", "question", "text", "stage", "sha256")


def _line(thing: dict[str, Any]) -> str:
    told = [str(thing[name]) for name in _TOLD if thing.get(name) and thing[name] != thing["id"]]
    marks = [] if thing["present"] else ["gone"]
    marks += ["stale"] if thing.get("stale") or thing.get("adapter_stale") else []
    return "  ".join([thing["id"], *told, *(f"({mark})" for mark in marks)])
