"""The console script ``ragtune``: every command, put together.

The commands are in ``service.commands``; exit status 0 is success, 1 a failure that is explained on
standard error, 2 wrong usage, 130 Ctrl-C.
"""

from __future__ import annotations

import signal
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer

from service.commands import (
    adapters,
    blind,
    bundle,
    calibration,
    collections,
    database,
    documents,
    evaluation,
    jobs,
    keys,
    lineage,
    loop,
    models,
    operations,
    pairs,
    retriever,
    stages,
    stored,
    webhooks,
)
from service.commands.session import Commands, Session, set_up_logging

app = typer.Typer(
    name="ragtune",
    cls=Commands,
    help="Question answering over your own documents, tuned on them.",
    invoke_without_command=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"ragtune {version('ragtune')}")
        raise typer.Exit


@app.callback()
def options(
    ctx: typer.Context,
    state_dir: Annotated[
        Path | None, typer.Option(help="Where everything is kept; RAGTUNE_STATE_DIR, else ./var.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="Base model: starter, a name, a file, a hub id.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log to standard error.")] = False,
    _show_version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Question answering over your own documents, tuned on them. Alone it tells where you are and what comes next."""
    set_up_logging(verbose)
    ctx.obj = ctx.obj if isinstance(ctx.obj, Session) else Session()
    given = {"state_dir": state_dir, "model": model}
    ctx.obj.overrides.update({name: value for name, value in given.items() if value is not None})
    if ctx.invoked_subcommand is None:
        operations.status(ctx)


app.command()(operations.demo)
app.command()(operations.status)
app.command()(operations.serve)
app.command()(operations.mcp)
app.command()(documents.ingest)
app.command()(documents.chunks)
app.command()(documents.ask)
app.command()(documents.search)
app.add_typer(stored.documents, name="documents")
app.add_typer(collections.collections, name="collections")
app.command()(lineage.lineage)
app.add_typer(evaluation.evaluate, name="evaluate")
app.add_typer(pairs.pairs, name="pairs")
app.command()(adapters.train)
app.command()(adapters.export)
app.command()(bundle.bundle)
app.command()(evaluation.compare)
app.command()(blind.blind)
app.command()(calibration.calibrate)
app.command()(loop.loop)
app.add_typer(stages.commands, name="adapters")
app.add_typer(documents.index, name="index")
app.add_typer(retriever.retriever, name="retriever")
app.add_typer(models.models, name="models")
app.add_typer(jobs.jobs, name="jobs")
app.add_typer(keys.keys, name="keys")
app.command()(keys.audit)
app.add_typer(webhooks.webhooks, name="webhooks")
app.command()(operations.backup)
app.command()(operations.restore)
app.add_typer(database.database, name="database")
app.command()(operations.doctor)


def main() -> None:
    """Run the console script; what a supervisor or ``kill`` sends stops a command as Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    app()


if __name__ == "__main__":
    main()
