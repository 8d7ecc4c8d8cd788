"""Commands about who may use the HTTP service: keys, audit."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import Annotated

import typer

from service.commands.jobs import moment
from service.commands.session import Json, print_json, print_line, print_rows, session

keys = typer.Typer(help="API keys of the HTTP service.", no_args_is_help=True)

_DAY_S = 86_400


@keys.command("create")
def create_key(  # noqa: PLR0917  (typer's options)
    ctx: typer.Context,
    name: Annotated[str, typer.Argument(help="Whose key it is.")],
    scope: Annotated[
        list[str] | None,
        typer.Option(help="query, ingest, train or admin (all of them, the default); repeatable."),
    ] = None,
    collection: Annotated[list[str] | None, typer.Option(help="Only this one; repeatable; by default all.")] = None,
    requests_per_minute: Annotated[int | None, typer.Option(min=1)] = None,
    tokens_per_minute: Annotated[int | None, typer.Option(min=1, help="Prompt and answer together.")] = None,
    expires_days: Annotated[float | None, typer.Option(min=0.001, help="It ends by itself after so long.")] = None,
    as_json: Json = False,
) -> None:
    """Make an API key. It is shown once; only its hash is kept."""
    from data.access import check_scopes
    from data.state import check_name
    from data.store import KeyGrant

    ends = None if expires_days is None else time.time() + expires_days * _DAY_S
    bound = tuple(check_name(each, "collection name") for each in collection or ())
    grant = KeyGrant(check_scopes(scope or ["admin"]), bound, requests_per_minute, tokens_per_minute, ends)
    # Without the lock, so that a key can be made while the server runs.
    with session(ctx).workspace() as workspace:
        key_id, plaintext = workspace.store.keys.create(name, grant)
    if as_json:
        print_json({"id": key_id, "name": name, "key": plaintext, **asdict(grant)})
    else:
        print_line(plaintext)


@keys.command("list")
def list_keys(ctx: typer.Context, as_json: Json = False) -> None:
    """List keys, without their secrets."""
    with session(ctx).workspace() as workspace:
        found = workspace.store.keys.list()
    if as_json:
        told = [(key, {"id": key.id, "name": key.name, "created_at": key.created_at}) for key in found]
        print_json([{**row, "revoked_at": key.revoked_at, **asdict(key.grant)} for key, row in told])
        return
    rows = [
        (key.id, key.name, ", ".join(key.grant.scopes), ", ".join(key.grant.collections) or "all", moment(key.ended_at))
        for key in found
    ]
    print_rows(("id", "name", "may", "collections", "ended"), rows, "No keys: the service is open to this machine.")


@keys.command("revoke")
def revoke_key(ctx: typer.Context, key_id: Annotated[str, typer.Argument()]) -> None:
    """Make a key useless, at once."""
    with session(ctx).workspace() as workspace:
        workspace.store.keys.revoke(key_id)
    print_line(f"Key {key_id} is revoked.")


def audit(
    ctx: typer.Context, limit: Annotated[int, typer.Option(min=1, max=10_000)] = 100, as_json: Json = False
) -> None:
    """Show what was changed over HTTP and by which key, newest first."""
    with session(ctx).workspace() as workspace:
        found = workspace.store.audit.list(limit)
    if as_json:
        print_json([asdict(entry) for entry in found])
        return
    rows = [(moment(entry.created_at), entry.name, entry.action, str(entry.status)) for entry in found]
    print_rows(("when", "who", "what", "status"), rows, "Nothing was changed over HTTP yet.")
