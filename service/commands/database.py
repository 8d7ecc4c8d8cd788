"""The command that takes the store from the state directory to a database server."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from data.errors import InvalidRequest
from service.commands.progress import ProgressView
from service.commands.session import Json, print_json, print_line, print_rows, session

database = typer.Typer(help="The database: documents, pairs, adapters, jobs, keys.", no_args_is_help=True)


@database.command("copy")
def copy_database(
    ctx: typer.Context,
    to: Annotated[
        str | None,
        typer.Option(help="postgresql://USER:PASSWORD@HOST:PORT/NAME; without it RAGTUNE_DATABASE_URL, which no "
                          "process list shows."),
    ] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Copy the SQLite database of the state directory into an empty one on a PostgreSQL server.

    In one transaction, every row read again and compared. The file is brought to this version
    and else stays as it is. No server may run meanwhile.
    """
    from data.state import StateDirectory
    from data.store import Store

    settings = session(ctx).settings()
    url = to or (settings.database_url.get_secret_value() if settings.database_url else "")
    if not url.startswith(("postgresql://", "postgres://", "postgresql+")):
        # The address may hold a password: it is not repeated.
        wanted = "postgresql://USER:PASSWORD@HOST:PORT/NAME"
        raise InvalidRequest("There is no server to copy to.", wanted=wanted, hint="Give --to.")
    state = StateDirectory(settings.state_dir)
    if not state.db.is_file():
        raise InvalidRequest("There is no database to copy.", got=str(state.db), hint="Name it: --state-dir DIR")
    with state.lock(), ProgressView("copy") as report, Store.open(state.db) as source, Store.open(url) as target:
        copied = source.copy_to(target, report)
    rows = sum(one.rows for one in copied)
    if as_json:
        print_json({"rows": rows, "tables": [asdict(one) for one in copied]})
        return
    print_rows(("table", "rows"), [(one.table, one.rows) for one in copied if one.rows], "")
    print_line(f"{rows} rows are there, equal to the last. {state.db} is still there.")
    print_line("Next: set RAGTUNE_DATABASE_URL to that address, keep the state directory, and run: ragtune doctor")
