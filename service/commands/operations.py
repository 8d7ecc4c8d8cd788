"""Commands that run or keep the whole: serve, demo, doctor, backup, restore."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from data.errors import InvalidRequest
from service.commands.progress import ProgressView
from service.commands.session import FAILED, Json, print_fields, print_json, print_line, print_rows, session, stderr

_MARKS = {"ok": "ok", "warning": "note", "failed": "FAILED"}


def status(ctx: typer.Context, as_json: Json = False) -> None:
    """Tell where you are and what comes next."""
    from service.overview import overview

    found = overview(session(ctx).settings())
    if as_json:
        print_json(asdict(found))
        return
    jobs = ", ".join(f"{count} {name}" for name, count in found.jobs.items())
    fields = {"state": found.state_dir, "model": found.model, "serving": found.serving_at or "no"}
    fields |= {"adapters": ", ".join(found.adapters) or "none", "jobs": jobs or "none open"}
    print_fields(fields)
    rows = [
        (one.name, one.documents, one.chunks, one.generation, one.accepted_pairs, one.candidate_pairs)
        for one in found.collections
    ]
    if rows:
        print_rows(("collection", "documents", "chunks", "index", "accepted pairs", "to review"), rows, "")
    print_line("Next:")
    width = max((len(step.command) for step in found.next), default=0)
    for step in found.next:
        print_line(f"  {step.command:<{width}}  {step.why}")
    print_line(f"  {'ragtune --help':<{width}}  every command")


def serve(
    ctx: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 by default.")] = None,
    port: Annotated[int | None, typer.Option(min=0, max=65535, help="8000 by default; 0 for any free one.")] = None,
) -> None:
    """Serve the HTTP API until Ctrl-C."""
    from service.serve import serve as serve_until_stopped

    found = session(ctx)
    settings = found.settings(host=host, port=port)
    with found.factory(settings) as workspace, suppress(KeyboardInterrupt):  # Ctrl-C is how serving ends
        serve_until_stopped(workspace, on_ready=lambda url: stderr().print(f"Serving at {url}", markup=False))


def mcp(ctx: typer.Context) -> None:
    """Serve the tools ask, search and list_documents to an assistant that starts this command (stdio)."""
    from importlib.util import find_spec

    if find_spec("mcp") is None:
        raise InvalidRequest("The Model Context Protocol is not installed", hint="Next: pip install 'ragtune[mcp]'")
    from service.mcp_server import mcp_server

    with session(ctx).workspace() as workspace, suppress(KeyboardInterrupt):
        mcp_server(workspace).run("stdio")


def demo(
    ctx: typer.Context,
    serving: Annotated[
        bool | None, typer.Option("--serve/--no-serve", help="Serve at the end; DEMO_SERVE=0 also says no.")
    ] = None,
) -> None:
    """Run the whole loop on the sample documents, then serve it. A second run reuses what is finished."""
    from service.demo import run_demo

    found = session(ctx)
    run_demo(found.settings(demo_serve=serving), found.factory)


def backup(
    ctx: typer.Context,
    out: Annotated[Path, typer.Argument(help="The tar file to write; it must not exist.")],
    models: Annotated[bool, typer.Option("--models/--no-models", help="Also the base models, which are large.")] = True,
    as_json: Json = False,
) -> None:
    """Back the whole state up into one file, also while the service runs. It is as private as the documents."""
    from data.backup import write_backup

    with session(ctx).workspace() as workspace, ProgressView("backup") as report:
        written = write_backup(workspace.state, workspace.store, out, report, models=models)
    if as_json:
        print_json({"path": str(out.absolute()), **asdict(written)})
    else:
        print_line(f"{out}: {written.files} files, {written.size / 1e6:.1f} MB")


def restore(
    ctx: typer.Context,
    source: Annotated[Path, typer.Argument(help="A file that `ragtune backup` wrote.")],
    as_json: Json = False,
) -> None:
    """Unpack a backup into a new state directory (--state-dir), every file compared with its hash."""
    from data.backup import restore_backup

    root = session(ctx).settings().state_dir
    with ProgressView("restore") as report:
        found = restore_backup(source, root, report)
    if as_json:
        print_json({"state_dir": str(root.absolute()), **asdict(found)})
    else:
        print_line(f"{found.files} files are back in {root}. Next: ragtune index verify")


def doctor(
    ctx: typer.Context,
    engine: Annotated[bool, typer.Option("--engine/--no-engine", help="Also load the base model.")] = True,
    as_json: Json = False,
) -> None:
    """Check this machine and this installation, and say what to do."""
    from service.doctor import examine

    found = session(ctx)
    with found.factory(found.settings()) as workspace:
        findings = examine(workspace, engine=engine)
    healthy = all(finding.verdict != "failed" for finding in findings)
    if as_json:
        print_json({"healthy": healthy, "checks": [asdict(finding) for finding in findings]})
    else:
        rows = [(finding.check, _MARKS[finding.verdict], finding.found, finding.hint) for finding in findings]
        print_rows(("check", "", "found", "what to do"), rows, "")
    if not healthy:
        raise typer.Exit(FAILED)
